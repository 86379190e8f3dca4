"""Flat indexes and shards: the same results as numpy's exact search, after any additions and removals."""

import os
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from tests.store.neighbours import DIM, assert_found, naive_search, queries, recall, sample
from vidret.errors import StoreError
from vidret.store.snapshots.bitmap import make_bitmap
from vidret.store.vectors import flat
from vidret.store.vectors.flat import Flat, IdFilter, find_nearest_rows
from vidret.store.vectors.ivf import Shard, build_shard, map_parts, vector_bytes
from vidret.store.vectors.manifest import ManifestEntry
from vidret.types.arrays import widen_rows


def clustered(num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((20, DIM))[rng.integers(0, 20, num)] + 0.3 * rng.standard_normal((num, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.arange(num, dtype=np.int64) * 2 + 1, vectors.astype(np.float16)


def assert_exact(index: Flat, ids: np.ndarray, vectors: np.ndarray, k: int = 10) -> None:
    assert_found(index.search(queries(), k), ids, vectors, k)
    assert index.ids.tolist() == ids.tolist()


def make_filter(ids: np.ndarray, fraction: float = 0.1) -> IdFilter:
    return IdFilter(make_bitmap(ids), fraction)


def build(folder: Path, kind: str, ids: np.ndarray, vectors: np.ndarray) -> ManifestEntry:
    entry = build_shard(folder, kind, DIM, ids, lambda some_ids: (some_ids, vectors[np.searchsorted(ids, some_ids)]))
    assert entry is not None
    return entry


@pytest.mark.parametrize(("num", "k"), [(0, 3), (1, 1), (5, 9), (200, 10), (200, 200)])
def test_flat_index_matches_the_naive_search(num: int, k: int) -> None:
    ids, vectors = sample(num)
    index, order = Flat(DIM), np.random.default_rng(1).permutation(num)
    for rows in np.array_split(order, 2):
        index.add(ids[rows], vectors[rows])
    assert_exact(index, ids, vectors, k)
    assert index.search(queries(0), k).ids.shape == (0, k)


def test_all_finite_values_of_float16_are_widened_exactly() -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rows = values[np.isfinite(values)].reshape(-1, 2)
    assert widen_rows(rows).tobytes() == rows.astype(np.float32).tobytes()


def test_saved_flat_index_can_be_loaded(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index = Flat(DIM)
    index.add(ids, vectors)
    entry = index.save(tmp_path)
    again = Flat(DIM)
    again.load(tmp_path / entry.name, 60)
    assert_exact(again, ids, vectors)
    for wrong, total in ((Flat(DIM), 61), (Flat(DIM + 1), 60)):
        with pytest.raises(ValueError, match="dimension, vectors and ids must be"):
            wrong.load(tmp_path / entry.name, total)
    faiss.write_index(faiss.IndexFlatIP(DIM), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="must be a flat index with ids"):
        again.load(tmp_path / "other", 60)


@pytest.mark.skipif(sys.platform != "linux", reason="names in UTF-8 only")
def test_saved_flat_index_can_be_loaded_where_faiss_cannot_open_its_name(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index = Flat(DIM)
    index.add(ids, vectors)
    folder = tmp_path / os.fsdecode(b"not \xff utf")
    again = Flat(DIM)
    again.load(folder / index.save(folder).name, 60)
    assert_exact(again, ids, vectors)
    assert b"/not \xff utf/flat" in Path("/proc/self/maps").read_bytes()


def test_shard_stores_ids_and_float16_values_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.vectors.ivf.PROBES", 40)  # of 155 lists
    ids, vectors = clustered(1500)
    shard = Shard(tmp_path, build(tmp_path, "ivf", ids, vectors), DIM)
    assert shard.ids.tolist() == ids.tolist()
    assert_found(shard.search(queries(), 1500), ids, vectors, 1500)  # for all vectors every list is searched
    assert_found(shard.search(queries(), 10, everywhere=True), ids, vectors, 10)
    assert recall(shard.search(queries(), 10).ids, naive_search(queries(), ids, vectors, 10)[1]) > 0.9
    padded = shard.search(queries(), 1600)
    assert (padded.ids[:, 1500:] == -1).all()
    assert np.isneginf(padded.scores[:, 1500:]).all()
    with pytest.raises(ValueError, match="dimension and number of vectors must be"):
        Shard(tmp_path, shard.entry, DIM + 1)


def test_parts_of_a_query_are_searched_in_threads_unless_another_query_has_them() -> None:
    def find_thread(_: int) -> str:
        return threading.current_thread().name

    caller = threading.current_thread().name
    assert caller not in map_parts(find_thread, range(3))
    assert map_parts(find_thread, range(1)) == [caller]
    nested = map_parts(lambda _: (find_thread(0), map_parts(find_thread, range(3))), range(2))
    assert [names for _, names in nested] == [[thread] * 3 for thread, _ in nested]
    assert caller not in map_parts(find_thread, range(3))


def test_a_filter_is_searched_in_lists_with_enough_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matches in the lists decrease with the root of the share that matches, unless few are near the query."""
    monkeypatch.setattr("vidret.store.vectors.ivf.PROBES", 20)
    monkeypatch.setattr("vidret.store.vectors.ivf.SHARE", 0.0)
    ids, vectors = clustered(1500)
    shard = Shard(tmp_path, build(tmp_path, "ivf", ids, vectors), DIM)
    nearest = shard._find_lists(queries()[:1], shard._lists.nlist).ids

    def count(kept: np.ndarray) -> int:
        return shard._count_probes_within(nearest, 21, make_filter(kept, len(kept) / len(ids)))

    assert shard._count_probes(10, None) == shard._count_probes(10, make_filter(ids, 1.0)) >= 21
    with monkeypatch.context() as patched:
        patched.setattr("vidret.store.vectors.ivf.SHARE", 0.5)
        assert shard._count_probes(10, None) == shard._lists.nlist // 2
    every, half, tenth = (count(ids[::step]) for step in (1, 2, 10))
    assert 21 <= every < 2 * 21
    assert 1.1 * every < half < 2.2 * every
    assert 2 * every < tenth < 5 * every
    order = np.argsort(vectors.astype(np.float32) @ queries()[0])
    assert count(np.sort(ids[order[:750]])) > half
    assert count(ids[:3]) == shard._lists.nlist


def test_a_filter_finds_as_many_matches_as_a_search_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.vectors.ivf.PROBES", 11)
    monkeypatch.setattr("vidret.store.vectors.ivf.SHARE", 0.0)
    rng = np.random.default_rng(0)
    ids, vectors = np.arange(12_000), rng.standard_normal((12_000, DIM)).astype(np.float16)
    shard = Shard(tmp_path, build(tmp_path, "ivf", ids, vectors), DIM)
    asked = rng.standard_normal((40, DIM)).astype(np.float32)
    scores, side = asked @ vectors.astype(np.float32).T, vectors[:, 0] > 0

    def measure_recall(kept: np.ndarray, id_filter: IdFilter | None) -> float:
        expected = kept[np.argsort(-scores[:, kept], axis=1)[:, :10]]
        found = [shard.search(query[None], 10, id_filter).ids[0] for query in asked]
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(expected, found, strict=True)]))

    without = measure_recall(ids, None)
    assert 0.5 < without < 0.95, "few enough lists that some are missed"
    for kept in (ids[::2], ids[::5], ids[::20], ids[side], ids[side & (ids % 4 == 0)]):
        assert measure_recall(kept, make_filter(kept, len(kept) / len(ids))) > without - 0.02


@pytest.mark.parametrize(("kind", "num_bytes"), [("ivf", 1032), ("ivf-rabitq2", 160), ("ivf-rabitq1", 80)])
def test_shard_file_has_the_expected_size(tmp_path: Path, kind: str, num_bytes: int) -> None:
    assert 0.5 * num_bytes < vector_bytes(kind, 512) <= num_bytes
    ids, vectors = sample(700)
    entry = build(tmp_path, kind, ids, vectors)
    assert (tmp_path / entry.name).stat().st_size == entry.head_bytes + 700 * vector_bytes(kind, DIM)
    assert build(tmp_path, kind, ids, vectors).sha256 == entry.sha256  # deterministic


def test_missing_gpu_is_rejected() -> None:
    import faiss

    if faiss.get_num_gpus():
        pytest.skip("FAISS sees a GPU")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(StoreError, match=f"device must be cpu or one of the 0 GPUs .*, got {device}"):
            Flat(DIM, device=device)


def test_few_rows_are_searched_exactly() -> None:
    rows = sample(50)[1].astype(np.float32)
    found = find_nearest_rows(rows, 5)
    expected = np.argsort(-(rows @ rows.T), axis=1)[:, :5]
    assert found.ids.tolist() == expected.tolist()
    assert found.scores == pytest.approx(np.take_along_axis(rows @ rows.T, expected, axis=1), abs=1e-5)
    assert find_nearest_rows(rows[:3], 9).ids.shape == (3, 3)


def test_many_rows_are_searched_in_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample(2000)[1].astype(np.float32)
    exact = find_nearest_rows(rows, 3)
    monkeypatch.setattr(flat, "EXACT_UP_TO", 1000)
    found = find_nearest_rows(rows, 3)
    assert (found.ids[:, 0] == np.arange(2000)).all()
    assert np.mean(found.ids == exact.ids) > 0.6
