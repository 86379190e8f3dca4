"""Depth of the coarse search: as deep as needed to find k videos, and no deeper."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.calibration import Calibration, measure_calibration
from vidret.channels.picture.channel import NEAREST_SEGMENTS, SEGMENTS_PER_VIDEO, PictureChannel, _limit_per_video
from vidret.channels.picture.evidence import UNKNOWN
from vidret.channels.picture.ranking import FrameRanker
from vidret.search.curves import read_curve
from vidret.search.fusion import make_question
from vidret.search.hits import find_hits
from vidret.search.models import Models
from vidret.search.open_index import OpenIndex
from vidret.search.query.planning import plan
from vidret.store.records import NewSegment
from vidret.store.snapshots.snapshot import Selection
from vidret.store.store import Store
from vidret.types import (
    ALL_VIDEOS,
    CANDIDATES,
    Filters,
    Hit,
    Resize,
    Sampling,
    SearchOptions,
    SegmentEmbedding,
    TextEmbedding,
)

DIM = 16
AXIS = np.eye(1, DIM, dtype=np.float32)[0]
TEXT = TextEmbedding("axis", AXIS, AXIS[None])
QUERY = EncodedQuery(positive=TEXT)


class AxisEncoder:
    """An encoder whose texts are all opposite to the query, which is the first axis."""

    name = fingerprint = "axes"
    dim = DIM
    resize = Resize(shorter=32, crop=32)
    sampling = Sampling(num_frames=4, fps=1.0)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [TextEmbedding(text, -AXIS, -AXIS[None]) for text in texts]


def write_index(folder: Path, similarities: Sequence[float], num_segments: int) -> None:
    """Store one video for each similarity, which all its segments have with the query, about."""
    rng = np.random.default_rng(0)
    with Store.create(folder / "index", encoder_name="axes", encoder_fingerprint="axes", dim=DIM) as store:
        for video_index, similarity in enumerate(similarities):
            vectors = 0.01 * rng.standard_normal((num_segments, DIM)).astype(np.float32)
            vectors[:, 0] += similarity
            vectors[:, 1] += np.sqrt(1 - similarity**2)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            path = folder / str(video_index % 2) / f"{video_index}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            video_id = store.writer.begin_video(
                f"v{video_index}", duration=num_segments, facts={}, num_segments=num_segments
            )
            store.writer.set_file(str(path), state="done", video=video_id)
            embeddings = [SegmentEmbedding(vector, vector[None], np.array([0.5])) for vector in vectors]
            store.writer.add_segments(
                [NewSegment(video_id, n, n, n + 1.0, embedding) for n, embedding in enumerate(embeddings)]
            )
            store.writer.finish_video(video_id)


class RecordedSearch:
    """A picture channel that records how many segments it reads, and the depths of its coarse searches."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store.open(folder / "index")
        models = Models(ranker=FrameRanker(), tokens="int8", head="none", is_head_given=False)
        self.index = OpenIndex(self.store, cast(Any, AxisEncoder()), models)
        self.pictures = self.index.pictures
        self.pictures.find_scale(FrameRanker())
        self.num_read: list[int] = []
        self.depths: list[int] = []
        read, search = self.store.features.read, self.store.search

        def record_read(ids: Any, *, tokens: bool) -> Any:
            self.num_read.append(len(ids))
            return read(ids, tokens=tokens)

        def record_search(queries: Any, k: int, within: Selection, **options: Any) -> Any:
            self.depths.append(k)
            return search(queries, k, within, **options)

        monkeypatch.setattr(self.store.features, "read", record_read)
        monkeypatch.setattr(self.store, "search", record_search)

    def find_hits(self, k: int, filters: Filters = ALL_VIDEOS, candidates: int = CANDIDATES) -> list[Hit]:
        options = SearchOptions(k=k, rerank=None, filters=filters, candidates=candidates)
        return find_hits(self.index, plan(self.index, AXIS), options)

    def __call__(self, k: int, filters: Filters = ALL_VIDEOS, candidates: int = CANDIDATES) -> list[int]:
        """Return the numbers of the videos found."""
        return [int(Path(hit.path).stem) for hit in self.find_hits(k, filters, candidates)]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_index(tmp_path, (0.9, 0.7, 0.5, 0.3), num_segments=400)
    return tmp_path


@pytest.fixture
def search(films: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedSearch]:
    search = RecordedSearch(films, monkeypatch)
    yield search
    search.store.close()


def test_search_for_too_many_videos_stops_when_all_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path, [0.5] * 4, num_segments=400)
    search = RecordedSearch(tmp_path, monkeypatch)
    assert sorted(search(50)) == [0, 1, 2, 3]
    assert search.depths == [CANDIDATES]
    assert search.num_read[0] == CANDIDATES
    assert sum(search.num_read[1:]) < 4 * NEAREST_SEGMENTS, "what was read is not read again"
    search.store.close()


def test_filter_limits_the_number_of_videos_to_find(search: RecordedSearch) -> None:
    assert search(50, Filters(folder=str(Path(search.store.path).parent / "0"))) == [0, 2]
    assert sum(search.depths) <= CANDIDATES * (1 + 4)
    assert search.depths[-1] <= 4 * CANDIDATES


def test_few_segments_are_read_of_videos_behind_many_segments_of_others(search: RecordedSearch) -> None:
    assert search(1) == [0]
    assert search.num_read == [CANDIDATES]
    search.num_read.clear()
    assert search(4) == [0, 1, 2, 3]
    assert max(search.num_read) == CANDIDATES + 3 * SEGMENTS_PER_VIDEO
    assert search(4, candidates=2000) == [0, 1, 2, 3]
    assert max(search.num_read) == 1600, "all requested candidates are read"
    search.num_read.clear()
    (Path(search.store.path).parent / "0" / "0.mp4").unlink()
    assert search(4) == [1, 2, 3]
    assert max(search.num_read) == CANDIDATES + 3 * SEGMENTS_PER_VIDEO, "a missing file does not deepen the search"


def test_segments_under_texts_are_read_of_a_long_video_besides_the_nearest(search: RecordedSearch) -> None:
    asked = make_question(search.index, plan(search.index, AXIS), SearchOptions(rerank=None)).asked
    (nearest,) = search.pictures.find_in_videos(asked, [1], {}).values()
    starts = [segment.start for segment in nearest.segments]
    far_s = next(time_s for time_s in np.arange(400.0) if time_s not in starts)
    asked = replace(asked, covered=[(video_id, far_s + 0.5, far_s + 0.5) for video_id in (1, 2)])
    found = search.pictures.find_in_videos(asked, [1], {})
    assert {key: [segment.start for segment in points.segments] for key, points in found.items()} == {
        1: sorted([*starts, far_s])
    }


def test_depth_is_limited_by_max_k_of_the_store(
    search: RecordedSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(search.store), "max_k", 900)
    with caplog.at_level(logging.WARNING):
        assert search(4) == [0, 1, 2]
    assert search.depths == [200, 800, 900]
    assert "only 3 videos are among the 900 nearest segments" in caplog.text
    assert "k = 4" in caplog.text


def damage_frames(store: Store, ids: Sequence[int]) -> None:
    """Flip a bit in the frame vectors of segments, which have one frame each."""
    path = Path(store.path) / "features" / "frames.f16"
    data = bytearray(path.read_bytes())
    for key in ids:
        data[(key - 1) * DIM * 2] ^= 1
    path.write_bytes(data)


def test_a_video_that_is_given_twice_is_scored_once(search: RecordedSearch) -> None:
    counted: list[int] = []
    scores = search.pictures.score_videos(
        [TEXT], [2, 1, 2], FrameRanker(), on_progress=lambda _, total: counted.append(total)
    )["total"]
    assert scores[0, 0] == scores[0, 2] != scores[0, 1]
    assert counted[-1] == sum(len(search.store.segments.ids_of_video(video_id)) for video_id in (1, 2))


def test_damaged_segments_do_not_count_in_scores_curves_and_calibration(search: RecordedSearch) -> None:
    pictures, store = search.pictures, search.store
    before = pictures.score_videos([TEXT], [1, 2, 3], FrameRanker())["total"]
    calibrated = measure(pictures)
    damage_frames(store, [*store.segments.ids_of_video(1)[:7], *store.segments.ids_of_video(2)])
    after = pictures.score_videos([TEXT], [1, 2, 3], FrameRanker())["total"]
    assert after[0, 1] == -np.inf
    assert after[0, 2] == before[0, 2]
    read = read_curve(pictures, QUERY, 1)
    assert read is not None
    curve = read[0]
    assert (curve.start, len(curve.scores)) == (7.0, 393)
    assert read_curve(pictures, QUERY, 2) is None
    again = measure(pictures)
    assert again.ids.tolist() == [key for key in calibrated.ids.tolist() if key > 7 and not 400 < key <= 800]
    assert np.isfinite(again.potentials["frames"]).all()
    damage_frames(
        store, [*store.segments.ids_of_video(1)[7:], *store.segments.ids_of_video(3), *store.segments.ids_of_video(4)]
    )
    fresh = PictureChannel(store, search.pictures.encoder, FrameRanker(), tokens="int8")
    assert fresh.find_scale(FrameRanker()) == UNKNOWN


def measure(pictures: PictureChannel) -> Calibration:
    texts = [TextEmbedding(str(axis), row, row[None]) for axis, row in enumerate(np.eye(3, DIM, dtype=np.float32))]
    read = partial(pictures.score_segments, FrameRanker(), texts)
    return measure_calibration(pictures.store, FrameRanker(), texts, bank="axes", read=read)


def test_search_during_a_prune_finds_what_remains(search: RecordedSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process prunes between the choice of candidates and their reading."""
    folder, coarse_search = Path(search.store.path), search.store.search

    def search_and_prune(*arguments: Any, **options: Any) -> Any:
        nearest = coarse_search(*arguments, **options)
        with Store.open(folder, write=True) as writer:
            writer.writer.set_file(writer.videos.find()[0].paths[0], state="missing")
            writer.upkeep.prune()
        return nearest

    monkeypatch.setattr(search.store, "search", search_and_prune)
    assert search(1) == [1], "0, which has all candidates, is pruned after the first coarse search, 2 after the next"
    monkeypatch.setattr(search.store, "search", coarse_search)
    assert search(4) == [1, 3]
    assert read_curve(search.pictures, QUERY, 1) is None


def test_segments_that_were_pruned_meanwhile_are_no_candidates(tmp_path: Path) -> None:
    write_index(tmp_path, [0.9, 0.5], 1)
    with Store.open(tmp_path / "index") as store:
        kept = _limit_per_video(store, np.append(store.searchable(), [900, 901, 902]), 4)
        assert kept.tolist() == store.searchable().tolist()
