"""A head over stored frame vectors: R2 with K = 1, against loops written from the paper."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vidret.ground.checkpoint import VECTORS, HeadCard, load_head, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.vectors import NUM_EXTRA, ground_vectors, make_inputs, place_vectors, stack_words
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


# Naive twin


def normalise(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    out: np.ndarray = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return out


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    out: np.ndarray = x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
    return out


def project(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    hidden = np.maximum(linear(normalise(x, weights, f"{name}.0"), weights, f"{name}.2"), 0)
    return linear(normalise(hidden, weights, f"{name}.4"), weights, f"{name}.6")


def attend(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, weights: dict[str, np.ndarray], name: str
) -> np.ndarray:
    q, k, v = (
        linear(x, weights, f"{name}.{kind}") for x, kind in ((queries, "query"), (keys, "key"), (values, "value"))
    )
    mixed = np.zeros_like(q)
    size = WIDTH // HEADS
    for part in (slice(head * size, (head + 1) * size) for head in range(HEADS)):
        for row in range(len(q)):
            logits = np.array([q[row, part] @ k[other, part] for other in range(len(k))]) / math.sqrt(size)
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            mixed[row, part] = sum(share * v[other, part] for other, share in enumerate(shares))
    return linear(mixed, weights, f"{name}.out")


def refine_naively(head: GroundingHead, inputs: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the refined frames of R2 with one layer, of which each frame has one token."""
    weights = {name.removeprefix("block."): value.detach().numpy() for name, value in head.state_dict().items()}
    num_steps = len(inputs)
    rows = []
    for step, own in enumerate(inputs):
        ends = [step / num_steps, (step + 1) / num_steps] if head.block.tef else []
        rows.append(project(np.array([*own, *ends], np.float64), weights, "video_map"))
    frames, tokens = np.array(rows), project(words.astype(np.float64), weights, "query_map")
    x = np.zeros_like(frames)
    for step in range(num_steps):  # softmax over one token is 1
        pooled = np.max([frames[step] + token for token in tokens], axis=0)
        x[step] = frames[step] + math.tanh(weights["scales"][0]) * pooled
    positions = np.zeros_like(x)
    for step in range(num_steps):
        for channel in range(WIDTH):
            angle = (step + 1) / (num_steps + 1e-6) * 2 * math.pi / 10000 ** (2 * (channel // 2) / WIDTH)
            positions[step, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    cross = attend(x + positions, tokens, tokens, weights, "refine.cross")
    x = normalise(x + cross, weights, "refine.cross_norm")
    own = attend(x + positions, x + positions, x, weights, "refine.own")
    x = normalise(x + own, weights, "refine.own_norm")
    mlp = linear(np.maximum(linear(x, weights, "refine.mlp.0"), 0), weights, "refine.mlp.2")
    return normalise(x + mlp, weights, "refine.mlp_norm")


@torch.no_grad()
@pytest.mark.parametrize("tef", [True, False])
@pytest.mark.parametrize(("num_steps", "num_words"), [(1, 1), (2, 3), (9, 4)])
def test_one_layer_of_vectors_equals_the_naive_twin(num_steps: int, num_words: int, tef: bool) -> None:
    head = make_head(tef=tef)
    vectors, words = draw(num_steps, num_words)
    inputs = make_inputs(vectors, words[-1])
    projected = head.prepare([torch.from_numpy(inputs).double()[None, :, None]])
    refined = head.block(projected, torch.from_numpy(words).double()[None, None])
    np.testing.assert_allclose(refined.video[0].numpy(), refine_naively(head, inputs, words), atol=1e-9)


def test_inputs_are_vector_similarity_and_change() -> None:
    vectors, words = draw(6, 2)
    inputs = make_inputs(vectors, words[-1])
    similarities = [float(sum(a * b for a, b in zip(row, words[-1], strict=True))) for row in vectors]
    mean = sum(similarities) / 6
    deviation = math.sqrt(sum((each - mean) ** 2 for each in similarities) / 6)
    for step in range(6):
        before = vectors[step - 1] if step else vectors[step]
        np.testing.assert_allclose(inputs[step, :DIM], vectors[step])
        assert inputs[step, DIM] == pytest.approx((similarities[step] - mean) / deviation, abs=1e-5)
        assert inputs[step, DIM + 1] == pytest.approx(1 - float(before @ vectors[step]), abs=1e-6)
    still = make_inputs(np.repeat(vectors[:1], 4, axis=0), words[-1])
    np.testing.assert_allclose(still[:, DIM:], 0, atol=1e-3)


def test_vectors_are_placed_by_time() -> None:
    segments = [Segment(1, 0, 2.0, 5.0), Segment(1, 1, 5.0, 7.0)]
    frames = [np.eye(7)[:3], np.eye(7)[3:5]]
    times = [np.array([2.5, 3.5, 4.5]), np.array([5.5, 6.5])]
    placed = place_vectors(segments, frames, times, first=2.0, fps=1.0)
    np.testing.assert_array_equal(placed, np.eye(7)[:5])
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
    again, own = load_head(path)
    assert own == card
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
