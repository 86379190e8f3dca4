"""Moving vectors between places, with places that hold nothing: what the catalog remembers of a move."""

from pathlib import Path
from typing import Any

import pytest

from vidret.errors import StoreError
from vidret.store import moving
from vidret.store.catalog import Catalog
from vidret.store.finder import Home


class Place:
    """A place that notes what it is asked to do; ``falls`` names the step that the mover is killed at."""

    def __init__(self, home: Home, log: list[str], falls: str) -> None:
        self.address, self.log, self.falls = home.address, log, falls

    def __getattr__(self, step: str) -> Any:
        def take() -> None:
            if step == self.falls:
                raise KeyboardInterrupt
            if step != "close":
                self.log.append(f"{step} {self.address}")

        return take


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(tmp_path / "catalog.sqlite", {})


def move(catalog: Catalog, source: str, target: str, *, falls: str = "") -> list[str]:
    log: list[str] = []
    moving.move_store(
        catalog.path.parent, catalog, lambda home, told=None: Place(home, log, falls), source, target, None
    )
    return log


def test_a_move_that_is_done_may_be_run_again(catalog: Catalog) -> None:
    """Killed after its last step, a move cannot know that it reported nothing."""
    there = ["prepare milvus://", "save milvus://", "drop faiss"]
    assert move(catalog, "faiss", "milvus://") == there
    assert move(catalog, "faiss", "milvus://") == []
    assert move(catalog, "milvus://", "faiss") == ["prepare faiss", "save faiss", "drop milvus://"]
    assert move(catalog, "milvus://", "faiss") == []
    with pytest.raises(StoreError, match="the vectors are in faiss already"):
        move(catalog, "faiss", "faiss")
    with pytest.raises(StoreError, match="the vectors are in faiss, not in milvus://"):
        move(catalog, "milvus://", "milvus:///elsewhere.db")
    assert move(catalog, "faiss", "milvus://") == there


def test_a_move_killed_after_the_switch_ends_with_the_old_copy_deleted(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt):
        move(catalog, "faiss", "milvus://", falls="drop")
    assert Home.read(catalog.meta(moving.HOME)).address == "milvus://"
    assert move(catalog, "faiss", "milvus://") == ["drop faiss"]
    assert move(catalog, "faiss", "milvus://") == []
