"""Shards and the flat set together: one set of vectors, searched as one, arranged so that it stays quick."""

from pathlib import Path

import numpy as np
import pytest

from vidret.store.shards import FULL, Shards, Size, choose_kind, choose_molten, merge_results
from vidret.store.vectors import Found, Ids, Rows, vector_bytes

from .test_vectors import DIM, assert_found, naive_search, queries, recall, sample

NUM = 3000
KINDS = ["ivf", "ivf-rabitq2", "ivf-rabitq1"]


class World:
    """All vectors there ever were; some of them cannot be read."""

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


def bring(shards: Shards, folder: Path, wanted: np.ndarray, kind: str = "ivf") -> list[tuple[str, int]]:
    """Do what a save does; tell the kinds and sizes of the files."""
    shards.arrange(folder, kind, shards.follow(wanted))
    return [(file.kind, file.total) for file in shards.save(folder, 1).files]


def assert_is(world: World, shards: Shards, ids: np.ndarray) -> None:
    """Hold the set against the naive search, looking everywhere: k is all."""
    assert len(shards) == len(ids)
    assert_found(shards.search(queries(), len(ids) + 3), ids, world.of(ids), len(ids) + 3)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_of_any_kind_and_a_flat_set_are_the_naive_search(world: World, tmp_path: Path, kind: str) -> None:
    shards = world.shards()
    assert bring(shards, tmp_path, world.ids[:300], kind) == [("flat", 300)]
    assert_is(world, shards, world.ids[:300])
    assert bring(shards, tmp_path, world.ids[:1500], kind) == [(kind, 1500)]
    assert_is(world, shards, world.ids[:1500])
    assert bring(shards, tmp_path, world.ids[:1900], kind) == [(kind, 1500), ("flat", 400)]
    assert_is(world, shards, world.ids[:1900])
    assert bring(shards, tmp_path, world.ids[:2000], kind) == [(kind, 1500), (kind, 500)]
    assert bring(shards, tmp_path, world.ids[:2600], kind) == [(kind, 2600)]
    assert_is(world, shards, world.ids[:2600])


@pytest.mark.parametrize("kind", KINDS)
def test_a_usual_search_finds_nearly_all_with_exact_scores(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("vidret.store.vectors.PROBES", 60)
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:2000], kind)
    bring(shards, tmp_path, world.ids[:2400], kind)
    found = shards.search(queries(), 10)
    assert recall(found.ids, naive_search(queries(), world.ids[:2400], world.of(world.ids[:2400]), 10)[1]) > 0.9
    for query, scores, ids in zip(queries(), found.scores, found.ids, strict=True):
        np.testing.assert_allclose(scores, world.of(ids).astype(np.float32) @ query, rtol=1e-5, atol=1e-6)
    for number, query in enumerate(queries()):  # alone as in company
        assert shards.search(query[None], 10).ids[0].tolist() == found.ids[number].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scanned", [0, 2048])
def test_a_search_within_some_ids_is_the_naive_search_among_them(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, scanned: int
) -> None:
    monkeypatch.setattr("vidret.store.shards.SCANNED", scanned)
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:2000], kind)
    bring(shards, tmp_path, world.ids[:2400], kind)
    for num in (0, 1, 7, 100):
        chosen = np.sort(np.random.default_rng(num).choice(world.ids[:2400], num, replace=False))
        assert_found(shards.search(queries(), 10, chosen), chosen, world.of(chosen), 10)


def test_what_matches_far_from_the_query_is_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of all may be found, but it lies in the lists that are looked into last."""
    monkeypatch.setattr("vidret.store.shards.SCANNED", 0)
    monkeypatch.setattr("vidret.store.vectors.PROBES", 11)  # of 219 lists
    shards = world.shards()
    bring(shards, tmp_path, world.ids)
    query = queries(1)
    far = np.sort(world.ids[np.argsort(world.vectors.astype(np.float32) @ query[0])[: NUM // 5]])
    found = shards.search(query, 10, far)
    assert found.ids.tolist() == naive_search(query, far, world.of(far), 10)[1]


def test_removed_ids_are_masked_until_they_are_many(world: World, tmp_path: Path) -> None:
    shards, ids = world.shards(), world.ids
    bring(shards, tmp_path, ids[:2000])
    wanted = np.r_[ids[200:2000], ids[2000:2100]]
    assert bring(shards, tmp_path, wanted) == [("ivf", 2000), ("flat", 100)]
    assert shards.dead.tolist() == ids[:200].tolist()
    assert_is(world, shards, wanted)
    assert bring(shards, tmp_path, ids[100:2100]) == [("ivf", 2000), ("flat", 100)]  # a hundred came back
    assert_is(world, shards, ids[100:2100])
    assert bring(shards, tmp_path, ids[700:2100]) == [("ivf", 1400)]
    assert len(shards.dead) == 0
    assert_is(world, shards, ids[700:2100])
    assert bring(shards, tmp_path, ids[1800:2100]) == [("flat", 300)]
    assert_is(world, shards, ids[1800:2100])
    assert bring(shards, tmp_path, ids[:0]) == []
    assert_is(world, shards, ids[:0])


def test_another_kind_is_built_anew(world: World, tmp_path: Path) -> None:
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:1000])
    assert bring(shards, tmp_path, world.ids[:1000], "ivf-rabitq1") == [("ivf-rabitq1", 1000)]
    assert_is(world, shards, world.ids[:1000])


def test_a_large_set_is_cut_into_full_shards(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.shards.FULL", 1000)
    shards = world.shards()
    assert bring(shards, tmp_path, world.ids[:2100]) == [("ivf", 700)] * 3
    assert_is(world, shards, world.ids[:2100])
    assert bring(shards, tmp_path, world.ids[:2700]) == [("ivf", 700)] * 3 + [("ivf", 600)]  # full ones stay


def test_saved_is_loaded_without_reading_a_vector(world: World, tmp_path: Path) -> None:
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:2000])
    bring(shards, tmp_path, world.ids[100:2300])
    seal = shards.save(tmp_path, 7)
    assert seal.generation == 7
    world.num_read = 0
    again = world.shards()
    assert again.load(tmp_path, seal, shards.dead)
    assert_is(world, again, world.ids[100:2300])
    assert again.follow(world.ids[100:2300]).tolist() == []
    assert again.save(tmp_path, 7) == seal
    assert world.num_read == 0


def test_a_damaged_file_costs_its_own_vectors_a_reading(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:1500])
    bring(shards, tmp_path, world.ids[:2000])
    seal = shards.save(tmp_path, 7)
    (tmp_path / seal.shards[1].name).write_bytes(b"something else")
    world.num_read = 0
    again = world.shards()
    assert not again.load(tmp_path, seal, shards.dead)
    assert f"{seal.shards[1].name}: building it anew (it has not the" in caplog.text
    again.fill(again.follow(world.ids[:2000]))
    assert world.num_read == 500
    assert_is(world, again, world.ids[:2000])


@pytest.mark.parametrize("sealed", [True, False])
def test_vectors_that_cannot_be_read_are_left_out_and_looked_for_again(
    world: World, tmp_path: Path, *, sealed: bool
) -> None:
    world.broken = set(world.ids[5:9].tolist())
    shards = world.shards(500 if sealed else 5000)
    bring(shards, tmp_path, world.ids[:1000])
    assert shards.save(tmp_path, 7).generation == -1
    left = np.r_[world.ids[:5], world.ids[9:1000]]
    assert_is(world, shards, left)
    world.broken = set()
    shards.fill(shards.follow(world.ids[:1000]))
    assert shards.save(tmp_path, 8).generation == 8
    assert_is(world, shards, world.ids[:1000])


@pytest.mark.parametrize("num", [0, 3])
def test_few_that_can_be_read_make_a_shard_all_the_same(world: World, tmp_path: Path, num: int) -> None:
    world.broken = set(world.ids[num:].tolist())
    shards = world.shards()
    assert bring(shards, tmp_path, world.ids) == ([("ivf", num)] if num else [])
    assert_is(world, shards, world.ids[:num])


def test_a_candidate_that_cannot_be_read_is_left_out(world: World, tmp_path: Path) -> None:
    shards = world.shards()
    bring(shards, tmp_path, world.ids[:1000], "ivf-rabitq2")
    best = shards.search(queries(1), 3).ids[0]
    world.broken = {int(best[0])}
    assert shards.search(queries(1), 2).ids[0].tolist() == best[1:].tolist()


def test_molten_are_the_dead_the_other_kinds_and_the_small() -> None:
    def choose(sizes: list[tuple[int, int]], num_loose: int, kind: str = "ivf") -> list[int]:
        return choose_molten([Size(kind, *size) for size in sizes], num_loose, "ivf", 200)

    assert choose([], 1000) == []
    assert choose([(1000, 1000)], 199) == []
    assert choose([(1000, 1000)], 200) == []  # two shards, rather than moving a thousand for two hundred
    assert choose([(1000, 1000)], 500) == [0]
    assert choose([(1000, 1000), (300, 300), (200, 200)], 200) == [0, 1, 2]
    assert choose([(2000, 2000), (300, 300)], 200) == [1]
    assert choose([(1000, 701)], 0) == []
    assert choose([(1000, 699)], 0) == [0]
    assert choose([(1000, 1000)], 0, "ivf-rabitq1") == [0]
    assert choose([(FULL, FULL), (FULL // 2 + 1, FULL // 2 + 1)], FULL) == []
    assert choose([(FULL // 2, FULL // 2)], FULL) == [0]


def test_few_shards_and_few_moves_while_a_set_grows() -> None:
    sizes: list[int] = []
    moved = 0
    for _ in range(100):
        molten = choose_molten([Size("ivf", size, size) for size in sizes], 200_000, "ivf", 200_000)
        pool = 200_000 + sum(sizes[number] for number in molten)
        parts = -(-pool // FULL)
        sizes = [size for number, size in enumerate(sizes) if number not in molten] + [pool // parts] * parts
        moved += pool
    assert sum(sizes) == 20_000_000
    assert len(sizes) <= 24
    assert moved <= 5 * 20_000_000


def test_the_finest_kind_that_fits_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    needed = [1000 * vector_bytes(kind, 512) for kind in KINDS]
    assert choose_kind(1000, 512, None) == "ivf"
    assert [choose_kind(1000, 512, memory) for memory in needed] == KINDS
    assert [choose_kind(1000, 512, memory - 1) for memory in needed[:2]] == KINDS[1:]
    assert not caplog.text
    assert choose_kind(1000, 512, needed[2] - 1) == "ivf-rabitq1"
    assert "1000 vectors take 8e-05 GB even as ivf-rabitq1, more than the memory of" in caplog.text


def test_equal_scores_stand_in_the_order_of_their_ids() -> None:
    parts = [
        Found(np.array([[3.0, 1.0, -np.inf]], np.float32), np.array([[9, 4, -1]])),
        Found(np.array([[3.0, 1.0]], np.float32), np.array([[7, 5]])),
    ]
    assert merge_results(parts, 3).ids.tolist() == [[7, 9, 4]]
    assert merge_results(parts, 6).ids.tolist() == [[7, 9, 4, 5, -1, -1]]
