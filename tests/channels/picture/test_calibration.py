"""Calibration: stored potentials equal a naive twin over the whole matrix, and correct the scores of searches."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidret.channels.picture.calibration
from tests.fakes import PatchEncoder, make_segment, make_text, write_mosaic
from tests.rankers import make_ranker, score_stored, store_all
from vidret.channels.picture.calibration import (
    Calibration,
    find_damaged_calibrations,
    find_edition,
    forget_calibration,
    load_calibration,
    measure_calibration,
    save_calibration,
)
from vidret.channels.picture.ranking import Levels, Ranker
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.store.catalog.schema import CheckedTables
from vidret.store.store import Store
from vidret.types import Hit, TextEmbedding

BANK = ("a dog", "two men ride bicycles", "cartoon", "a dog and a cat", "a cat", "rain", "the sea at night")


def naive_potentials(scores: Sequence[Sequence[float]], temperature: float, num_iterations: int = 4) -> list[float]:
    """Return the logarithms of Sinkhorn's column factors by loops, centred, for exp(score / temperature)."""
    highest = max(map(max, scores))
    kernel = [[math.exp((value - highest) / temperature) for value in row] for row in scores]
    rows, columns = range(len(kernel)), range(len(kernel[0]))
    factors = [1 / sum(kernel[i][j] for i in rows) for j in columns]
    for _ in range(num_iterations):
        row_factors = [1 / sum(kernel[i][j] * factors[j] for j in columns) for i in rows]
        factors = [1 / sum(kernel[i][j] * row_factors[i] for i in rows) for j in columns]
    logs = [temperature * math.log(factor) for factor in factors]
    return [log - sum(logs) / len(logs) for log in logs]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return an index whose segments have the tokens of UCoFiA."""
    segments = [make_segment(length, seed) for seed, length in enumerate((1, 4, 12, 3, 7, 4, 2))]
    ranker = make_ranker("ucofia", tmp_path)
    store_all(tmp_path / "index", segments, [ranker.pack(segment) for segment in segments])
    return tmp_path / "index"


def measure(path: Path, ranker: Ranker, texts: Sequence[TextEmbedding], **options: Any) -> Calibration:
    with Store.open(path) as store:
        return measure_calibration(
            store,
            ranker,
            texts,
            bank="captions",
            read=lambda ids: score_stored(path, ranker, texts, ids, bare=ranker.name != "ucofia"),
            **options,
        )


# Potentials.


@pytest.mark.parametrize(("kind", "temperature"), [("none", None), ("ucofia", 0.01), ("glscl", 1.0), ("none", 1e-6)])
def test_potentials_equal_naive_twin(
    kind: str, temperature: float | None, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vidret.channels.picture.calibration, "BATCH", 3)
    ranker, texts, seen = make_ranker(kind, stored), [make_text(text) for text in BANK], list[tuple[int, int]]()
    calibration = measure(
        stored, ranker, texts, temperature=temperature, on_progress=lambda *progress: seen.append(progress)
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert (calibration.bank, calibration.num_queries, calibration.ids.tolist()) == ("captions", 7, list(range(1, 8)))
    assert calibration.temperature == (ranker.temperature if temperature is None else temperature)
    assert 0 <= calibration.error <= 2
    assert calibration.potentials.keys() == ranker.weights.keys()
    levels = score_stored(stored, ranker, texts, calibration.ids, bare=kind != "ucofia")
    for name, scores in levels.scores.items():
        potentials = calibration.potentials[name]
        assert potentials.mean() == pytest.approx(0, abs=1e-6)
        assert np.isfinite(potentials).all()
        if temperature != 1e-6:  # for which loops would need more than floats
            expected = naive_potentials(scores.astype(np.float64).tolist(), calibration.temperature)
            np.testing.assert_allclose(potentials, expected, atol=2e-5, rtol=0)


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
    assert calibration.find_unknown(np.array([1, 2, 9, 12])).tolist() == [1, 12]
    empty = make_calibration([], [])
    assert np.array_equal(empty.correct(levels, np.array([9, 1, 5, 12, 2])).scores["frames"], levels.scores["frames"])


def test_saved_calibration_is_loaded(stored: Path, tmp_path: Path) -> None:
    texts, ranker = [make_text(text) for text in BANK], make_ranker("ucofia", tmp_path)
    calibration = measure(stored, ranker, texts)
    trained = make_ranker("trained ucofia", tmp_path)
    with Store.open(stored, write=True) as store:
        save_calibration(store, ranker, calibration)
        loaded = load_calibration(store, ranker)
        assert load_calibration(store, make_ranker("none", tmp_path)) is None, "those of other rankers are ignored"
        save_calibration(store, trained, calibration)
        assert load_calibration(store, trained) is not None
        trained.fingerprint = "other weights"
        assert load_calibration(store, trained) is None, "that of a trained aligner depends on its weights"
    assert loaded is not None
    plain = ("bank", "num_queries", "temperature", "error", "offsets", "num_measured", "is_automatic")
    assert {name: getattr(loaded, name) for name in plain} == {name: getattr(calibration, name) for name in plain}
    assert np.array_equal(loaded.ids, calibration.ids)
    assert np.array_equal(loaded.queries["frames"], calibration.queries["frames"])
    assert loaded.potentials["frames"].dtype == np.float32
    levels = score_stored(stored, ranker, texts, loaded.ids, bare=False)
    for name, level in loaded.correct(levels, loaded.ids).scores.items():
        np.testing.assert_allclose(level, levels.scores[name] + calibration.potentials[name], atol=1e-6)


# Wrong use.


def test_what_cannot_be_calibrated_is_refused(stored: Path, tmp_path: Path) -> None:
    ranker, texts = make_ranker("none", tmp_path), [make_text("a dog")]
    for temperature in (0.0, -1.0, 1e-9, math.nan, math.inf):
        with pytest.raises(VidretError, match=r"^temperature must be at least 1e-06 and finite, got"):
            measure(stored, ranker, texts, temperature=temperature)
    store_all(tmp_path / "empty", [], [])
    with pytest.raises(VidretError, match="empty: there must be a segment to calibrate, got an empty index"):
        measure(tmp_path / "empty", ranker, texts)


def test_potentials_beyond_memory_are_sampled(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, ranker = [make_text(text) for text in BANK], make_ranker("ucofia", tmp_path)
    monkeypatch.setattr(vidret.channels.picture.calibration, "BATCH", 2)
    monkeypatch.setattr(vidret.channels.picture.calibration, "MEMORY", 4 * len(texts) * (3 + 4) * 4)
    sampled = measure(stored, ranker, texts, temperature=0.1)
    assert sampled.ids.tolist() == list(range(1, 8))
    assert sampled.num_measured == 7, "not measured again by the next run"
    scores = score_stored(stored, ranker, texts, sampled.ids, bare=False).scores
    chosen = (
        np.sort(np.random.default_rng(vidret.channels.picture.calibration.SEED).choice(sampled.ids, 4, replace=False))
        - 1
    )
    for name, level in scores.items():
        bank = level.astype(np.float64)
        expected = naive_potentials(bank[:, chosen].tolist(), 0.1)
        np.testing.assert_allclose(sampled.potentials[name][chosen], expected, atol=2e-5)
        balanced = -0.1 * np.log(np.exp((bank + sampled.queries[name][:, None]) / 0.1).sum(0))
        constant = (sampled.potentials[name] - balanced)[chosen].mean()
        np.testing.assert_allclose(sampled.potentials[name], balanced + constant, atol=2e-5)


# The file of potentials.


def test_new_potentials_replace_the_file(stored: Path, tmp_path: Path) -> None:
    ranker, texts = make_ranker("none", tmp_path), [make_text(text) for text in BANK]
    whole = measure(stored, ranker, texts)
    rows = [1, 2, 4]
    part = replace(whole, ids=whole.ids[rows], potentials={"frames": whole.potentials["frames"][rows]})
    new = part.find_unknown(whole.ids)
    with Store.open(stored, write=True) as store, Store.open(stored) as reader:
        save_calibration(store, ranker, part)
        first = load_calibration(reader, ranker)
        assert first is not None
        (old,) = (stored / "potentials").iterdir()
        for leftover in (f"{'0' * 32}.rows", f"{'0' * 32}.rows.1.part"):  # by runs that were killed
            (stored / "potentials" / leftover).touch()
        save_calibration(store, ranker, first.extended(new, score_stored(stored, ranker, texts, new).scores))
        (file,) = (stored / "potentials").iterdir()
        assert file.name != old.name, "a reader may have it open"
        again = load_calibration(reader, ranker)
        assert again is not None
        assert again.ids.tolist() == whole.ids.tolist()
        np.testing.assert_allclose(again.potentials["frames"], whole.potentials["frames"], atol=1e-6)


def test_a_calibration_replaced_during_a_query_is_read(
    stored: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rankers = [make_ranker(kind, tmp_path) for kind in ("none", "ucofia")]
    with Store.open(stored, write=True) as store, Store.open(stored) as reader:
        for ranker in rankers:
            save_calibration(store, ranker, measure(stored, ranker, [make_text("a dog")]))
        with reader.hold():
            assert load_calibration(reader, rankers[0]) is not None
            save_calibration(store, rankers[0], measure(stored, rankers[0], [make_text("a cat")]))
            assert load_calibration(reader, rankers[0]) is not None
        assert load_calibration(reader, rankers[1]) is not None, "its file stays"
    assert not caplog.text


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_potentials_correct_nothing(
    damage: str, stored: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = make_ranker("none", tmp_path)
    with Store.open(stored, write=True) as store:
        save_calibration(store, ranker, measure(stored, ranker, [make_text("a dog")]))
        (file,) = (stored / "potentials").iterdir()
        content = bytearray(file.read_bytes())
        content[5] ^= 4
        file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-1]), "delete": b""}[damage])
        if damage == "delete":
            file.unlink()
        assert load_calibration(store, ranker) is None
        assert f"{file.name}: " in caplog.text
        assert "scores are not corrected, run vidret calibrate" in caplog.text
        (reason,) = find_damaged_calibrations(store, repair=False)
        assert reason in caplog.text
        assert find_damaged_calibrations(store, repair=True) == [reason]
        assert not any((stored / "potentials").iterdir())
        caplog.clear()
        assert (load_calibration(store, ranker), find_edition(store, ranker), caplog.text) == (None, "", "")
        save_calibration(store, ranker, measure(stored, ranker, [make_text("a dog")]))
        assert load_calibration(store, ranker) is not None
        assert find_damaged_calibrations(store, repair=True) == []
        listed = store.metadata.get("calibration.none")
        for invalid in ('{"file": "../x", "columns": {}}', f'{{"file": {{"name": "{"0" * 32}.rows", "num_rows": 7}}}}'):
            caplog.clear()
            store.metadata.set("calibration.none", invalid)
            assert load_calibration(store, ranker) is None
            (record,) = caplog.records
            assert "the calibration is damaged or of an earlier version, so scores are not" in record.getMessage()
            assert record.getMessage().endswith("run vidret calibrate")
        store.metadata.set("calibration.none", str(listed))
        forget_calibration(store, ranker, {})
        assert list((stored / "potentials").iterdir()) == []


# Through the engine.


def scores(hits: Sequence[Hit]) -> dict[str, float]:
    """Return the corrected similarities of hits, the mean of their levels, which evidence keeps in order."""
    levels = [[level for name, level in hit.why.items() if name != "picture"] for hit in hits]
    found = {Path(hit.path).name: float(np.mean(hit_levels)) for hit, hit_levels in zip(hits, levels, strict=True)}
    ordered = list(found.values())
    assert ordered == pytest.approx(sorted(ordered, reverse=True), abs=1e-6)
    assert all(hit.score == hit.why["picture"] for hit in hits)
    return found


def naive_scores(index: Path, query: str, bank: Sequence[str] = (), *, kind: str = "ucofia") -> dict[str, float]:
    """Score every segment of an index, correct each level by loops, and return the best score of each film."""
    ranker = make_ranker(kind, index)
    with Store.open(index) as store:
        ids = store.searchable()
        names = [
            Path(store.files.paths_of([segment.video])[segment.video][0]).name for segment in store.segments.get(ids)
        ]
    texts = [make_text(text) for text in (query, *bank)]
    total = np.zeros(len(ids))
    for name, level in score_stored(index, ranker, texts, ids, bare=kind != "ucofia").scores.items():
        query_scores, *banked = level.astype(np.float64).tolist()
        potentials = naive_potentials(banked, ranker.temperature) if bank else [0.0] * len(ids)
        total += ranker.weights[name] * np.add(query_scores, potentials)
    return {name: max(score for owner, score in zip(names, total, strict=True) if owner == name) for name in names}


def test_search_is_corrected_by_the_stored_calibration(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = scores(engine.search("rain at night"))
        assert before == pytest.approx(naive_scores(index, "rain at night"), abs=1e-5)
        calibration = engine.calibrate([*BANK, " ", ""], name="captions")
        assert (calibration.bank, calibration.num_queries) == ("captions", len(BANK)), "empty queries are left out"
        hits = engine.search("rain at night")
    expected = naive_scores(index, "rain at night", BANK)
    assert scores(hits) == pytest.approx(expected, abs=1e-4)
    assert list(scores(hits)) == sorted(expected, key=lambda name: -expected[name])
    assert scores(hits) != before
    encoder = PatchEncoder()
    with Engine(index, encoder) as reader:
        assert scores(reader.search("rain at night")) == scores(hits)
    assert encoder.encoded_texts == ["rain at night"], "neither the bank nor unrelated queries are encoded again"


def test_new_calibration_replaces_the_old_one(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine, Engine(index, PatchEncoder()) as fresh:
        before = fresh._index.pictures.find_scale(fresh.ranker)
        assert engine.calibrate(["a dog"]).num_queries == 1
        same = list(scores(engine.search("a dog")).values())
        assert same == pytest.approx([same[0]] * 3, abs=1e-5), "each video gets the same share of the only query"
        once = scores(engine.search("rain"))
        assert once == pytest.approx(naive_scores(index, "rain", ["a dog"]), abs=1e-4)
        assert scores(fresh.search("rain")) == once
        engine.calibrate(BANK)
        twice = scores(engine.search("rain"))
        assert twice == pytest.approx(naive_scores(index, "rain", BANK), abs=1e-4), (
            "raw scores are corrected, not those corrected before"
        )
        assert scores(fresh.search("rain")) == twice, "an engine that has the index open uses it"
        after = fresh._index.pictures.find_scale(fresh.ranker)
        assert after == engine._index.pictures.find_scale(engine.ranker) != before


def test_later_segments_are_corrected(index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mosaic(tmp_path / "more" / "late.mp4", 6, seed=9)
    with Engine(index, PatchEncoder()) as engine, Engine(index, PatchEncoder()) as writer:
        engine.calibrate(BANK)
        before = scores(engine.search("rain"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vidret.search.preparation.calibrate_with_bank", lambda *_: None)  # as while a run goes on
            writer.index([tmp_path / "more"])
        corrected = scores(engine.search("rain"))
        assert corrected["late.mp4"] != pytest.approx(naive_scores(index, "rain")["late.mp4"], abs=1e-3)
        assert {name: corrected[name] for name in before} == pytest.approx(before, abs=2e-6)
        writer.index([tmp_path / "more"])  # adds them to the stored ones, with the bank that they were measured with
        with Store.open(index) as store:
            stored = load_calibration(store, engine.ranker)
            assert stored is not None
            assert not len(stored.find_unknown(store.searchable()))
        assert scores(engine.search("rain")) == pytest.approx(corrected, abs=1e-5)
        reader = PatchEncoder()
        with Engine(index, reader) as fresh:
            assert scores(fresh.search("rain")) == pytest.approx(corrected, abs=1e-5)
        assert reader.encoded_texts == ["rain"], "the bank is not encoded again"
    assert caplog.messages == []


def test_refused_calibrations_change_nothing(index: Path) -> None:
    with Engine(index, PatchEncoder()) as engine:
        before = scores(engine.search("rain"))
        for bank in ([], ["", "  "]):
            with pytest.raises(VidretError, match=r"^bank must hold a query, got none$"):
                engine.calibrate(bank)
        with pytest.raises(VidretError, match=r"^bank must be a list, got 'bank.txt'$"):
            engine.calibrate("bank.txt")
        with pytest.raises(VidretError, match="temperature must be"):
            engine.calibrate(BANK, temperature=0)
        with (
            Store.open(index, write=True),
            pytest.raises(VidretError, match="is writing this index; wait for it to end"),
        ):
            engine.calibrate(BANK)
        assert scores(engine.search("rain")) == before


def test_interrupted_calibration_keeps_the_last_and_its_scale(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_metas() -> dict[str, object]:
        with Store.open(index) as store:
            return {key: store.metadata.get(key) for key in store.metadata.keys("")}

    with Engine(index, PatchEncoder()) as engine:
        engine.calibrate(BANK[:2])
        before = read_metas()
        for num_writes in range(3):
            writes = itertools.count()
            write = CheckedTables.set_meta

            def interrupt(*arguments: Any, limit: int = num_writes) -> None:
                if next(writes) == limit:  # noqa: B023
                    raise KeyboardInterrupt
                write(*arguments)  # noqa: B023

            with monkeypatch.context() as patch:
                patch.setattr(CheckedTables, "set_meta", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    engine.calibrate(BANK)
            assert read_metas() == before
        engine.calibrate(BANK)
        assert all(read_metas()[key] != before[key] for key in before if "ucofia" in key)
