"""Recall of the coarse search: a naive twin, indexes that find all or half of the segments, ties, and progress."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, Float32

from tests.store.samples import DIM, add_video, create, damage
from vidret.errors import StoreError
from vidret.search import recall
from vidret.search.recall import BEST, Recall, measure_recall, sample_vectors
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.store.vectors.base import SearchResult
from vidret.types import SegmentEmbedding


class HalfStore(Store):
    """A store whose search finds segments with odd ids only."""

    def search(self, queries: np.ndarray, k: int, *given: Any, **options: Any) -> SearchResult:
        scores, ids = super().search(queries, 4 * k, *given, **options)
        kept_scores, kept_ids = np.full((len(ids), k), -np.inf, np.float32), np.full((len(ids), k), -1)
        for row, row_ids in enumerate(ids):
            is_odd = row_ids % 2 == 1
            num = min(k, is_odd.sum())
            kept_scores[row, :num], kept_ids[row, :num] = scores[row, is_odd][:num], row_ids[is_odd][:num]
        return SearchResult(kept_scores, kept_ids)


class ShallowStore(Store):
    """A store whose search finds the nearest segments only for a large k, and then last."""

    def search(self, queries: np.ndarray, k: int, *given: Any, **options: Any) -> SearchResult:
        if k <= BEST:
            return super().search(-np.asarray(queries, np.float32), k, *given, **options)
        scores, ids = super().search(queries, k, *given, **options)
        order = np.r_[BEST:k, :BEST] if k >= 2 * BEST else np.arange(k)
        return SearchResult(scores[:, order], ids[:, order])


def write_index(path: Path, rows: Float[np.ndarray, "segment dim"]) -> Path:
    with create(path) as store:
        video = store.writer.begin_video("v", duration=1.0, facts={}, num_segments=len(rows))
        store.writer.set_file("/v.mp4", state="done", video=video)
        store.writer.add_segments(
            [
                NewSegment(video, segment_index, 0.0, 1.0, SegmentEmbedding(row, row[None], np.zeros(1)))
                for segment_index, row in enumerate(rows)
            ]
        )
        store.writer.finish_video(video)
    return path


def make_unit_vectors(num: int, seed: int = 0) -> Float32[np.ndarray, "row dim"]:
    rows = np.random.default_rng(seed).standard_normal((num, DIM))
    vectors: Float32[np.ndarray, "row dim"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def naive_recall(store: Store, queries: Float32[np.ndarray, "query dim"], k: int, within: int) -> float:
    """Sort all segments for each query, and count the best among the first retrieved ones."""
    ids = [int(key) for key in store.searchable()]
    rows = dict(zip(ids, store.features.read_vectors(ids).tolist(), strict=True))
    shares = []
    for query in queries.tolist():
        scores = {key: sum(a * b for a, b in zip(query, row, strict=True)) for key, row in rows.items()}
        best = sorted(scores.values(), reverse=True)[:BEST]
        spacing = float(np.spacing(np.float16(abs(best[-1]))))
        retrieved = [int(key) for key in store.search(np.array([query], np.float32), k)[1][0][:within] if key >= 0]
        near = [key for key in retrieved if scores[key] >= best[-1] - spacing / 2]
        shares.append(min(len(near), len(best)) / len(best))
    return sum(shares) / len(shares)


def make_perfect(num_queries: int, num_segments: int) -> Recall:
    return Recall(
        num_queries=num_queries, num_segments=num_segments, candidates=200, searched=1.0, asked=1.0, within=1.0
    )


@pytest.mark.parametrize("num", [1, 7, 10, 230])
def test_flat_index_has_perfect_recall(tmp_path: Path, num: int) -> None:
    with Store.open(write_index(tmp_path, make_unit_vectors(num))) as store:
        queries = {"own": sample_vectors(store), "others": make_unit_vectors(20, seed=1)}
        recalls = measure_recall(store, queries, candidates=200)
    assert recalls == {"own": make_perfect(num, num), "others": make_perfect(20, num)}
    assert not recalls["own"].low


@pytest.mark.parametrize("kind", [HalfStore, ShallowStore])
@pytest.mark.parametrize("block", [7, 64, 8192])
def test_recall_equals_naive_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Store], block: int
) -> None:
    monkeypatch.setattr(recall, "BLOCK", block)
    monkeypatch.setattr(recall, "BATCH_SIZE", 5)
    with kind.open(write_index(tmp_path, make_unit_vectors(80))) as store:
        queries = {"a": make_unit_vectors(4, seed=1), "b": make_unit_vectors(9, seed=2)}
        recalls = measure_recall(store, queries, candidates=30)
        for name, vectors in queries.items():
            assert recalls[name].searched == pytest.approx(naive_recall(store, vectors, 30, BEST))
            assert recalls[name].asked == pytest.approx(naive_recall(store, vectors, BEST, BEST))
            assert recalls[name].within == pytest.approx(naive_recall(store, vectors, 30, 30))
            assert recalls[name].low


def test_equally_near_segments_are_interchangeable(tmp_path: Path) -> None:
    """Segments after the tenth that are equal within float16 count as near; others do not."""
    query = np.eye(DIM, dtype=np.float32)[:1]
    for index, gap, expected in ((0, 0.0, 1.0), (1, 2.0**-12, 1.0), (2, 2.0**-7, 0.5)):
        rows = np.zeros((40, DIM), np.float32)
        rows[:, 0] = np.where(np.arange(1, 41) % 2 == 1, 0.75 - gap, 0.75)  # found segments score slightly lower
        rows[:10, 0] = 0.75  # five of these are found
        with HalfStore.open(write_index(tmp_path / str(index), rows)) as store:
            assert measure_recall(store, {"a": query}, candidates=20)["a"].searched == expected


def test_sample_is_reproducible_and_without_duplicates(tmp_path: Path) -> None:
    with Store.open(write_index(tmp_path, make_unit_vectors(60))) as store:
        first = sample_vectors(store, num=20, seed=3)
        assert first.shape == (20, DIM)
        np.testing.assert_array_equal(first, sample_vectors(store, num=20, seed=3))
        assert not np.array_equal(first, sample_vectors(store, num=20, seed=4))
        stored = {row.tobytes() for row in store.features.intact_vectors(store.searchable())[1].astype(np.float32)}
        assert {row.tobytes() for row in first} <= stored
        assert len({row.tobytes() for row in first}) == 20, "no duplicates"


def test_segments_of_missing_files_do_not_count_and_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with create(tmp_path) as store:
        for seed in range(5):
            add_video(store, f"v{seed}", seed=seed)
        store.writer.set_file("/videos/v2.mp4", state="missing")
        queries = {"a": make_unit_vectors(9)}
        found = measure_recall(store, queries, candidates=200, on_progress=lambda *counts: seen.append(counts))
    assert found == {"a": make_perfect(9, 16)}
    assert seen == sorted(seen)
    assert seen[-1] == (25, 25)


def test_empty_or_damaged_index_is_rejected(tmp_path: Path) -> None:
    with create(tmp_path / "empty") as store, pytest.raises(StoreError, match="must be a segment to measure, got an"):
        measure_recall(store, {"a": make_unit_vectors(1)}, candidates=200)
    damage(write_index(tmp_path / "bad", make_unit_vectors(20)) / "features" / "video.f16", 3 * DIM * 2)
    with Store.open(tmp_path / "bad") as store, pytest.raises(StoreError, match="row 3 is damaged"):
        measure_recall(store, {"a": make_unit_vectors(1)}, candidates=200)
