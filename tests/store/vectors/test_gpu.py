"""FAISS on an emulated GPU with its limits: the same results as on the CPU for every kind of search."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.gpus import MAX_SELECTION, GpuFaiss, gpu_faiss
from tests.store.neighbours import DIM, queries
from vidret.store.snapshots.bitmap import Ids, make_bitmap
from vidret.store.snapshots.snapshot import Selection
from vidret.store.vectors.base import SearchResult
from vidret.store.vectors.flat import Flat, IdFilter, Rows
from vidret.store.vectors.ivf import Shard, build_shard
from vidret.store.vectors.manifest import ManifestEntry
from vidret.store.vectors.shards import Shards

NUM = 4000
CUDA = "cuda:1"


@pytest.fixture
def faiss() -> Iterator[GpuFaiss]:
    with gpu_faiss() as fake:
        yield fake


@pytest.fixture(scope="module")
def vectors() -> Rows:
    rows = np.random.default_rng(0).standard_normal((NUM, DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def saved_shard(vectors: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ManifestEntry]:
    folder = tmp_path_factory.mktemp("shard")
    entry = build_shard(folder, "ivf", DIM, np.arange(NUM, dtype=np.int64), lambda ids: (ids, vectors[ids]))
    assert entry is not None
    return folder, entry


def make_filter(ids: Ids, *, inside: bool) -> IdFilter:
    chosen = ids if inside else np.setdiff1d(np.arange(NUM, dtype=np.int64), ids)
    return IdFilter(make_bitmap(chosen), 0.01 if inside else 0.99, narrow=inside)


def assert_same(result: SearchResult, expected: SearchResult) -> None:
    assert np.array_equal(result.ids, expected.ids)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-6)


FEW = np.arange(3990, 4000, dtype=np.int64)
IN_IDS = pytest.mark.parametrize(
    ("k", "filtered", "uses_gpu"),
    [
        (10, None, True),
        (MAX_SELECTION, None, True),
        (MAX_SELECTION + 1, None, False),
        (10, make_filter(FEW, inside=True), False),
        (10, make_filter(FEW, inside=False), False),
    ],
    ids=["plain", "2048", "2049", "inside", "outside"],
)


@IN_IDS
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("kind", ["flat", "shard"])
def test_results_are_the_same_on_a_gpu(
    faiss: GpuFaiss,
    vectors: Rows,
    saved_shard: tuple[Path, ManifestEntry],
    kind: str,
    k: int,
    filtered: IdFilter | None,
    num_queries: int,
    *,
    uses_gpu: bool,
) -> None:
    def search(device: str) -> SearchResult:
        if kind == "shard":
            return Shard(*saved_shard, DIM, device=device).search(queries(num_queries), k, filtered)
        flat = Flat(DIM, device=device)
        flat.add(np.arange(NUM, dtype=np.int64), vectors)
        return flat.search(queries(num_queries), k, filtered)

    assert_same(search(CUDA), search("cpu"))
    assert faiss.copied_to == ([1] if uses_gpu else [])
    assert faiss.num_searches == uses_gpu


def test_too_many_lists_for_a_gpu_are_searched_on_the_cpu(
    faiss: GpuFaiss, saved_shard: tuple[Path, ManifestEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.store.vectors.flat.MAX_SELECTION", 200)  # of 253 lists
    on_cpu, on_gpu = Shard(*saved_shard, DIM), Shard(*saved_shard, DIM, device=CUDA)
    assert_same(on_gpu.search(queries(2), 10, everywhere=True), on_cpu.search(queries(2), 10, everywhere=True))
    assert faiss.num_searches == 0


def test_removed_ids_are_not_found_on_a_gpu(faiss: GpuFaiss, vectors: Rows, tmp_path: Path) -> None:
    shards = Shards(DIM, lambda ids: (ids, vectors[ids]), device=CUDA, ivf_from=1000)
    every = np.arange(NUM, dtype=np.int64)
    shards.rebuild(tmp_path, "ivf", make_bitmap(every[:2000]))
    shards.add(shards.find_missing(make_bitmap(every)))
    before = shards.search(queries(1), 5, Selection(make_bitmap(every), NUM, np.zeros(0, bool), 0, narrow=False)).ids[0]
    assert faiss.num_searches == 2, "the shard and the flat index"
    wanted = np.setdiff1d(every, before)
    after = shards.search(
        queries(1), 50, Selection(make_bitmap(wanted), len(wanted), np.zeros(0, bool), 0, narrow=False)
    ).ids[0]
    assert not set(after) & set(before)
    assert set(after) <= set(wanted)
    within = shards.search(
        queries(1), 50, Selection(make_bitmap(FEW), len(FEW), np.zeros(0, bool), 0, narrow=True)
    ).ids[0]
    assert set(within) <= {-1, *FEW}


def test_each_gpu_is_opened_once(faiss: GpuFaiss, saved_shard: tuple[Path, ManifestEntry], vectors: Rows) -> None:
    flat = Flat(DIM, device="cuda:0")
    for segment_id in range(3):
        flat.add(np.array([segment_id]), vectors[:1])  # invalidates the copy
        flat.search(queries(1), 1)
    Shard(*saved_shard, DIM, device="cuda:0").search(queries(2), 1)
    assert faiss.copied_to == [0, 0, 0, 0]
    assert faiss.num_resources == 1
    Shard(*saved_shard, DIM, device=CUDA).search(queries(2), 1)
    assert faiss.num_resources == 2


def test_full_gpu_falls_back_with_a_warning(faiss: GpuFaiss, vectors: Rows, caplog: pytest.LogCaptureFixture) -> None:
    faiss.fault = "Failed to cudaMalloc 8 bytes"
    flat = Flat(DIM, device=CUDA)
    flat.add(np.arange(NUM, dtype=np.int64), vectors)
    for _ in range(2):
        assert flat.search(vectors[7:8].astype(np.float32), 1).ids.tolist() == [[7]]
    assert [record.message for record in caplog.records] == [
        "FAISS cannot use GPU 1, so it searches on the CPU: Failed to cudaMalloc 8 bytes"
    ]
