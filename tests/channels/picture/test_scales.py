"""Picture scales: what unrelated queries score by ranker, which stays valid until the index has grown by a quarter."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vidret.channels.picture.channel
from tests.fakes import DIM, PatchEncoder, make_segment, make_text
from tests.rankers import make_ranker, score_stored
from tests.store.samples import add_segment
from vidret.channels.picture.evidence import (
    MIN_DEVIATION,
    PICTURE_OFFSET,
    PICTURE_SLOPE,
    UNKNOWN,
    PictureScale,
    PictureScales,
    find_typical_score,
)
from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.picture.ranking import FrameRanker, Ranker
from vidret.engine import Engine
from vidret.store.store import Store

QUERIES = ("a dog", "rain", *UNRELATED[:4])
KINDS = ("ucofia", "none")


class CountedMeasurement:
    """A measurement whose mean is its number, and whose deviation is 2; it records the rankers."""

    def __init__(self) -> None:
        self.rankers: list[str] = []

    def __call__(self, ranker: Ranker) -> np.ndarray:
        self.rankers.append(ranker.name)
        return len(self.rankers) + np.array([-2.0, 2.0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "empty"
    with Store.create(path, encoder_name="patches", encoder_fingerprint="patches-1", dim=DIM) as store:
        yield store


def grow(store: Store, num_segments: int) -> None:
    """Add segments to an index until it has this many."""
    for video_index in range(len(store), num_segments):
        video_id = store.writer.begin_video(str(video_index), duration=1.0, facts={}, num_segments=1)
        store.writer.set_file(f"/{video_index}.mp4", state="done", video=video_id)
        add_segment(store, video_id, 0, 0.0, 1.0, make_segment(1, video_index))
        store.writer.finish_video(video_id)


def test_scale_is_measured_again_only_after_growth_by_a_quarter(store: Store) -> None:
    scales = PictureScales(CountedMeasurement())
    means = []
    for size in (8, 8, 9, 10, 11, 13, 14, 17, 18):
        grow(store, size)
        means.append(scales.find(store, FrameRanker()).mean)
    assert means == [1, 1, 1, 1, 2, 2, 3, 3, 4], "8 is valid up to 10, 11 up to 13, 14 up to 17"


def test_saved_scale_is_not_measured_again(store: Store) -> None:
    ranker, writer, reader = FrameRanker(), CountedMeasurement(), CountedMeasurement()
    grow(store, 8)
    PictureScales(writer).save(store, ranker)
    scales = PictureScales(reader)
    assert scales.find(store, ranker) == PictureScale(mean=1.0, deviation=2.0)
    grow(store, 10)
    assert scales.find(store, ranker).mean == 1
    assert reader.rankers == []
    grow(store, 11)
    scales.find(store, ranker)
    assert scales.find(store, ranker).mean == 1
    assert reader.rankers == ["none"], "a reader measures what is not stored, once"
    assert PictureScales(CountedMeasurement()).find(store, ranker).mean == 1
    grow(store, 12)
    PictureScales(lambda _: np.array([7.0, 7.0])).save(store, ranker)
    assert scales.find(store, ranker).mean == 7, "a newer stored scale over more segments is used"
    store.writer.set_file("/0.mp4", state="missing")
    assert scales.find(store, ranker).mean == 7, "an index that shrinks keeps its scale"
    assert reader.rankers == ["none"]


def test_saving_measures_only_if_the_index_has_changed(store: Store) -> None:
    measure, ranker = CountedMeasurement(), FrameRanker()
    grow(store, 3)
    scales = PictureScales(measure)
    assert scales.find(store, ranker).mean == 1
    scales.save(store, ranker)
    assert scales.find(store, ranker).mean == 2, "as after a calibration, which changes scores but no segment"
    PictureScales(measure).save(store, ranker)
    assert len(measure.rankers) == 2
    store.writer.set_file("/0.mp4", state="missing")
    PictureScales(measure).save(store, ranker)
    assert len(measure.rankers) == 3


def test_empty_index_has_no_scale_until_it_has_a_segment(store: Store) -> None:
    ranker = FrameRanker()
    scales = PictureScales(lambda _: np.ones(2 if len(store) else 0))
    scales.save(store, ranker)
    assert store.metadata.keys("scale") == []
    assert scales.find(store, ranker) == UNKNOWN
    grow(store, 1)
    assert scales.find(store, ranker).mean == 1


def test_typical_score_is_that_of_a_normal_distribution() -> None:
    scale = PictureScale(mean=0.2, deviation=0.1)
    assert find_typical_score(scale, 0.5) == pytest.approx(0.2)
    assert find_typical_score(scale, 0.01) == pytest.approx(0.2 + 2.3263 * 0.1, abs=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(-0.2, 0.4), st.floats(0, 0.3))
def test_evidence_of_pictures_agrees_with_its_naive_twin(scores: list[float], mean: float, deviation: float) -> None:
    rated = PictureScale(mean=mean, deviation=deviation).rate(np.array(scores))
    for score, evidence in zip(scores, rated, strict=True):
        standard = (score - mean) / (deviation if deviation > MIN_DEVIATION else MIN_DEVIATION)
        assert evidence == pytest.approx(PICTURE_SLOPE * standard + PICTURE_OFFSET)


def score_naively(
    index: Path, kind: str, queries: Sequence[str], potentials: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Score queries against every segment, (query, segment), corrected by the potentials of a calibration."""
    ranker = make_ranker(kind, index)
    with Store.open(index) as store:
        ids = store.searchable()
    levels = score_stored(index, ranker, list(map(make_text, queries)), ids, bare=kind != "ucofia").scores
    total = np.zeros((len(queries), len(ids)))
    for name, weight in ranker.weights.items():
        total += weight * (levels[name] + (0 if potentials is None else potentials[name]))
    return total


def measure_naively(index: Path, kind: str, potentials: Mapping[str, np.ndarray] | None = None) -> tuple[float, float]:
    """Return the mean and the standard deviation of what the unrelated queries score in the segments of an index."""
    scores = score_naively(index, kind, UNRELATED, potentials).ravel().tolist()
    mean = sum(scores) / len(scores)
    return mean, (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5


def check_scores(
    engine: Engine, index: Path, kind: str, potentials: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Compare the scores of hits with their naive twin: standard deviations above unrelated queries, in nats."""
    mean, deviation = measure_naively(index, kind, potentials)
    with Store.open(index) as store:
        owners = store.owners(store.searchable()).tolist()
    best: dict[str, float] = {}
    for query, scores in zip(QUERIES, score_naively(index, kind, QUERIES, potentials), strict=True):
        for hit in engine.search(query, rerank=kind):
            best_score = max(score for score, owner in zip(scores, owners, strict=True) if owner == hit.video)
            expected = PICTURE_SLOPE * (best_score - mean) / max(deviation, MIN_DEVIATION) + PICTURE_OFFSET
            assert hit.score == pytest.approx(expected, abs=2e-3)
            best[query] = max(best.get(query, hit.score), hit.score)
    return best


@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_scores_agree_with_naive_twins(kind: str, indexed_mosaics: Path) -> None:
    with Engine(indexed_mosaics, PatchEncoder()) as engine:
        scale = engine._index.pictures.find_scale(engine.choose_ranker(kind))
        assert (scale.mean, scale.deviation) == pytest.approx(measure_naively(indexed_mosaics, kind), abs=1e-5)
        check_scores(engine, indexed_mosaics, kind)


def test_corrected_scores_are_compared_with_corrected_ones(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = check_scores(engine, index, "ucofia")
        calibration = engine.calibrate(["a cat", "rain", "the sea at night", "cartoon", "a dog"], temperature=0.02)
        assert check_scores(engine, index, "ucofia", dict(calibration.potentials)) != pytest.approx(before, abs=0.01)


def test_large_index_is_measured_on_a_sample_of_all(index: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.channels.picture.channel, "SAMPLE", 2)
    with Engine(index, PatchEncoder(), rerank="auto") as engine:
        searcher, ids = engine._index.pictures, engine._index.store.searchable()
        assert len(ids) > 2
        scores = searcher._score_unrelated(FrameRanker())
        assert len(scores) == 2 * len(UNRELATED)
        ends = searcher.score_segments(FrameRanker(), [make_text(text) for text in UNRELATED], ids[[0, -1]])
        np.testing.assert_allclose(np.sort(scores), np.sort(ends.scores["frames"].ravel()), atol=1e-5)
