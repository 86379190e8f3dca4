"""Moving an index's vectors from one place to another, resumably: fill the new copy, switch, delete the old one.

The catalog says which of both a search uses, and changes its mind in one transaction. What a killed move leaves is
named there too: ``moving`` is a copy that is not whole yet, ``leaving`` one that is to be deleted.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vidret.errors import StoreError, VidretError
from vidret.store.address import FAISS, settle
from vidret.store.catalog import Catalog
from vidret.store.finder import Finder, Home
from vidret.store.milvus import Collection
from vidret.store.vectors import load_faiss

logger = logging.getLogger(__name__)

HOME, MOVING, LEAVING = "store", "moving", "leaving"  # under these keys a catalog keeps places
CAME_FROM = "came_from"  # and under this the address that the last move began at
OnProgress = Callable[[int, int], None]


class OpenHome(Protocol):
    """How to open a place."""

    def __call__(self, home: Home, told: OnProgress | None = None) -> Finder:
        """Open it; ``told`` hears of the videos that are taken there."""


def check_address(address: str, folder: Path, dim: int) -> None:
    """Tell before there is an index that its vectors could not be kept.

    Raises:
        VidretError: Milvus cannot be reached, or what is needed is not installed.
    """
    if address == FAISS:
        load_faiss()
    else:
        Collection(address, "", dim, folder).close()


def move_store(
    folder: Path, catalog: Catalog, open_home: OpenHome, source: str, target: str, on_progress: OnProgress | None
) -> None:
    """Move the vectors; ``Store.move_vectors`` is the door."""
    source, target = settle(source, folder), settle(target, folder)
    now, leaving = Home.read(catalog.meta(HOME)), catalog.meta(LEAVING)
    came_from = Home.read(leaving).address if leaving else catalog.meta(CAME_FROM)
    if leaving:
        _leave(catalog, open_home, LEAVING)
    if source != target and (came_from, now.address) == (source, target):
        return  # the same move again, after it had switched
    if source != now.address:
        raise StoreError(f"{folder}: the vectors are in {now.address}, not in {source}")
    if target == source:
        raise StoreError(f"{folder}: the vectors are in {target} already")
    begun = catalog.meta(MOVING)
    if begun and Home.read(begun).address != target:
        _leave(catalog, open_home, MOVING)  # a move to elsewhere that was given up
        begun = None
    new = Home.read(begun) if begun else Home.new(target)
    with catalog.transaction(durable=True):
        catalog.set_meta(MOVING, new.write())
    finder = open_home(new, on_progress)
    try:
        finder.prepare()
        finder.save()
    finally:
        finder.close()
    with catalog.transaction(durable=True):
        catalog.set_meta(HOME, new.write())
        catalog.set_meta(LEAVING, now.write())
        catalog.set_meta(CAME_FROM, now.address)
        catalog.run("DELETE FROM meta WHERE key = ?", MOVING)
    _leave(catalog, open_home, LEAVING)


def _leave(catalog: Catalog, open_home: OpenHome, key: str) -> None:
    """Delete a copy that nobody searches any more; one out of reach stays there, which is said."""
    home = Home.read(catalog.meta(key))
    finder = open_home(home)
    try:
        finder.drop()
    except VidretError as error:
        logger.warning("%s: what %s held there could not be deleted: %s", home.address, home.name, error)
    finally:
        finder.close()
    catalog.run("DELETE FROM meta WHERE key = ?", key)
