"""FAISS on a GPU, emulated with its limits: the same answers as on the CPU, whatever a search asks for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.gpus import MOST, GpuFaiss, gpu_faiss
from vidret.store.manifest import FileSeal
from vidret.store.shards import Shards
from vidret.store.vectors import Flat, Found, Ids, Only, Rows, Shard, build_shard

DIM, NUM = 16, 4000
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
def sealed(vectors: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileSeal]:
    folder = tmp_path_factory.mktemp("shard")
    seal = build_shard(folder, "ivf", DIM, np.arange(NUM, dtype=np.int64), lambda ids: (ids, vectors[ids]))
    assert seal is not None
    return folder, seal


def queries(num: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((num, DIM)).astype(np.float32)


def only(ids: Ids, *, inside: bool) -> Only:
    flags = np.zeros(NUM, bool)
    flags[ids] = True
    return Only(np.packbits(flags, bitorder="little"), inside, share=0.01 if inside else 0.99)


def assert_same(found: Found, expected: Found) -> None:
    assert np.array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


FEW = np.arange(3990, 4000, dtype=np.int64)
ASKED = pytest.mark.parametrize(
    ("k", "filtered", "on_gpu"),
    [
        (10, None, True),
        (MOST, None, True),
        (MOST + 1, None, False),
        (10, only(FEW, inside=True), False),
        (10, only(FEW, inside=False), False),
    ],
    ids=["plain", "2048", "2049", "inside", "outside"],
)


@ASKED
@pytest.mark.parametrize("num_queries", [1, 3])
def test_a_flat_set_gives_the_same(
    faiss: GpuFaiss, vectors: Rows, k: int, filtered: Only | None, num_queries: int, *, on_gpu: bool
) -> None:
    here, there = Flat(DIM), Flat(DIM, device=CUDA)
    for each in (here, there):
        each.add(np.arange(NUM, dtype=np.int64), vectors)
    assert_same(there.search(queries(num_queries), k, filtered), here.search(queries(num_queries), k, filtered))
    assert faiss.copied_to == ([1] if on_gpu else [])
    assert faiss.num_searches == on_gpu


@ASKED
@pytest.mark.parametrize("num_queries", [1, 3])
def test_a_shard_gives_the_same(
    faiss: GpuFaiss, sealed: tuple[Path, FileSeal], k: int, filtered: Only | None, num_queries: int, *, on_gpu: bool
) -> None:
    here, there = Shard(*sealed, DIM), Shard(*sealed, DIM, device=CUDA)
    assert_same(there.search(queries(num_queries), k, filtered), here.search(queries(num_queries), k, filtered))
    assert faiss.num_searches == on_gpu


def test_lists_beyond_what_a_gpu_looks_into_are_searched_on_the_cpu(
    faiss: GpuFaiss, sealed: tuple[Path, FileSeal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.store.gpu.MOST", 200)  # of 253 lists
    here, there = Shard(*sealed, DIM), Shard(*sealed, DIM, device=CUDA)
    assert_same(there.search(queries(2), 10, everywhere=True), here.search(queries(2), 10, everywhere=True))
    assert faiss.num_searches == 0


def test_what_was_removed_from_shards_and_flat_sets_is_not_found(
    faiss: GpuFaiss, vectors: Rows, tmp_path: Path
) -> None:
    def read(ids: Ids) -> tuple[Ids, Rows]:
        return ids, vectors[ids]

    shards = Shards(DIM, read, device=CUDA, ivf_from=1000)
    shards.arrange(tmp_path, "ivf", shards.follow(np.arange(2000, dtype=np.int64)))
    shards.fill(shards.follow(np.arange(NUM, dtype=np.int64)))
    before = shards.search(queries(1), 5).ids[0]
    assert faiss.num_searches == 2, "the shard and the flat set"
    wanted = np.setdiff1d(np.arange(NUM, dtype=np.int64), before)
    shards.fill(shards.follow(wanted))
    after = shards.search(queries(1), 50).ids[0]
    assert not set(after) & set(before)
    assert set(after) <= set(wanted)
    within = shards.search(queries(1), 50, FEW).ids[0]
    assert set(within) <= {-1, *FEW}


def test_resources_are_opened_once_a_gpu(faiss: GpuFaiss, sealed: tuple[Path, FileSeal], vectors: Rows) -> None:
    flat = Flat(DIM, device="cuda:0")
    for number in range(3):
        flat.add(np.array([number]), vectors[:1])  # the copy is made anew
        flat.search(queries(1), 1)
    Shard(*sealed, DIM, device="cuda:0").search(queries(2), 1)
    assert faiss.copied_to == [0, 0, 0, 0]
    assert faiss.num_resources == 1
    Shard(*sealed, DIM, device=CUDA).search(queries(2), 1)
    assert faiss.num_resources == 2


def test_a_full_gpu_leaves_the_search_to_the_cpu_and_says_so_once(
    faiss: GpuFaiss, vectors: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    faiss.fault = "Failed to cudaMalloc 8 bytes"
    flat = Flat(DIM, device=CUDA)
    flat.add(np.arange(NUM, dtype=np.int64), vectors)
    for _ in range(2):
        assert flat.search(vectors[7:8].astype(np.float32), 1).ids.tolist() == [[7]]
    assert [record.message for record in caplog.records] == [
        "FAISS cannot use GPU 1, so it searches on the CPU: Failed to cudaMalloc 8 bytes"
    ]
