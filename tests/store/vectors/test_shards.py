"""Shards and the flat index: searched together, and rebuilt so that there are few shards."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.noting import note_calls
from tests.store.neighbours import DIM, assert_found, naive_search, queries, recall, sample
from vidret.store.snapshots.bitmap import Ids, list_ids, make_bitmap, subtract
from vidret.store.snapshots.snapshot import Selection
from vidret.store.vectors import ivf
from vidret.store.vectors.base import SearchResult
from vidret.store.vectors.flat import Flat, Rows, load_faiss, merge_results
from vidret.store.vectors.ivf import Shard, build_shard, vector_bytes
from vidret.store.vectors.shards import MAX_SHARD_SIZE, REFINED, Shards, ShardSize, choose_kind, choose_rebuilt

NUM = 3000
KINDS = ["ivf", "ivf-rabitq2", "ivf-rabitq1"]


class World:
    """All vectors, some of which can be made unreadable."""

    def __init__(self) -> None:
        self.ids, self.vectors = sample(NUM)
        self.broken: set[int] = set()
        self.num_read = 0

    def read(self, ids: Ids) -> tuple[Ids, Rows]:
        kept = np.array([key for key in ids if int(key) not in self.broken], np.int64)
        self.num_read += len(kept)
        return kept, self.of(kept)

    def of(self, ids: np.ndarray) -> np.ndarray:
        return self.vectors[np.searchsorted(self.ids, ids)]

    def shards(self, ivf_from: int = 500) -> Shards:
        return Shards(DIM, self.read, ivf_from=ivf_from)


@pytest.fixture
def world() -> World:
    return World()


def update(shards: Shards, folder: Path, wanted: np.ndarray, kind: str = "ivf") -> list[tuple[str, int]]:
    """Update and save as ``FaissVectors.save`` does; return the kinds and sizes of the files."""
    shards.rebuild(folder, kind, make_bitmap(wanted))
    return [(file.kind, file.total) for file in shards.save(folder).files]


def add(shards: Shards, wanted: np.ndarray) -> None:
    shards.add(shards.find_missing(make_bitmap(wanted)))


def select(ids: np.ndarray, *, narrow: bool = False) -> Selection:
    return Selection(make_bitmap(ids), len(ids), np.zeros(0, bool), 0, narrow=narrow)


def assert_is(world: World, shards: Shards, ids: np.ndarray) -> None:
    """Compare with the naive search for all ids, which searches every list."""
    assert len(subtract(make_bitmap(ids), shards.bits).nonzero()[0]) == 0
    assert_found(shards.search(queries(), len(ids) + 3, select(ids)), ids, world.of(ids), len(ids) + 3)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_of_any_kind_and_a_flat_index_match_the_naive_search(world: World, tmp_path: Path, kind: str) -> None:
    shards = world.shards()
    assert update(shards, tmp_path, world.ids[:300], kind) == [("flat", 300)]
    assert_is(world, shards, world.ids[:300])
    assert update(shards, tmp_path, world.ids[:1500], kind) == [(kind, 1500)]
    assert_is(world, shards, world.ids[:1500])
    assert update(shards, tmp_path, world.ids[:1900], kind) == [(kind, 1500), ("flat", 400)]
    assert_is(world, shards, world.ids[:1900])
    assert update(shards, tmp_path, world.ids[:2000], kind) == [(kind, 1500), (kind, 500)]
    assert update(shards, tmp_path, world.ids[:2600], kind) == [(kind, 2600)]
    assert_is(world, shards, world.ids[:2600])


@pytest.mark.parametrize("kind", KINDS)
def test_approximate_search_has_high_recall_and_exact_scores(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("vidret.store.vectors.ivf.PROBES", 60)
    shards = world.shards()
    update(shards, tmp_path, world.ids[:2000], kind)
    update(shards, tmp_path, world.ids[:2400], kind)
    result = shards.search(queries(), 10, select(world.ids[:2400]))
    assert recall(result.ids, naive_search(queries(), world.ids[:2400], world.of(world.ids[:2400]), 10)[1]) > 0.9
    for query, scores, ids in zip(queries(), result.scores, result.ids, strict=True):
        np.testing.assert_allclose(scores, world.of(ids).astype(np.float32) @ query, rtol=1e-5, atol=1e-6)
    for row, query in enumerate(queries()):  # one query alone has the same results
        assert shards.search(query[None], 10, select(world.ids[:2400])).ids[0].tolist() == result.ids[row].tolist()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_lists_far_from_a_query_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A query in one of eight clusters, which are at right angles, needs few lists, and one between all of them all."""
    rng, ids = np.random.default_rng(3), np.arange(1, NUM + 1)
    centres = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:8]
    vectors = centres[ids % 8] + 0.1 * rng.standard_normal((NUM, DIM)) / DIM**0.5
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    shards = Shards(DIM, lambda some: (some, vectors[some - 1]), ivf_from=500)
    update(shards, tmp_path, ids, kind)
    monkeypatch.setitem(REFINED, "ivf-rabitq1", (4, 400))  # more candidates would not be in one cluster
    searched = note_calls(
        monkeypatch, ivf, "search_lists", lambda _lists, _query, nearest, *_: int((nearest.ids >= 0).sum())
    )
    inside, between = centres[:1].astype(np.float32), centres.mean(axis=0, keepdims=True).astype(np.float32)
    for query in (inside, 7 * inside, between / np.linalg.norm(between)):
        found = shards.search(query, 10, select(ids)).ids
        assert recall(found, naive_search(query, ids, vectors, 10)[1]) > 0.8
    num_lists = 219
    # 1 bit needs 117 for its candidates.
    assert searched[0] == searched[1] < 120 < searched[2] == num_lists
    searched.clear()
    assert (shards.search(inside, NUM, select(ids)).ids[0] > 0).all()  # as many as there are, however far
    assert searched == [num_lists]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scanned", [0, 2048])
def test_search_within_ids_matches_the_naive_search(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, scanned: int
) -> None:
    monkeypatch.setattr("vidret.store.vectors.shards.MAX_SCANNED", scanned)
    shards = world.shards()
    update(shards, tmp_path, world.ids[:2000], kind)
    update(shards, tmp_path, world.ids[:2400], kind)
    for num in (0, 1, 7, 100):
        chosen = np.sort(np.random.default_rng(num).choice(world.ids[:2400], num, replace=False))
        assert_found(shards.search(queries(), 10, select(chosen, narrow=True)), chosen, world.of(chosen), 10)


def test_matches_far_from_the_query_are_found(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of all vectors match, in the lists that are farthest from the query."""
    monkeypatch.setattr("vidret.store.vectors.shards.MAX_SCANNED", 0)
    monkeypatch.setattr("vidret.store.vectors.ivf.PROBES", 11)  # of 219 lists
    monkeypatch.setattr("vidret.store.vectors.ivf.SHARE", 0.0)
    shards = world.shards()
    update(shards, tmp_path, world.ids)
    query = queries(1)
    far = np.sort(world.ids[np.argsort(world.vectors.astype(np.float32) @ query[0])[: NUM // 5]])
    found = shards.search(query, 10, select(far, narrow=True))
    assert found.ids.tolist() == naive_search(query, far, world.of(far), 10)[1]
    monkeypatch.setattr(Shard, "_count_probes_within", lambda *_: 1)  # too few lists, so that all are searched then
    assert shards.search(query, 10, select(far, narrow=True)).ids.tolist() == found.ids.tolist()


def test_removed_ids_are_masked_until_there_are_many(world: World, tmp_path: Path) -> None:
    shards, ids = world.shards(), world.ids
    update(shards, tmp_path, ids[:2000])
    wanted = np.r_[ids[200:2000], ids[2000:2100]]
    assert update(shards, tmp_path, wanted) == [("ivf", 2000), ("flat", 100)]
    assert set(ids[:200]) <= set(list_ids(shards.bits))
    assert_is(world, shards, wanted)
    assert update(shards, tmp_path, ids[100:2100]) == [("ivf", 2000), ("flat", 100)]  # a hundred reappear
    assert_is(world, shards, ids[100:2100])
    assert update(shards, tmp_path, ids[700:2100]) == [("ivf", 1400)]
    assert list_ids(shards.bits).tolist() == ids[700:2100].tolist()
    assert_is(world, shards, ids[700:2100])
    assert update(shards, tmp_path, ids[1800:2100]) == [("flat", 300)]
    assert_is(world, shards, ids[1800:2100])
    assert update(shards, tmp_path, ids[:0]) == []
    assert_is(world, shards, ids[:0])


def test_many_vectors_are_split_into_full_shards(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.vectors.shards.MAX_SHARD_SIZE", 1000)
    shards = world.shards()
    assert update(shards, tmp_path, world.ids[:2100]) == [("ivf", 700)] * 3
    assert_is(world, shards, world.ids[:2100])
    assert update(shards, tmp_path, world.ids[:2700]) == [("ivf", 700)] * 3 + [("ivf", 600)]  # full shards are kept


def test_only_damaged_vectors_are_read_again(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shards = world.shards()
    update(shards, tmp_path, world.ids[:1500])
    update(shards, tmp_path, world.ids[:2000])
    manifest = shards.save(tmp_path)
    (tmp_path / manifest.shards[1].name).write_bytes(b"something else")
    world.num_read = 0
    again = world.shards()
    again.load(tmp_path, manifest, shards.bits)
    assert f"{manifest.shards[1].name}: rebuilding (size must be" in caplog.text
    add(again, world.ids[:2000])
    assert world.num_read == 500
    assert_is(world, again, world.ids[:2000])


@pytest.mark.skipif(sys.platform != "linux", reason="names in UTF-8 only")
@pytest.mark.parametrize("kind", KINDS)
def test_shards_in_a_folder_whose_name_is_not_utf8_are_mapped(world: World, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / os.fsdecode(b"not \xff utf")
    shards = world.shards()
    update(shards, folder, world.ids[:1500], kind)
    again = world.shards()
    again.load(folder, shards.save(folder), None)
    assert_is(world, again, world.ids[:1500])
    assert b"/not \xff utf/ivf" in Path("/proc/self/maps").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_lists_that_lie_about_their_sizes_are_refused(world: World, tmp_path: Path, kind: str) -> None:
    entry = build_shard(tmp_path, kind, DIM, world.ids, world.read)
    assert entry is not None
    path = tmp_path / entry.name
    sound = path.read_bytes()
    Shard(tmp_path, entry, DIM)
    first = sound.index(b"ilar") + 32  # of the sizes of lists, of 8 bytes
    small, large = (int.from_bytes(sound[start : start + 8], "little") for start in (first, first + 8))
    for sizes in ((small + 1, large), (2**40, large), (max(0, small - 1), large - (small == 0))):
        path.write_bytes(sound[:first] + b"".join(size.to_bytes(8, "little") for size in sizes) + sound[first + 16 :])
        with pytest.raises((ValueError, RuntimeError)):
            Shard(tmp_path, entry, DIM)


def test_lists_in_another_file_are_refused(world: World, tmp_path: Path) -> None:
    entry = build_shard(tmp_path, "ivf", DIM, world.ids, world.read)
    assert entry is not None
    faiss = load_faiss()
    index = faiss.read_index(str(tmp_path / entry.name))
    lists_path = tmp_path / "own.dat"
    elsewhere = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(lists_path))
    elsewhere.merge_from(faiss.extract_index_ivf(index).invlists, index.nlist)
    index.replace_invlists(elsewhere)
    before = lists_path.read_bytes()
    faiss.write_index(index, str(tmp_path / entry.name))
    with pytest.raises((ValueError, RuntimeError)):
        Shard(tmp_path, entry, DIM)
    assert lists_path.read_bytes() == before


@pytest.mark.parametrize("in_shard", [True, False])
def test_unreadable_vectors_are_skipped_and_tried_again(world: World, tmp_path: Path, *, in_shard: bool) -> None:
    world.broken = set(world.ids[5:9].tolist())
    shards = world.shards(500 if in_shard else 5000)
    update(shards, tmp_path, world.ids[:1000])
    readable = np.r_[world.ids[:5], world.ids[9:1000]]
    assert_found(shards.search(queries(), 1000, select(world.ids[:1000])), readable, world.of(readable), 1000)
    assert shards.find_missing(make_bitmap(world.ids[:1000])).tolist() == world.ids[5:9].tolist()
    world.broken = set()
    add(shards, world.ids[:1000])
    assert_is(world, shards, world.ids[:1000])


def test_few_flat_indexes_hold_new_vectors_and_each_is_read_few_times(world: World) -> None:
    shards = world.shards(5000)
    for num_vectors in range(1, 1025):
        add(shards, world.ids[:num_vectors])
        assert len(shards._held.flats) <= 8
    assert world.num_read <= 12 * 1024
    assert_is(world, shards, world.ids[:1024])


def test_a_search_goes_on_with_the_vectors_that_it_began_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may be added meanwhile, which merges flat indexes."""
    shards = world.shards(5000)
    for num_vectors in (500, 700, 1000):
        add(shards, world.ids[:num_vectors])
    search, begun = Flat.search, list[int]()

    def search_and_add(flat: Flat, *values: object) -> SearchResult:
        if not begun:
            begun.append(1)
            add(shards, world.ids)
        return search(flat, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(Flat, "search", search_and_add)
    assert_is(world, shards, world.ids[:1000])


@pytest.mark.parametrize("num", [0, 3])
def test_shard_is_built_of_few_readable_vectors(world: World, tmp_path: Path, num: int) -> None:
    world.broken = set(world.ids[num:].tolist())
    shards = world.shards()
    assert update(shards, tmp_path, world.ids) == ([("ivf", num)] if num else [])
    assert_is(world, shards, world.ids[:num])


def test_unreadable_candidate_is_skipped(world: World, tmp_path: Path) -> None:
    shards = world.shards()
    update(shards, tmp_path, world.ids[:1000], "ivf-rabitq2")
    best = shards.search(queries(1), 3, select(world.ids[:1000])).ids[0]
    world.broken = {int(best[0])}
    assert shards.search(queries(1), 2, select(world.ids[:1000])).ids[0].tolist() == best[1:].tolist()


def test_dead_small_and_other_kinds_of_shards_are_rebuilt() -> None:
    def choose(sizes: list[tuple[int, int]], num_loose: int, kind: str = "ivf") -> list[int]:
        return choose_rebuilt([ShardSize(kind, *size) for size in sizes], num_loose, "ivf", 200)

    assert choose([], 1000) == []
    assert choose([(1000, 1000)], 199) == []
    assert choose([(1000, 1000)], 200) == []  # two shards are better than moving a thousand vectors for two hundred
    assert choose([(1000, 1000)], 500) == [0]
    assert choose([(1000, 1000), (300, 300), (200, 200)], 200) == [0, 1, 2]
    assert choose([(2000, 2000), (300, 300)], 200) == [1]
    assert choose([(1000, 701)], 0) == []
    assert choose([(1000, 699)], 0) == [0]
    assert choose([(1000, 1000)], 0, "ivf-rabitq1") == [0]
    assert (
        choose([(MAX_SHARD_SIZE, MAX_SHARD_SIZE), (MAX_SHARD_SIZE // 2 + 1, MAX_SHARD_SIZE // 2 + 1)], MAX_SHARD_SIZE)
        == []
    )
    assert choose([(MAX_SHARD_SIZE // 2, MAX_SHARD_SIZE // 2)], MAX_SHARD_SIZE) == [0]


def test_growing_index_has_few_shards_and_moves_few_vectors() -> None:
    sizes: list[int] = []
    moved = 0
    for _ in range(100):
        rebuilt = choose_rebuilt([ShardSize("ivf", size, size) for size in sizes], 200_000, "ivf", 200_000)
        pool = 200_000 + sum(sizes[index] for index in rebuilt)
        num_new = -(-pool // MAX_SHARD_SIZE)
        sizes = [size for index, size in enumerate(sizes) if index not in rebuilt] + [pool // num_new] * num_new
        moved += pool
    assert sum(sizes) == 20_000_000
    assert len(sizes) <= 24
    assert moved <= 5 * 20_000_000


def test_finest_kind_that_fits_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    needed = [1000 * vector_bytes(kind, 512) for kind in KINDS]
    assert choose_kind(1000, 512, None) == "ivf-rabitq2"
    assert [choose_kind(1000, 512, memory) for memory in needed] == KINDS
    assert [choose_kind(1000, 512, memory - 1) for memory in needed[:2]] == KINDS[1:]
    assert not caplog.text
    assert choose_kind(1000, 512, needed[2] - 1) == "ivf-rabitq1"
    assert "memory must be at least 8e-05 GB for 1000 vectors as ivf-rabitq1, got" in caplog.text


def test_equal_scores_are_in_the_order_of_their_ids() -> None:
    results = [
        SearchResult(np.array([[3.0, 1.0, -np.inf]], np.float32), np.array([[9, 4, -1]])),
        SearchResult(np.array([[3.0, 1.0]], np.float32), np.array([[7, 5]])),
    ]
    assert merge_results(results, 3).ids.tolist() == [[7, 9, 4]]
    assert merge_results(results, 6).ids.tolist() == [[7, 9, 4, 5, -1, -1]]
