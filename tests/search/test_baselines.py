"""Baselines: what an index says of unrelated queries, per ranker, kept until the index has grown by a quarter."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.search.test_ranking import (
    DIM,
    PatchEncoder,
    make_ranker,
    make_segment,
    make_text,
    score_stored,
    write_mosaic,
)
from vidret.align.baseline import UNRELATED, WEAK
from vidret.engine import Engine
from vidret.search.baselines import Baselines
from vidret.search.ranking import FrameRanker, MeanRanker, Ranker
from vidret.store.store import Store
from vidret.types import Hit

QUERIES = ("a dog", "rain", *UNRELATED)


class Measure:
    """Give the number of measurements as the best score, and note who was measured."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, ranker: Ranker) -> list[float]:
        self.asked.append(ranker.name)
        return [float(len(self.asked))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "index"
    with Store.create(path, encoder_name="patches", encoder_fingerprint="patches-1", dim=DIM) as store:
        yield store


def grow(store: Store, num_segments: int) -> None:
    """Have an index hold so many segments."""
    for number in range(len(store), num_segments):
        video = store.begin_video(str(number), duration=1.0, facts={}, num_segments=1)
        store.set_file(f"/{number}.mp4", state="done", video=video)
        store.add_segment(video, 0, 0.0, 1.0, make_segment(1, number))
        store.finish_video(video)


def test_measured_again_only_when_the_index_has_grown_by_a_quarter(store: Store) -> None:
    measure, ranker = Measure(), FrameRanker()
    baselines = Baselines(measure)
    seen = []
    for size in (8, 8, 9, 10, 11, 13, 14, 17, 18):
        grow(store, size)
        seen.append(baselines.scores(store, ranker)[0])
    assert seen == [1, 1, 1, 1, 2, 2, 3, 3, 4], "8 hold good up to 10, 11 up to 13, 14 up to 17"


def test_what_was_saved_is_not_measured_again(store: Store) -> None:
    ranker, writer, reader = FrameRanker(), Measure(), Measure()
    grow(store, 8)
    Baselines(writer).save(store, ranker)
    baselines = Baselines(reader)
    assert baselines.scores(store, ranker) == [1]
    grow(store, 10)
    assert baselines.scores(store, ranker) == [1]
    assert reader.asked == []
    grow(store, 11)
    baselines.scores(store, ranker)
    assert baselines.scores(store, ranker) == [1.0]
    assert reader.asked == ["none"], "a reader measures what is not stored, once"
    assert Baselines(Measure()).scores(store, ranker) == [1]
    grow(store, 12)
    Baselines(lambda _: [7.0]).save(store, ranker)
    assert baselines.scores(store, ranker) == [7], "what a writer stored since, over more, counts"
    store.set_file("/0.mp4", state="missing")
    assert baselines.scores(store, ranker) == [7], "an index that shrinks keeps it"
    assert reader.asked == ["none"]


def test_saving_forgets_what_was_known_before(store: Store) -> None:
    measure, ranker = Measure(), FrameRanker()
    baselines = Baselines(measure)
    grow(store, 3)
    assert baselines.scores(store, ranker) == [1]
    baselines.save(store, ranker)
    assert baselines.scores(store, ranker) == [2], "as after a calibration, which changes scores and no segment"


def test_saving_measures_only_an_index_that_changed(store: Store) -> None:
    measure, ranker = Measure(), FrameRanker()
    grow(store, 3)
    for _ in range(2):
        Baselines(measure).save(store, ranker)
    assert measure.asked == ["none"]
    store.set_file("/0.mp4", state="missing")
    Baselines(measure).save(store, ranker)
    assert measure.asked == ["none", "none"]


def test_each_ranker_has_its_own(store: Store) -> None:
    measure = Measure()
    baselines = Baselines(measure)
    grow(store, 3)
    for _ in range(2):
        assert baselines.scores(store, FrameRanker()) == [1]
        assert baselines.scores(store, MeanRanker()) == [2]
    assert measure.asked == ["none", "mean"]
    baselines.save(store, MeanRanker())
    fresh = Baselines(measure)
    assert fresh.scores(store, MeanRanker()) == [3]
    assert fresh.scores(store, FrameRanker()) == [4]


def test_an_empty_index_has_none_until_something_is_in_it(store: Store) -> None:
    ranker = FrameRanker()
    baselines = Baselines(lambda _: [1.0] if len(store) else [])
    baselines.save(store, ranker)
    assert baselines.scores(store, ranker) == []
    grow(store, 1)
    assert baselines.scores(store, ranker) == [1]


# Through the engine.


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed, seconds in enumerate((3, 6, 9)):
        write_mosaic(folder / f"{seed}.mp4", seconds, seed)
    return folder


@pytest.fixture(scope="module")
def indexed(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp("indexed") / "index"
    Engine(index, PatchEncoder(), rerank="ucofia").index([films])
    return index


def naive_best(index: Path, kind: str, potentials: dict[str, np.ndarray] | None = None) -> list[float]:
    """Score every unrelated query against every segment, and keep its best."""
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
    """Hold flags against the share of unrelated queries that reach a score; at the very edge either is right."""
    assert {hit.weak for hit in hits} == {True, False}, "or nothing is proved"
    for hit in hits:
        edges = (hit.score - 1e-6, hit.score + 1e-6)
        assert hit.weak in {sum(score >= edge for score in best) / len(best) >= WEAK for edge in edges}


@pytest.mark.parametrize("kind", ["ucofia", "none", "glscl"])
def test_weak_is_what_most_unrelated_queries_reach(kind: str, indexed: Path) -> None:
    with Engine(indexed, PatchEncoder()) as engine:
        check_weak([hit for query in QUERIES for hit in engine.search(query, rerank=kind)], naive_best(indexed, kind))


def test_a_calibration_counts_in_what_is_weak(indexed: Path, tmp_path: Path) -> None:
    index = shutil.copytree(indexed, tmp_path / "index")
    with Engine(index, PatchEncoder()) as engine:
        before = [hit.weak for query in QUERIES for hit in engine.search(query)]
        found = engine.calibrate(["a cat", "rain", "the sea at night", "cartoon", "a dog"], temperature=0.02)
        hits = [hit for query in QUERIES for hit in engine.search(query)]
    check_weak(hits, naive_best(index, "ucofia", dict(found.potentials)))
    assert [hit.weak for hit in hits] != before


def test_indexing_stores_what_searches_need(indexed: Path, tmp_path: Path) -> None:
    index, encoder = shutil.copytree(indexed, tmp_path / "index"), PatchEncoder()
    with Engine(index, encoder) as engine:
        engine.search("a dog")
        engine.search("a dog", rerank="none")
        engine.locate("a dog")
        assert set(encoder.asked) == {"a dog"}, "of what it was made for, and of the frames, that moments are judged by"
        for _ in range(2):
            engine.search("a dog", rerank="glscl")
        assert encoder.asked.count(UNRELATED[0]) == 1, "another ranker's are measured when it is first asked"
        write_mosaic(tmp_path / "more" / "long.mp4", 12, seed=7)
        Engine(index, PatchEncoder()).index([tmp_path / "more"])
        engine.search("a dog")
        assert encoder.asked.count(UNRELATED[0]) == 1, "who made it grow has stored them anew"
    grown = naive_best(index, "ucofia")
    assert grown != naive_best(indexed, "ucofia")
    with Engine(index, PatchEncoder()) as engine:
        check_weak([hit for query in QUERIES for hit in engine.search(query)], grown)
