"""Moving vectors between fake locations: what the catalog stores about a move."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.vectors import current
from vidret.store.vectors.base import VectorLocation, VectorOptions


class FakeVectors:
    """Vectors that record method calls; the method ``killed_at`` is interrupted."""

    def __init__(self, location: VectorLocation, log: list[str], killed_at: str) -> None:
        self.address, self.log, self.killed_at = location.address, log, killed_at

    def __getattr__(self, method: str) -> Any:
        def call() -> None:
            if method == self.killed_at:
                raise KeyboardInterrupt
            if method != "close":
                self.log.append(f"{method} {self.address}")

        return call


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(
        tmp_path / "catalog.sqlite", {"encoder_name": "tower", "encoder_fingerprint": "tower-1", "dim": 8}
    )


def move(catalog: Catalog, source: str, target: str, *, killed_at: str = "") -> list[str]:
    log: list[str] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(current, "open_vectors", lambda location, _options: FakeVectors(location, log, killed_at))
        vectors = current.CurrentVectors(
            VectorOptions(folder=catalog.path.parent, dim=8, catalog=catalog, epochs=MagicMock())
        )
        vectors.move(source, target, None)
    return log


def test_finished_move_can_be_repeated(catalog: Catalog) -> None:
    """A move killed after its last step has not reported success."""
    calls = ["prepare milvus://", "save milvus://", "drop faiss"]
    assert move(catalog, "faiss", "milvus://") == calls
    assert move(catalog, "faiss", "milvus://") == []
    assert move(catalog, "milvus://", "faiss") == ["prepare faiss", "save faiss", "drop milvus://"]
    assert move(catalog, "milvus://", "faiss") == []
    with pytest.raises(StoreError, match="target must differ from source, got faiss"):
        move(catalog, "faiss", "faiss")
    with pytest.raises(StoreError, match=r"source must be faiss, .*, got milvus://"):
        move(catalog, "milvus://", "milvus:///elsewhere.db")
    assert move(catalog, "faiss", "milvus://") == calls


def test_move_killed_after_the_switch_deletes_the_old_copy_when_repeated(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt):
        move(catalog, "faiss", "milvus://", killed_at="drop")
    assert VectorLocation.from_json(catalog.tables.meta(current.HOME)).address == "milvus://"
    assert move(catalog, "faiss", "milvus://") == ["drop faiss"]
    assert move(catalog, "faiss", "milvus://") == []


def test_move_killed_before_the_switch_is_resumed_or_leaves_nothing_behind(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt):
        move(catalog, "faiss", "milvus:///a.db", killed_at="save")
    unfinished = catalog.tables.meta(current.MOVING)
    with pytest.raises(KeyboardInterrupt):
        move(catalog, "faiss", "milvus:///a.db", killed_at="save")
    assert catalog.tables.meta(current.MOVING) == unfinished, "it goes on where it was"
    calls = ["drop milvus:///a.db", "prepare milvus://", "save milvus://", "drop faiss"]
    assert move(catalog, "faiss", "milvus://") == calls
    assert [catalog.tables.meta(key) for key in (current.MOVING, current.LEAVING)] == [None, None]
