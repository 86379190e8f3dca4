"""UniversalVTG over the videos of an index: which frames it reads, its words, its files, and an engine that has it."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from tests.fakes import ColourEncoder
from tests.grounded import write_numbers
from vidret.engine import Engine
from vidret.errors import DecodeError, VidretError
from vidret.ground.universalvtg import UniversalVtg, decode_levels, save_universal
from vidret.search.heads.base import GroundedVideo
from vidret.search.heads.frames import FrameGrounder
from vidret.types import Frames
from vidret.video.identity import fingerprint

DIM, NAME = 32, "UniversalTower"


@pytest.fixture(scope="module", autouse=True)
def _tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make a small tower known, whose text states are as wide as its vectors, as those of PE-Core-L are."""
    folder = tmp_path_factory.mktemp("towers")
    text = {"context_length": 12, "vocab_size": 49408, "width": DIM, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    config = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": text}
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    (folder / f"{NAME}.json").unlink()
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    torch.manual_seed(0)
    save_universal(UniversalVtg(DIM, DIM, 64), path, backbone=f"{NAME}/random")
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("films") / "film.mp4", range(40), rate=4)


def describe(path: Path) -> GroundedVideo:
    return GroundedVideo(path=str(path), content=fingerprint(path), duration=10.0)


class TimeReader:
    """In place of the tower: a frame's vector is its time."""

    def __init__(self, tower: Any) -> None:
        self.resize = tower.resize

    def encode_frames(self, frames: Frames) -> np.ndarray:
        return frames.times[:, None].astype(np.float32)


def test_frames_are_those_in_the_middle_of_half_seconds(head: Path, film: Path, tmp_path: Path) -> None:
    grounder = FrameGrounder(head, tmp_path)
    grounder._encoder = TimeReader(grounder._encoder)  # type: ignore[assignment]
    np.testing.assert_allclose(grounder._encode_video(describe(film), 60.0)[:, 0], 0.25 + 0.5 * np.arange(20))


def test_words_are_the_vector_of_the_text_and_the_states_of_its_tokens(
    head: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grounder = FrameGrounder(head, tmp_path)
    model, ids = grounder._encoder._model, grounder._encoder._tokenizer(["a red door"])
    with torch.no_grad():
        sentence = model.encode_text(ids)[0]
    words = grounder.read("a red door").layers[0]
    assert words.shape == (1 + 5, DIM)  # the text; start, three words, end
    np.testing.assert_allclose(words[0], sentence.numpy(), atol=1e-6)
    assert abs(np.linalg.norm(words[0]) - 1) > 1e-3
    np.testing.assert_allclose(
        words[-1] @ model.text_projection.detach().numpy(), words[0], atol=1e-5
    )  # states, unprojected
    assert "tokens" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert len(grounder.read("a " * 40).layers[0]) == 13
    assert "reads the first 12 tokens" in caplog.text


def test_vectors_are_stored_once_and_computed_again_if_damaged(
    head: Path, film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grounder, video = FrameGrounder(head, tmp_path), describe(film)
    text = grounder.read("a red door")
    first = grounder.answer(text, video)
    assert first
    frames = torch.from_numpy(grounder._encode_video(video, 60.0)).half().float()
    with torch.no_grad():
        levels = grounder._head(frames, torch.from_numpy(text.layers[0]))
    assert first == decode_levels(levels, duration=10.0)
    assert len(grounder.rate_frames(text, video)) == 20
    path = grounder.prepare(video)
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        assert grounder.answer(text, video) == first
    assert "computed again" in caplog.text
    assert not grounder.files.is_kept(video.content)
    kept = grounder.prepare(video, keep=True)
    assert grounder.files.is_kept(video.content)
    assert kept == grounder.prepare(video)
    later = GroundedVideo(path=video.path, content=video.content, duration=15.0, start=5.0)
    moved = [(span.start + 5, span.end + 5, span.score) for span in first]
    np.testing.assert_allclose([tuple(span) for span in grounder.answer(text, later)], moved, atol=1e-6)


def test_missing_videos_are_left_out(head: Path, film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grounder = FrameGrounder(head, tmp_path)
    text, gone = grounder.read("a door"), tmp_path / "gone.mp4"
    shutil.copy(film, gone)
    video = describe(gone)
    gone.unlink()
    with pytest.raises(DecodeError):
        grounder.answer(text, video)
    answers = grounder.answer_many(text, [video, describe(film)])
    assert answers[0] is None
    assert answers[1]
    assert "the head left out" in caplog.text


def test_widths_must_match(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_universal(UniversalVtg(DIM, 48, 64), path, backbone=f"{NAME}/random")
    with pytest.raises(VidretError, match=r"must be \(32, 48\) wide, got \(32, 32\)"):
        FrameGrounder(path, tmp_path)


def test_an_index_of_any_encoder_locates_with_the_head(head: Path, film: Path, tmp_path: Path) -> None:
    with Engine(tmp_path / "index", ColourEncoder(), head=head) as engine:
        engine.index([film])
        engine.prepare_moments()
        grounder = engine.grounder
        assert isinstance(grounder, FrameGrounder)
        assert grounder.files.is_kept(describe(film).content)
        moments = engine.locate("a red door", video=film, overlapping=True, weak=True)
        spans = grounder.answer(grounder.read("a red door"), describe(film))
    np.testing.assert_allclose([(one.start, one.end) for one in moments], [span[:2] for span in spans], atol=1e-3)
