"""Edges of moments made precise at query time: on films of colours, and on scores made by hand."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ColourEncoder, write_film
from vidret.channels.picture.evidence import FrameScorer
from vidret.engine import Engine
from vidret.search.edges import MAX_REMEMBERED, NUM_FRAMES, EdgeRefiner
from vidret.types import Curve, Frames, Moment, SegmentEmbedding
from vidret.video.workers.image_pool import ImagePool

SCENES = (("red", 3.4), ("blue", 4.0), ("green", 3.2))  # no cuts: plain colours have no texture
TRUE = (3.4, 7.4)
WITHIN_S = 0.1001  # half of the time between two frames
ALL: dict[str, Any] = {"overlapping": True, "weak": True}


class AloneEncoder(ColourEncoder):
    """Encodes each frame on its own."""

    encodes_frames_alone = True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edges")
    write_film(folder / "a.mp4", *SCENES)
    with Engine(folder / "index", AloneEncoder(), rerank="none") as engine:
        engine.index([folder / "a.mp4"])
    return folder


@pytest.fixture
def engine(made: Path) -> Iterator[Engine]:
    with Engine(made / "index", AloneEncoder(), rerank="none") as engine:
        yield engine


def locate(engine: Engine, query: str = "blue", **options: Any) -> Moment:
    return engine.locate(query, 1, **ALL, **options)[0]


@pytest.mark.parametrize(("query", "edges"), [("blue", TRUE), ("blue -green", TRUE), ("red", (0.0, TRUE[0]))])
def test_edges_are_precise_but_for_the_ends_of_a_video(engine: Engine, query: str, edges: tuple[float, float]) -> None:
    coarse, fine = locate(engine, query), locate(engine, query, refine_edges=True)
    assert query != "blue" or max(abs(coarse.start - edges[0]), abs(coarse.end - edges[1])) > WITHIN_S
    assert (fine.start, fine.end) == pytest.approx(edges, abs=WITHIN_S)
    assert edges[0] > 0 or fine.start == 0
    assert (fine.score, fine.similarity, fine.by) == (coarse.score, coarse.similarity, "curve")


def test_three_frames_an_edge_are_encoded_and_remembered(engine: Engine) -> None:
    encoder = cast(AloneEncoder, engine.encoder)
    first = locate(engine, refine_edges=True)
    num_encoded = encoder.num_frames
    assert 0 < num_encoded <= 2 * 3
    assert locate(engine, refine_edges=True) == first
    assert encoder.num_frames == num_encoded


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_video_that_cannot_be_read_is_not_refined(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    shutil.copytree(made, tmp_path / "made")
    film = tmp_path / "made" / "b.mp4"
    write_film(film, ("black", 1.0), *SCENES)
    with Engine(tmp_path / "made" / "index", AloneEncoder(), rerank="none") as engine:
        engine.index([film])
        video = next(listed.id for listed in engine.videos() if str(film) in listed.paths)
        coarse = locate(engine, video=video)
        if change == "gone":
            film.unlink()
        else:
            write_film(film, ("white", 3.0), ("black", 9.0))
        assert locate(engine, video=video, refine_edges=True) == coarse
    reason = "does not exist" if change == "gone" else "has changed since it was indexed"
    assert [record.message.startswith("edges are not refined: ") for record in caplog.records] == [True]
    assert reason in caplog.text


def test_an_encoder_of_whole_segments_refines_nothing(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(made / "index", ColourEncoder(), rerank="none") as engine:
        assert locate(engine, refine_edges=True) == locate(engine)
    assert "colours encodes frames together" in caplog.text


class FakePool:
    """Returns frames whose level is their time in hundredths of a second, each the nearest of a rate."""

    def __init__(self, fps: float) -> None:
        self.fps = fps

    def read_frames(self, _path: str, _stat: object, times_s: Sequence[float], _resize: object) -> Frames:
        times = np.unique(np.rint(np.array(times_s) * self.fps) / self.fps)
        return Frames(np.rint(times * 100).astype(np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3), times)


class LevelEncoder(AloneEncoder):
    """The vector of a frame is the score that is planned for its level."""

    def __init__(self, plan: Sequence[float]) -> None:
        super().__init__()
        self.plan = plan

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        vectors = [np.array([[self.plan[int(frames.pixels[0, 0, 0, 0])], 0, 0]], np.float32) for frames in batch]
        return [SegmentEmbedding(rows[0], rows, frames.times) for rows, frames in zip(vectors, batch, strict=True)]


@settings(max_examples=30)
@given(data=st.data(), fps=st.sampled_from([3.0, 25.0, 60.0]))
def test_an_edge_lies_where_the_score_crosses_the_middle(
    data: st.DataObject, fps: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the scores between the stored frames are, they change sides at the edge."""
    path = tmp_path_factory.getbasetemp() / "film"
    path.touch()
    plan = data.draw(st.lists(st.floats(0, 1, width=32), min_size=256, max_size=256))
    times = np.arange(3) * 1.0 + 0.2
    times = np.concatenate([times[:1] - 0.1, times + 0.0]) if data.draw(st.booleans()) else times
    scores = np.array([0.0] * (len(times) - 2) + [1.0, 1.0])
    curve = Curve(scores, times, 0.0, 3.0, best=1.0)
    start = float(times[-3] + times[-2]) / 2
    moment = Moment(1, str(path), start, 3.0, 1.0)
    refiner = EdgeRefiner(LevelEncoder(plan))
    refiner._pool = cast(ImagePool, FakePool(fps))
    fine = refiner.refine([moment], {1: (curve, FrameScorer(np.array([1, 0, 0], np.float32), ()))}, {})[0]
    assert fine.end == 3.0
    assert times[-3] <= fine.start <= times[-2]
    seen = {time: vector[0] for time, vector in refiner._remembered.values()} | {times[-3]: 0.0, times[-2]: 1.0}
    assert len(refiner._remembered) <= 3 <= NUM_FRAMES
    below = [time for time in seen if time <= fine.start + 1e-9]
    above = [time for time in seen if time >= fine.start - 1e-9]
    assert seen[max(below)] < 0.5 or seen[min(above)] >= 0.5
    assert fine.start == pytest.approx((max(below) + min(above)) / 2, abs=0.5 / fps + 1e-9)


@pytest.mark.parametrize("limit", [MAX_REMEMBERED, 1])
def test_an_edge_that_two_moments_share_stays(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.search.edges.MAX_REMEMBERED", limit)  # vectors; there are more edges
    times = np.arange(6) + 0.5
    curve = Curve(np.array([0.0, 1.0, 1.0, 0.8, 0.8, 0.0]), times, 0.0, 6.0, best=1.0)
    moments = [Moment(1, __file__, 1.0, 3.0, 2.0), Moment(1, __file__, 3.0, 5.0, 1.0)]
    refiner = EdgeRefiner(LevelEncoder(np.linspace(0, 1, 600).tolist()))
    refiner._pool = cast(ImagePool, FakePool(25.0))
    fine = refiner.refine(moments, {1: (curve, FrameScorer(np.array([1, 0, 0], np.float32), ()))}, {})
    assert fine[0].end == fine[1].start == 3.0
    assert (fine[0].start, fine[1].end) != (1.0, 5.0)


def test_edges_at_cuts_and_gaps_stay() -> None:
    scores, times = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0]), np.arange(6) + 0.5
    curve = Curve(scores, times, 0.0, 6.0, best=1.0, cuts=(1.0,), gaps=((4.0, 4.2),))
    moment = Moment(1, __file__, 1.0, 4.0, 1.0)
    refiner = EdgeRefiner(LevelEncoder(np.linspace(0, 1, 600).tolist()))
    refiner._pool = cast(ImagePool, FakePool(25.0))
    assert refiner.refine([moment], {1: (curve, FrameScorer(np.array([1, 0, 0], np.float32), ()))}, {}) == [moment]
