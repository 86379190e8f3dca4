"""Calibration: the stored potentials are those of loops over the whole matrix, and a single query needs no more."""

import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidret.search.calibration
from tests.search.test_ranking import (
    PatchEncoder,
    make_ranker,
    make_segment,
    make_text,
    score_stored,
    store_all,
    write_mosaic,
)
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.calibration import Calibration, load_calibration, measure_calibration, save_calibration
from vidret.search.ranking import Levels, Ranker
from vidret.store.rows import Rows
from vidret.store.store import Store
from vidret.types import Hit, TextEmbedding

BANK = ("a dog", "two men ride bicycles", "cartoon", "a dog and a cat", "a cat", "rain", "the sea at night")
LENGTHS = (1, 4, 12, 3, 7, 4, 2)


def naive_potentials(scores: Sequence[Sequence[float]], temperature: float, num_iterations: int = 4) -> list[float]:
    """Balance exp(score / temperature) by loops, columns first; the column factors' logarithms, their mean 0."""
    highest = max(map(max, scores))
    kernel = [[math.exp((value - highest) / temperature) for value in row] for row in scores]
    rows, columns = range(len(kernel)), range(len(kernel[0]))
    factors = [1 / sum(kernel[i][j] for i in rows) for j in columns]
    for _ in range(num_iterations):
        own = [1 / sum(kernel[i][j] * factors[j] for j in columns) for i in rows]
        factors = [1 / sum(kernel[i][j] * own[i] for i in rows) for j in columns]
    logs = [temperature * math.log(factor) for factor in factors]
    return [log - sum(logs) / len(logs) for log in logs]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Give an index whose segments have UCoFiA's tokens."""
    segments = [make_segment(length, seed) for seed, length in enumerate(LENGTHS)]
    ranker = make_ranker("ucofia", tmp_path)
    store_all(tmp_path / "index", segments, [ranker.pack(segment) for segment in segments])
    return tmp_path / "index"


def measure(
    path: Path, ranker: Ranker, texts: Sequence[TextEmbedding], temperature: float | None = None
) -> Calibration:
    with Store.open(path) as store:
        return measure_calibration(
            store,
            ranker,
            texts,
            bank="captions",
            read=lambda ids: score_stored(path, ranker, texts, ids, bare=ranker.name != "ucofia"),
            temperature=temperature,
        )


# The numbers.


@pytest.mark.parametrize("batch", [256, 3])
@pytest.mark.parametrize("temperature", [None, 0.01, 1.0])
@pytest.mark.parametrize("kind", ["none", "ucofia", "glscl"])
def test_potentials_are_the_loops(
    kind: str, temperature: float | None, batch: int, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vidret.search.calibration, "BATCH", batch)
    ranker, texts = make_ranker(kind, stored), [make_text(text) for text in BANK]
    found = measure(stored, ranker, texts, temperature)
    assert (found.bank, found.num_queries, found.ids.tolist()) == ("captions", 7, list(range(1, 8)))
    assert found.temperature == (ranker.temperature if temperature is None else temperature)
    assert 0 <= found.error <= 2
    levels = score_stored(stored, ranker, texts, found.ids, bare=kind != "ucofia")
    assert found.potentials.keys() == ranker.weights.keys()
    for name, scores in levels.scores.items():
        expected = naive_potentials(scores.astype(np.float64).tolist(), found.temperature)
        np.testing.assert_allclose(found.potentials[name], expected, atol=2e-5, rtol=0)
        assert found.potentials[name].mean() == pytest.approx(0, abs=1e-6)


def test_progress_ends_at_the_number_of_segments(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.search.calibration, "BATCH", 3)
    ranker, texts, seen = make_ranker("none", stored), [make_text("a dog")], list[tuple[int, int]]()
    with Store.open(stored) as store:
        measure_calibration(
            store,
            ranker,
            texts,
            bank="",
            read=lambda ids: score_stored(stored, ranker, texts, ids),
            on_progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == [(3, 7), (6, 7), (7, 7)]


def make_calibration(ids: list[int], potentials: list[float]) -> Calibration:
    return Calibration(
        bank="",
        num_queries=2,
        temperature=1.0,
        ids=np.array(ids, np.int64),
        potentials={"frames": np.array(potentials, np.float32)},
    )


def test_correction_adds_potentials_to_known_segments_only() -> None:
    calibration = make_calibration([2, 5, 9], [0.5, -0.25, 1.0])
    levels = Levels({"frames": np.arange(10.0).reshape(2, 5)}, np.zeros((2, 5), np.int64))
    corrected = calibration.correct(levels, np.array([9, 1, 5, 12, 2]))
    np.testing.assert_allclose(corrected.scores["frames"] - levels.scores["frames"], [[1.0, 0, -0.25, 0, 0.5]] * 2)
    assert corrected.best is levels.best
    assert calibration.count_unknown(np.array([1, 2, 9, 12])) == 2
    empty = make_calibration([], [])
    assert np.array_equal(empty.correct(levels, np.array([9, 1, 5, 12, 2])).scores["frames"], levels.scores["frames"])
    assert empty.count_unknown(np.array([1, 2])) == 2


def test_what_is_saved_is_loaded(stored: Path, tmp_path: Path) -> None:
    texts = [make_text(text) for text in BANK]
    ucofia, none = make_ranker("ucofia", tmp_path), make_ranker("none", tmp_path)
    found = measure(stored, ucofia, texts)
    with Store.open(stored, write=True) as store:
        save_calibration(store, ucofia, found)
    with Store.open(stored) as store:
        again = load_calibration(store, ucofia)
        assert load_calibration(store, none) is None, "one of another ranker plays no part"
    assert again is not None
    assert (again.bank, again.num_queries, again.temperature, again.error) == (
        found.bank,
        found.num_queries,
        found.temperature,
        found.error,
    )
    assert np.array_equal(again.ids, found.ids)
    for name, potentials in found.potentials.items():
        assert again.potentials[name].dtype == np.float32
        assert np.array_equal(again.potentials[name], potentials)
    # A trained aligner's calibration is that of its weights, whatever its file is called.
    trained = make_ranker("trained ucofia", tmp_path)
    with Store.open(stored, write=True) as store:
        save_calibration(store, trained, found)
        assert load_calibration(store, trained) is not None
        trained.fingerprint = "other weights"
        assert load_calibration(store, trained) is None


# Wrong use.


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-9, math.nan, math.inf])
def test_a_temperature_must_be_of_use(temperature: float, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"^temperature must be at least 1e-06 and finite, got"):
        measure(stored, make_ranker("none", tmp_path), [make_text("a dog")], temperature)
    coldest = measure(stored, make_ranker("none", tmp_path), [make_text(text) for text in BANK], 1e-6)
    assert np.isfinite(coldest.potentials["frames"]).all()


def test_an_empty_index_has_nothing_to_calibrate(tmp_path: Path) -> None:
    store_all(tmp_path / "index", [], [])
    with pytest.raises(VidretError, match="index: there must be a segment to calibrate, got an empty index"):
        measure(tmp_path / "index", make_ranker("none", tmp_path), [make_text("a dog")])


def test_what_does_not_fit_is_refused_with_what_would(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [make_text(text) for text in BANK]
    monkeypatch.setattr(vidret.search.calibration, "MEMORY", 4 * 7 * (3 + 4) * 5 + 1)
    ranker = make_ranker("ucofia", tmp_path)
    with pytest.raises(VidretError, match=r"^bank must have at most 5 queries for 7 segments, got 7$"):
        measure(stored, ranker, texts)
    assert measure(stored, ranker, texts[:5]).num_queries == 5
    assert measure(stored, make_ranker("none", tmp_path), texts).num_queries == 7, "one level takes less than three"


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


@pytest.fixture
def index(indexed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(indexed, tmp_path / "index")


def scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {Path(hit.path).name: hit.score for hit in hits}


def naive_scores(index: Path, query: str, bank: Sequence[str] = (), *, kind: str = "ucofia") -> dict[str, float]:
    """Score every segment of an index, correct each level by loops, and give each film its best segment's score."""
    ranker = make_ranker(kind, index)
    with Store.open(index) as store:
        ids = store.searchable()
        names = [Path(store.paths([each.video])[each.video][0]).name for each in store.segments(ids)]
    texts = [make_text(text) for text in (query, *bank)]
    total = np.zeros(len(ids))
    for name, level in score_stored(index, ranker, texts, ids, bare=kind != "ucofia").scores.items():
        own, *banked = level.astype(np.float64).tolist()
        potentials = naive_potentials(banked, ranker.temperature) if bank else [0.0] * len(ids)
        total += ranker.weights[name] * np.add(own, potentials)
    return {name: max(score for own, score in zip(names, total, strict=True) if own == name) for name in names}


def test_a_single_query_is_corrected_by_what_is_stored(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = scores(engine.search("rain at night"))
        assert before == pytest.approx(naive_scores(index, "rain at night"), abs=1e-5)
        found = engine.calibrate([*BANK, " ", ""], name="captions")
        assert (found.bank, found.num_queries) == ("captions", len(BANK)), "what says nothing is left out"
        asked = engine.search("rain at night")
    expected = naive_scores(index, "rain at night", BANK)
    assert scores(asked) == pytest.approx(expected, abs=1e-4)
    assert list(scores(asked)) == sorted(expected, key=lambda name: -expected[name])
    assert scores(asked) != before
    for hit in asked:
        assert hit.score == pytest.approx(sum(hit.why.values()) / 3, abs=1e-6), "levels are told as they are corrected"
    encoder = PatchEncoder()
    with Engine(index, encoder) as reader:
        assert scores(reader.search("rain at night")) == scores(asked)
    assert encoder.asked == ["rain at night"], "no query of the bank, nor an unrelated one, is needed again"


def test_a_bank_of_one_query_takes_all_that_it_prefers(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        assert engine.calibrate(["a dog"]).num_queries == 1
        same = list(scores(engine.search("a dog")).values())
        assert same == pytest.approx([same[0]] * 3, abs=1e-5), "each video has the same share of the only query"
        assert scores(engine.search("rain")) == pytest.approx(naive_scores(index, "rain", ["a dog"]), abs=1e-4)


def test_calibrating_again_replaces_what_was_known(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine, Engine(index, PatchEncoder()) as fresh:
        engine.calibrate(BANK[:2])
        once = scores(engine.search("rain"))
        assert scores(fresh.search("rain")) == once
        engine.calibrate(BANK)
        twice = scores(engine.search("rain"))
        assert once != twice
        assert twice == pytest.approx(naive_scores(index, "rain", BANK), abs=1e-4), "the raw scores are corrected"
        assert scores(fresh.search("rain")) == twice, "an engine that has it open sees that"


def test_the_calibration_of_one_ranker_is_not_anothers(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = {rerank: scores(engine.search("rain", rerank=rerank)) for rerank in ("none", "glscl", "ucofia")}
        engine.calibrate(BANK, rerank="glscl")
        after = {rerank: scores(engine.search("rain", rerank=rerank)) for rerank in before}
        assert after["none"] == before["none"]
        assert after["ucofia"] == before["ucofia"]
        assert after["glscl"] == pytest.approx(naive_scores(index, "rain", BANK, kind="glscl"), abs=1e-4)
        engine.calibrate(BANK)
        assert scores(engine.search("rain", rerank="glscl")) == after["glscl"]
        assert scores(engine.search("rain")) == pytest.approx(naive_scores(index, "rain", BANK), abs=1e-4)


def test_segments_that_came_later_are_left_alone_and_counted(
    index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "2 of 8 segments came after the calibration and are not corrected: run vidret calibrate again"
    write_mosaic(tmp_path / "more" / "late.mp4", 6, seed=9)
    with Engine(index, PatchEncoder()) as engine:
        engine.calibrate(BANK)
        before = scores(engine.search("rain"))
        assert caplog.messages == []
        engine.index([tmp_path / "more"])
        engine.search("rain")
        assert caplog.messages == [warning], "in an engine that was open when the index grew"
    caplog.clear()
    with Engine(index, PatchEncoder()) as engine:
        after = scores(engine.search("rain"))
        engine.search("cartoon")
        assert caplog.messages == [warning], "once, not for every query"
        assert {name: after[name] for name in before} == pytest.approx(before, abs=2e-6)
        assert after["late.mp4"] == pytest.approx(naive_scores(index, "rain")["late.mp4"], abs=1e-5)
        caplog.clear()
        engine.calibrate(BANK)
        assert scores(engine.search("rain")) == pytest.approx(naive_scores(index, "rain", BANK), abs=1e-4)
        assert caplog.messages == []


def test_segments_that_are_gone_do_no_harm(films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = shutil.copytree(films, tmp_path / "films")
    with Engine(tmp_path / "index", PatchEncoder(), rerank="ucofia") as engine:
        engine.index([own])
        engine.calibrate(BANK)
        before = scores(engine.search("rain"))
        for number, prune in ((0, False), (2, True)):
            (own / f"{number}.mp4").unlink()
            engine.index([own], prune=prune)
            del before[f"{number}.mp4"]
            assert scores(engine.search("rain")) == pytest.approx(before, abs=2e-6)
        write_mosaic(own / "new.mp4", 9, seed=5)
        engine.index([own])
        with Engine(tmp_path / "index", PatchEncoder()) as reader:
            found = scores(reader.search("rain"))
        assert found["1.mp4"] == pytest.approx(before["1.mp4"], abs=2e-6)
        assert found["new.mp4"] == pytest.approx(naive_scores(tmp_path / "index", "rain")["new.mp4"], abs=1e-5)
    assert "3 of 5 segments came after" in caplog.text, "what is new has no number of what is gone"


def test_a_bank_must_hold_a_query(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        for bank in ([], ["", "  "]):
            with pytest.raises(VidretError, match=r"^bank must hold a query, got none$"):
                engine.calibrate(bank)
        before = scores(engine.search("rain"))
        with pytest.raises(VidretError, match="temperature must be"):
            engine.calibrate(BANK, temperature=0)
        assert scores(engine.search("rain")) == before


def test_a_killed_calibration_leaves_the_one_before_with_its_baseline(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_facts() -> dict[str, object]:
        with Store.open(index) as store:
            return {key: store.get_meta(key) for key in store.meta_keys("")}

    with Engine(index, PatchEncoder()) as engine:
        engine.calibrate(BANK[:2])
        before = read_facts()
        for num_writes in range(3):
            writes = itertools.count()
            write = Rows.set_meta

            def fall(*given: Any, limit: int = num_writes) -> None:
                if next(writes) == limit:  # noqa: B023
                    raise KeyboardInterrupt
                write(*given)  # noqa: B023

            with monkeypatch.context() as patch:
                patch.setattr(Rows, "set_meta", fall)
                with pytest.raises(KeyboardInterrupt):
                    engine.calibrate(BANK)
            assert read_facts() == before
        engine.calibrate(BANK)
        assert all(read_facts()[key] != before[key] for key in before if "ucofia" in key)


def test_an_open_engine_takes_over_the_baseline_of_a_calibration(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine, Engine(index, PatchEncoder()) as fresh:
        before = fresh._searcher.baselines.scores(fresh._store, fresh.ranker)
        engine.calibrate(BANK)
        after = fresh._searcher.baselines.scores(fresh._store, fresh.ranker)
        assert after == engine._searcher.baselines.scores(engine._store, engine.ranker) != before


def test_one_writer_at_a_time(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        writer = Store.open(index, write=True)
        with pytest.raises(VidretError, match="is writing this index; wait for it to end"):
            engine.calibrate(BANK)
        writer.close()
        assert engine.calibrate(BANK).num_queries == len(BANK)
