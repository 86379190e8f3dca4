"""Contract of all kinds of vector indexes: exact results after any addition, deletion, move or damage.

One parameter per kind. The naive twin scores all segments that are searchable according to the catalog.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vidret.store.snapshots.snapshot import Selection
from vidret.store.store import Store
from vidret.store.vectors.base import FAISS
from vidret.store.vectors.faiss import FaissVectors
from vidret.store.vectors.ivf import KINDS as SHARDS
from vidret.store.vectors.registry import STORES
from vidret.types import ALL_VIDEOS, Filters

from ..samples import DIM, add_video, create, damage, embedding, index_all, of, seeds


@dataclass(frozen=True)
class Kind:
    """An index whose vectors are of one kind."""

    folder: Path
    vectors: str

    def create(self) -> Store:
        return create(self.folder, vectors=self.vectors)

    def open(self) -> Store:
        return Store.open(self.folder)


KINDS = {**{store.forms[0]: store.forms[0] for store in STORES}, **dict.fromkeys(SHARDS, FAISS)}
ALL = [pytest.param(name, marks=pytest.mark.scale if name.startswith("milvus") else ()) for name in KINDS]


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    if request.param in SHARDS:  # even in a tiny index
        monkeypatch.setattr("vidret.store.vectors.faiss.FaissVectors", partial(FaissVectors, ivf_from=1))
        monkeypatch.setattr("vidret.store.vectors.faiss.choose_kind", lambda *_: request.param)
    return Kind(tmp_path / "index", KINDS[request.param])


def stored_vectors(store: Store, filters: Filters = ALL_VIDEOS) -> dict[int, np.ndarray]:
    """Return the vectors of all segments of videos that match, by id."""
    vectors = {}
    for video in store.videos.find(filters):
        name = store.videos.get(video.id).fingerprint
        for key in store.segments.ids_of_video(video.id):
            index = store.segments.get([key])[0].number
            vectors[key] = embedding(100 * int(name.lstrip("v")) + index).video.astype(np.float16)
    return vectors


def assert_exact(store: Store, k: int = 10, filters: Filters = ALL_VIDEOS, *, within: Selection | None = None) -> None:
    queries = np.random.default_rng(5).standard_normal((3, DIM)).astype(np.float32)
    vectors = stored_vectors(store, filters)
    scores, ids = store.search(queries, k, within or store.select(filters))
    if within is not None:
        vectors = {key: vectors[key] for key in within.ids().tolist()}
    keys = np.array(list(vectors), np.int64)
    for row, query in enumerate(queries):
        products = np.array([query @ vector.astype(np.float32) for vector in vectors.values()], np.float32)
        best = np.argsort(-products, kind="stable")[:k] if len(keys) else np.empty(0, np.int64)
        assert ids[row].tolist() == [*keys[best], *[-1] * (k - len(best))]
        np.testing.assert_allclose(scores[row, : len(best)], products[best], rtol=1e-5, atol=1e-6)
        assert np.isneginf(scores[row, len(best) :]).all()


def test_an_empty_index_finds_nothing(kind: Kind) -> None:
    with kind.create() as store:
        assert_exact(store)
        store.upkeep.save_vectors()
    with kind.open() as store:
        assert_exact(store)
        assert len(store) == len(store.searchable()) == 0


def test_search_matches_the_naive_search_before_and_after_saving_and_reopening(kind: Kind) -> None:
    with kind.create() as store:
        for seed in range(5):
            add_video(store, f"v{seed}", seed=seed)
        assert_exact(store)
        store.upkeep.save_vectors()
        assert_exact(store)
        assert_exact(store, k=20_000)  # more than there are
        add_video(store, "v9", seed=9)
    with kind.open() as store:
        assert_exact(store, k=24)


def test_missing_files_that_reappear(kind: Kind) -> None:
    with kind.create() as store, kind.open() as reader:
        index_all(store, 4)
        for state in ("missing", "done"):
            store.writer.set_file("/videos/v1.mp4", state=state)
            assert_exact(reader, k=16)
            store.upkeep.save_vectors()
            assert_exact(reader, k=16)


def test_moved_files_copies_and_filters(kind: Kind) -> None:
    """Any live path may match, but folder and date must match for the same path."""
    day = 10**9
    with kind.create() as store:
        for seed in range(5):
            add_video(store, f"v{seed}", seed=seed, path=f"/films/{'ab'[seed % 2]}/v{seed} 100%_é.mp4")
        index_all(store, 0)
        video = store.videos.find_complete("v1")
        store.writer.set_file("/films/b/v1 100%_é.mp4", state="missing")  # moved
        store.writer.set_file("/films/a0/v1.mp4", state="done", video=video, mtime_ns=7 * day)
        for path, changed in (("/films/a/copy.mp4", 50), ("/other/copy.mp4", 90)):  # copied
            store.writer.set_file(path, state="done", video=store.videos.find_complete("v3"), mtime_ns=changed * day)
        all_filters = [
            Filters(folder="/films/a"),
            Filters(folder="/films/a/"),
            Filters(folder="/films/a0/v1.mp4"),
            Filters(folder="/films/b"),
            Filters(folder="/"),
            Filters(folder="/films/a/v0 100%_é.mp4"),
            Filters(folder="/films/a/v0 100"),
            Filters(after=50),
            Filters(before=50),
            Filters(folder="/films/b", after=40),
            Filters(folder="/films/a", after=40, before=60),
            Filters(folder="/other", before=60),
            Filters(min_seconds=40, max_seconds=float("inf")),
            Filters(min_seconds=float("inf")),
            Filters(max_seconds=39.99),
        ]
        for saved in (False, True):
            if saved:
                store.upkeep.save_vectors()
            for filters in all_filters:
                assert_exact(store, 20, filters)
    with kind.open() as store:
        for filters in all_filters:
            assert_exact(store, 20, filters)


def test_any_selection_of_a_snapshot_is_searched_exactly(kind: Kind) -> None:
    with kind.create() as store:
        for seed in range(6):
            add_video(store, f"v{seed}", seed=seed, path=f"/films/{'ab'[seed % 2]}/{seed}.mp4")
        for saved in (False, True):
            if saved:
                store.upkeep.save_vectors()
            snapshot = store.snapshot()
            for within in (
                snapshot.everything,
                snapshot.select(Filters(folder="/films/a"), frozenset({3})),
                snapshot.select_videos(np.arange(6) % 3 == 0),
                snapshot.select_videos(np.zeros(6, bool)),
            ):
                assert_exact(store, 30, within=within)


def test_pruned_changed_and_resegmented_videos(kind: Kind) -> None:
    with kind.create() as store, kind.open() as reader:
        index_all(store, 4)
        store.writer.set_file("/videos/v0.mp4", state="missing")
        add_video(store, "v7", seed=7, path="/videos/v2.mp4")  # new content at the same path
        store.writer.begin_video("v3", duration=99.0, facts={}, num_segments=2)  # starts over
        add_video(store, "v3", seed=3, num_segments=2)
        assert_exact(reader, k=20)
        store.upkeep.prune()
        assert_exact(reader, k=20)
        store.upkeep.save_vectors()
        assert_exact(reader, k=20)
        assert seeds(reader) == [*of(1), 300, 301, *of(7)]


@pytest.mark.parametrize("saved", [False, True])
def test_damaged_vector_is_skipped(kind: Kind, saved: bool, caplog: pytest.LogCaptureFixture) -> None:
    with kind.create() as store:
        add_video(store, "v0", seed=0)
    damage(kind.folder / "features" / "video.f16", 2 * DIM * 2)  # segment 3
    if saved:
        with kind.create() as store:
            store.upkeep.save_vectors()
            add_video(store, "v1", seed=1)
            store.upkeep.save_vectors()
    with kind.open() as store:
        assert seeds(store) == [0, 1, 3] + [100, 101, 102, 103] * saved
    assert "segment 3 cannot be searched" in caplog.text
    with kind.create() as store:
        store.upkeep.verify(repair=True)
        add_video(store, "v0", seed=0)
        assert_exact(store)
        store.upkeep.save_vectors()
        assert_exact(store)
