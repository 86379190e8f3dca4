"""Vectors are read by the rows in the snapshot, and by those in the catalog where these are no longer right."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vidret.store import upkeep
from vidret.store.catalog.segments import Segments
from vidret.store.snapshots.latest import Snapshots
from vidret.store.store import Store

from .samples import create, damage, embedding, index_all, lose, seeds


@pytest.fixture
def num_queries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with the number of ids that each query for rows had."""
    locations, queries = Segments.locations, list[int]()

    def counted(segments: Segments, ids: np.ndarray | None = None) -> object:
        if ids is not None:  # else a compaction lists all
            queries.append(len(ids))
        return locations(segments, ids)

    monkeypatch.setattr(Segments, "locations", counted)
    return queries


def assert_right(store: Store) -> None:
    ids = store.searchable()
    kept, vectors = store.features.intact_vectors(ids[::-1])
    assert kept.tolist() == ids.tolist()
    np.testing.assert_array_equal(vectors, [embedding(seed).video.astype(np.float16) for seed in seeds(store)])


def test_vectors_are_read_without_a_query(tmp_path: Path, num_queries: list[int]) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 6)
        assert_right(reader)
        assert num_queries == []
        lose(store, 0, 2, 3)
        gone = reader.searchable()[:1] - 4
        assert store.upkeep.prune().freed_bytes > 0
        assert_right(reader)  # a compaction has moved all rows
        assert num_queries == []
        assert len(reader.features.intact_vectors(gone)[0]) == 0
        store.upkeep.save_vectors()
    with Store.open(tmp_path) as opened:
        assert_right(opened)


def test_moved_rows_are_found_in_the_catalog(
    tmp_path: Path, num_queries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "restart_log", lambda _: None)  # as if the compaction had not ended yet
    monkeypatch.setattr(Snapshots, "save", lambda _: None)
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 6)
        assert_right(reader)
        lose(store, 0, 2, 3)
        assert store.upkeep.prune().freed_bytes > 0
        assert_right(reader)
        assert len(num_queries) == 1


def test_a_query_sees_one_state_until_its_files_are_gone(tmp_path: Path) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader, ThreadPoolExecutor(1) as other:
        index_all(store, 6)
        with reader.hold():
            before = reader.snapshot(), reader.generation
            assert_right(reader)
            lose(store, 0, 2, 3)
            assert (reader.snapshot(), reader.generation) == before
            assert other.submit(lambda: reader.generation).result() > before[1]
            store.upkeep.prune()
            other.submit(assert_right, reader).result()  # opens the files of the compaction
            assert len(reader.features.intact_vectors(before[0].everything.ids())[0]) == len(reader)
            assert_right(reader)
        assert reader.snapshot() is not before[0]


def test_a_damaged_vector_is_skipped_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with create(tmp_path) as store:
        index_all(store, 2)
        damage(tmp_path / "features" / "video.f16", 0)
        ids = store.searchable()
        for _ in range(2):
            assert store.features.intact_vectors(ids)[0].tolist() == ids[1:].tolist()
        (message,) = caplog.messages
        assert "cannot be searched" in message
        assert "row 0 is damaged" in message


@pytest.mark.parametrize(("name", "damaged"), [("frames.f16", 1), ("tokens.bin", 2)])  # segment 1 has no tokens
def test_a_segment_with_a_damaged_frame_or_token_is_skipped_once(
    tmp_path: Path, name: str, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    with create(tmp_path) as store:
        index_all(store, 2)
        damage(tmp_path / "features" / name, 3)
        ids = store.searchable()
        for _ in range(2):
            assert store.features.read(ids).ids.tolist() == [key for key in ids.tolist() if key != damaged]
        (message,) = caplog.messages
        assert "is skipped" in message
        assert name in message
