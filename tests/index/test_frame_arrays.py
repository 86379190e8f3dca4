"""Indexing frames in memory: equal to indexing their file, kept without one, and refused where they are invalid."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import COLOURS, ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.cutting import cut_moments
from vidret.serve.files import open_video
from vidret.video.files import stat_file
from vidret.video.probe import probe
from vidret.video.reader import read_frames

SCENES = (("red", 3), ("black", 4), ("blue", 3))


def paint(*colours: str) -> np.ndarray:
    """Return a frame of each colour."""
    return np.stack([np.full((12, 16, 3), COLOURS[name], np.uint8) for name in colours])


@pytest.mark.parametrize("shots", [True, False], ids=["shots", "grid"])
def test_frames_give_the_segments_vectors_and_moments_of_their_file(tmp_path: Path, shots: bool) -> None:
    film = write_film(tmp_path / "film.mp4", *SCENES)
    info = probe(film)
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([film], shots=shots)
        frames = read_frames(str(film), indices=range(info.num_frames)).pixels
        made = engine.index_frames("film", frames, info.times, duration_s=info.duration)
        assert (made.paths, made.complete, made.facts["width"]) == (("frames://film",), True, 64)
        assert engine.shots("frames://film") == engine.shots(film)
        table = engine.embeddings("frame")
        is_made = np.array([path == "frames://film" for path in table.paths])
        assert np.array_equal(table.times[is_made], table.times[~is_made])
        assert np.allclose(table.vectors[is_made], table.vectors[~is_made], atol=1e-3)
        assert {hit.path for hit in engine.search("blue")} == {str(film), "frames://film"}
        for query in ("red", "blue"):
            spans = [[(m.start, m.end) for m in engine.locate(query, video=name)] for name in (film, "film")]
            assert spans[0] == spans[1] != []


def test_frames_without_a_file_are_kept_and_say_so(tmp_path: Path) -> None:
    encoder, times = ColourEncoder(), np.arange(6.0)
    with Engine(tmp_path / "index", encoder) as engine:
        first = engine.index_frames("cam/1", paint(*["red"] * 3, *["blue"] * 3), times)
        assert first.duration == 6.0
        num_encoded = encoder.num_frames
        again = engine.index_frames("cam/2", paint(*["red"] * 3, *["blue"] * 3), times)
        assert again.id == first.id
        assert again.paths == ("frames://cam/1", "frames://cam/2")
        assert encoder.num_frames - num_encoded < 6, "more than the check of the encoder"
        (tmp_path / "films").mkdir()
        (tmp_path / "films" / "bad.mp4").write_text("no video")
        assert (engine.index([tmp_path / "films"], prune=True).missing, len(engine.videos())) == (0, 1)
        moments = engine.locate("red", video="frames://cam/1")
        tries: list[Callable[[], object]] = [
            lambda: stat_file("frames://cam/1"),
            lambda: cut_moments(moments, tmp_path),
            lambda: open_video(engine, again),
        ]
        for needs_file in tries:
            with pytest.raises(VidretError, match=r"^frames://cam/1: was indexed from frames in memory, and has no"):
                needs_file()
        replaced = engine.index_frames("cam/1", paint(*["yellow"] * 6), times)
        assert {video.id: video.paths for video in engine.videos()} == {
            first.id: ("frames://cam/2",),
            replaced.id: ("frames://cam/1",),
        }
        assert engine.search("yellow")[0].path == "frames://cam/1"


TWO = paint("red", "blue")


@pytest.mark.parametrize(
    ("name", "frames", "times", "duration_s", "rule"),
    [
        ("", TWO, [0, 1], None, "name must be printable"),
        ("a?b", TWO, [0, 1], None, "name must be printable"),
        ("s3://a", TWO, [0, 1], None, "name must be printable"),
        ("a", TWO.astype(np.float32), [0, 1], None, "frames must be uint8"),
        ("a", TWO[0], [0, 1], None, "frames must be uint8"),
        ("a", TWO[:0], [], None, "frames must be uint8"),
        ("a", TWO, [0], None, "times_s must have one time per frame"),
        ("a", TWO, [1, 1], None, "times_s must be finite, not negative and ascending"),
        ("a", TWO, [-1, 1], None, "times_s must be finite, not negative and ascending"),
        ("a", TWO, [0, np.inf], None, "times_s must be finite, not negative and ascending"),
        ("a", TWO[:1], [0], None, "duration_s must be given for a single frame"),
        ("a", TWO, [0, 1], 1.0, "duration_s must be after the last frame, at 1 s, got 1"),
    ],
)
@pytest.mark.wrong_shapes
def test_invalid_frames_are_refused_and_leave_nothing(
    tmp_path: Path, name: str, frames: np.ndarray, times: list[float], duration_s: float | None, rule: str
) -> None:
    with Engine(tmp_path / "index", ColourEncoder()) as engine, pytest.raises(VidretError, match=f"^{rule}"):
        engine.index_frames(name, frames, np.array(times, np.float64), duration_s=duration_s)
    assert not (tmp_path / "index").exists()
