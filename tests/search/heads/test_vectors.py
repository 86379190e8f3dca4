"""A head over stored frame vectors: its inputs, long videos, and files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import ColourEncoder
from vidret.errors import VidretError
from vidret.ground.checkpoint import VECTORS, HeadCard, load_head, save_head
from vidret.ground.head import GroundingHead
from vidret.search.heads.vectors import (
    NUM_EXTRA,
    VectorGrounder,
    ground_vectors,
    make_inputs,
    place_vectors,
    stack_words,
)
from vidret.types import Segment, TextEmbedding

DIM, WIDTH, HEADS = 7, 16, 2
CPU = torch.device("cpu")


def make_head(*, tef: bool = True) -> GroundingHead:
    torch.manual_seed(0)
    head = GroundingHead(DIM + NUM_EXTRA, DIM, WIDTH, num_layers=1, heads=HEADS, strides=(1, 2), tef=tef).eval()
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return head.double()


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return scaled


def draw(num_steps: int, num_words: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_steps)
    vectors, words = rng.standard_normal((num_steps, DIM)), rng.standard_normal((num_words, DIM))
    return unit(vectors).astype(np.float32), unit(words).astype(np.float32)


def test_inputs_are_vector_similarity_and_change() -> None:
    vectors, words = draw(6, 2)
    inputs = make_inputs(vectors, words[-1])
    similarities = [float(sum(a * b for a, b in zip(row, words[-1], strict=True))) for row in vectors]
    mean = sum(similarities) / 6
    deviation = math.sqrt(sum((similarity - mean) ** 2 for similarity in similarities) / 6)
    for step in range(6):
        before = vectors[step - 1] if step else vectors[step]
        np.testing.assert_allclose(inputs[step, :DIM], vectors[step])
        assert inputs[step, DIM] == pytest.approx((similarities[step] - mean) / deviation, abs=1e-5)
        assert inputs[step, DIM + 1] == pytest.approx(1 - float(before @ vectors[step]), abs=1e-6)
    np.testing.assert_allclose(make_inputs(np.repeat(vectors[:1], 4, axis=0), words[-1])[:, DIM:], 0, atol=1e-3)


def test_vectors_are_placed_by_time() -> None:
    segments = [Segment(1, 0, 2.0, 5.0), Segment(1, 1, 5.0, 7.0)]
    frames = [np.eye(7)[:3], np.eye(7)[3:5]]
    times = [np.array([2.5, 3.5, 4.5]), np.array([5.5, 6.5])]
    np.testing.assert_array_equal(place_vectors(segments, frames, times, first=2.0, fps=1.0), np.eye(7)[:5])
    half = place_vectors(segments, frames, times, first=2.0, fps=0.5)
    np.testing.assert_array_equal(half, np.eye(7)[[0, 3]], err_msg="5 s lies in the second segment")


def test_windows_of_a_long_video_are_joined() -> None:
    head, (vectors, words) = make_head().float(), draw(200, 3)
    text = stack_words(TextEmbedding("a", words[-1], words[:-1]))
    np.testing.assert_array_equal(text.layers[0], words)
    result = ground_vectors(head, vectors, text, fps=1.0, device=CPU)
    assert len(result.saliency) == 200
    assert (result.spans[:-1, 2] >= result.spans[1:, 2]).all()
    short = ground_vectors(head, vectors[:50], text, fps=1.0, device=CPU)
    projected = head.prepare([torch.from_numpy(make_inputs(vectors[:50], words[-1]))[None, :, None]])
    (alone,) = head.decode(head(projected, torch.from_numpy(text.layers)[None]), fps=1.0)
    np.testing.assert_allclose(short.saliency, alone.saliency, atol=1e-6)
    np.testing.assert_allclose(short.spans, alone.spans, rtol=1e-5)


def test_file_of_a_head_over_vectors_of_any_dimension_round_trips(tmp_path: Path) -> None:
    head, path = make_head().float(), tmp_path / "head.safetensors"
    card = HeadCard.describe(head, backbone="made-up", fps=1.0, reads=VECTORS)
    save_head(head, card, path)
    again, loaded_card = load_head(path)
    assert loaded_card == card
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


class SevenColours(ColourEncoder):
    dim = DIM


def test_a_head_reads_only_vectors_of_its_encoder_at_its_rate(tmp_path: Path) -> None:
    head, path = make_head().float(), tmp_path / "head.safetensors"
    for rate, expected in ((2.0, 2.0), (None, 0.5)):
        save_head(head, HeadCard.describe(head, backbone=ColourEncoder.name, fps=rate, reads=VECTORS), path)
        assert VectorGrounder(path, SevenColours()).fps == expected
    with pytest.raises(VidretError, match="vectors must have 7 dimensions, got 3 of colours"):
        VectorGrounder(path, ColourEncoder())
    save_head(head, HeadCard.describe(head, backbone="other", fps=None, reads=VECTORS), path)
    with pytest.raises(VidretError, match="must read vectors of other, got an index of colours"):
        VectorGrounder(path, SevenColours())
