"""Baselines: the scores of unrelated queries by ranker, which stay valid until the index has grown by a quarter."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import DIM, PatchEncoder, make_segment, make_text, write_mosaic
from tests.rankers import make_ranker, score_stored
from vidret.align.baseline import UNRELATED, WEAK
from vidret.engine import Engine
from vidret.search.baselines import Baselines
from vidret.search.ranking import FrameRanker, MeanRanker, Ranker
from vidret.store.store import Store
from vidret.types import Hit

QUERIES = ("a dog", "rain", *UNRELATED)


class CountedMeasurement:
    """A measurement that returns its number as the best score, and records the rankers."""

    def __init__(self) -> None:
        self.rankers: list[str] = []

    def __call__(self, ranker: Ranker) -> list[float]:
        self.rankers.append(ranker.name)
        return [float(len(self.rankers))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "empty"
    with Store.create(path, encoder_name="patches", encoder_fingerprint="patches-1", dim=DIM) as store:
        yield store


def grow(store: Store, num_segments: int) -> None:
    """Add segments to an index until it has this many."""
    for number in range(len(store), num_segments):
        video_id = store.begin_video(str(number), duration=1.0, facts={}, num_segments=1)
        store.set_file(f"/{number}.mp4", state="done", video=video_id)
        store.add_segment(video_id, 0, 0.0, 1.0, make_segment(1, number))
        store.finish_video(video_id)


def test_baseline_is_measured_again_only_after_growth_by_a_quarter(store: Store) -> None:
    baselines = Baselines(CountedMeasurement())
    scores = []
    for size in (8, 8, 9, 10, 11, 13, 14, 17, 18):
        grow(store, size)
        scores.append(baselines.scores(store, FrameRanker())[0])
    assert scores == [1, 1, 1, 1, 2, 2, 3, 3, 4], "8 is valid up to 10, 11 up to 13, 14 up to 17"


def test_saved_baseline_is_not_measured_again(store: Store) -> None:
    ranker, writer, reader = FrameRanker(), CountedMeasurement(), CountedMeasurement()
    grow(store, 8)
    Baselines(writer).save(store, ranker)
    baselines = Baselines(reader)
    assert baselines.scores(store, ranker) == [1]
    grow(store, 10)
    assert baselines.scores(store, ranker) == [1]
    assert reader.rankers == []
    grow(store, 11)
    baselines.scores(store, ranker)
    assert baselines.scores(store, ranker) == [1.0]
    assert reader.rankers == ["none"], "a reader measures what is not stored, once"
    assert Baselines(CountedMeasurement()).scores(store, ranker) == [1]
    grow(store, 12)
    Baselines(lambda _: [7.0]).save(store, ranker)
    assert baselines.scores(store, ranker) == [7], "a newer stored baseline over more segments is used"
    store.set_file("/0.mp4", state="missing")
    assert baselines.scores(store, ranker) == [7], "an index that shrinks keeps its baseline"
    assert reader.rankers == ["none"]


def test_saving_replaces_the_known_baseline(store: Store) -> None:
    ranker = FrameRanker()
    baselines = Baselines(CountedMeasurement())
    grow(store, 3)
    assert baselines.scores(store, ranker) == [1]
    baselines.save(store, ranker)
    assert baselines.scores(store, ranker) == [2], "as after a calibration, which changes scores but no segment"


def test_saving_measures_only_if_the_index_has_changed(store: Store) -> None:
    measure, ranker = CountedMeasurement(), FrameRanker()
    grow(store, 3)
    for _ in range(2):
        Baselines(measure).save(store, ranker)
    assert measure.rankers == ["none"]
    store.set_file("/0.mp4", state="missing")
    Baselines(measure).save(store, ranker)
    assert measure.rankers == ["none", "none"]


def test_each_ranker_has_its_own_baseline(store: Store) -> None:
    measure = CountedMeasurement()
    baselines = Baselines(measure)
    grow(store, 3)
    for _ in range(2):
        assert baselines.scores(store, FrameRanker()) == [1]
        assert baselines.scores(store, MeanRanker()) == [2]
    assert measure.rankers == ["none", "mean"]
    baselines.save(store, MeanRanker())
    fresh = Baselines(measure)
    assert fresh.scores(store, MeanRanker()) == [3]
    assert fresh.scores(store, FrameRanker()) == [4]


def test_empty_index_has_no_baseline_until_it_has_a_segment(store: Store) -> None:
    ranker = FrameRanker()
    baselines = Baselines(lambda _: [1.0] if len(store) else [])
    baselines.save(store, ranker)
    assert baselines.scores(store, ranker) == []
    grow(store, 1)
    assert baselines.scores(store, ranker) == [1]


# Through the engine.


def naive_best(index: Path, kind: str, potentials: dict[str, np.ndarray] | None = None) -> list[float]:
    """Score every unrelated query against every segment, and return the best score of each."""
    ranker = make_ranker(kind, index)
    with Store.open(index) as store:
        ids = store.searchable()
    texts = [make_text(text) for text in UNRELATED]
    levels = score_stored(index, ranker, texts, ids, bare=kind != "ucofia").scores
    total = np.zeros((len(texts), len(ids)))
    for name, weight in ranker.weights.items():
        total += weight * (levels[name] + (0 if potentials is None else potentials[name]))
    return [max(row) for row in total.tolist()]


def check_weak(hits: list[Hit], best: list[float]) -> None:
    """Compare ``weak`` with the share of unrelated queries that reach a score; exactly at the edge both are right."""
    assert {hit.weak for hit in hits} == {True, False}, "the check needs both"
    for hit in hits:
        edges = (hit.score - 1e-6, hit.score + 1e-6)
        assert hit.weak in {sum(score >= edge for score in best) / len(best) >= WEAK for edge in edges}


@pytest.mark.parametrize("kind", ["ucofia", "none", "glscl"])
def test_hit_is_weak_if_most_unrelated_queries_reach_its_score(kind: str, indexed_mosaics: Path) -> None:
    with Engine(indexed_mosaics, PatchEncoder()) as engine:
        hits = [hit for query in QUERIES for hit in engine.search(query, rerank=kind)]
    check_weak(hits, naive_best(indexed_mosaics, kind))


def test_weakness_is_judged_on_corrected_scores(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = [hit.weak for query in QUERIES for hit in engine.search(query)]
        calibration = engine.calibrate(["a cat", "rain", "the sea at night", "cartoon", "a dog"], temperature=0.02)
        hits = [hit for query in QUERIES for hit in engine.search(query)]
    check_weak(hits, naive_best(index, "ucofia", dict(calibration.potentials)))
    assert [hit.weak for hit in hits] != before


def test_indexing_stores_the_baselines_that_searches_need(index: Path, indexed_mosaics: Path, tmp_path: Path) -> None:
    encoder = PatchEncoder()
    with Engine(index, encoder) as engine:
        engine.search("a dog")
        engine.search("a dog", rerank="none")
        engine.locate("a dog")
        assert set(encoder.encoded_texts) == {"a dog"}, "baselines of the index's ranker and of frames are stored"
        for _ in range(2):
            engine.search("a dog", rerank="glscl")
        assert encoder.encoded_texts.count(UNRELATED[0]) == 1, "other rankers are measured at their first search"
        write_mosaic(tmp_path / "more" / "long.mp4", 12, seed=7)
        Engine(index, PatchEncoder()).index([tmp_path / "more"])
        engine.search("a dog")
        assert encoder.encoded_texts.count(UNRELATED[0]) == 1, "the run that added a film stored them again"
    grown = naive_best(index, "ucofia")
    assert grown != naive_best(indexed_mosaics, "ucofia")
    with Engine(index, PatchEncoder()) as engine:
        check_weak([hit for query in QUERIES for hit in engine.search(query)], grown)
