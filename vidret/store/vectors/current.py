"""The vectors of an open index, reopened when another process moves them, and the move to another location.

A move is resumable: it fills the new copy, switches, and deletes the old one. The catalog stores the location that
searches use, and switches in one transaction. It also lists the leftovers of a killed move: ``moving`` is an incomplete
copy, ``leaving`` a copy to be deleted.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from vidret.errors import StoreError, VidretError
from vidret.store.vectors.base import FAISS, VectorIndex, VectorLocation, VectorOptions
from vidret.store.vectors.registry import allow_address, normalise_address, open_vectors

logger = logging.getLogger(__name__)

HOME, MOVING, LEAVING = "store", "moving", "leaving"  # metadata keys of locations
CAME_FROM = "came_from"  # metadata key of the source address of the last move
OnProgress = Callable[[int, int], None]


T = TypeVar("T")


class CurrentVectors:
    """The vector index at the location in the catalog; nothing is loaded or connected before it is needed."""

    def __init__(self, options: VectorOptions) -> None:
        """Open the vectors of an index at the location in its catalog."""
        self._options, self._catalog = options, options.catalog
        self._lock = threading.Lock()
        self._fingerprint = self._catalog.tables.fact("encoder_fingerprint")
        self._stored = self._catalog.tables.meta(HOME)
        self._location = VectorLocation.from_json(self._stored)
        self.index = open_vectors(self._location, options)

    @property
    def address(self) -> str:
        """The address when the vectors were last opened: ``faiss`` or the address of a Milvus."""
        return self._location.address

    def reopen(self) -> VectorIndex:
        """Return the vector index, reopened if another process has moved it.

        Raises:
            MovedError: Another process has moved the index to another encoder.
        """
        self._catalog.tables.check_fingerprint(self._fingerprint)
        stored = self._catalog.tables.meta(HOME)
        with self._lock:
            if stored != self._stored:
                self.index.close()
                location = VectorLocation.from_json(stored)
                self._stored, self._location, self.index = stored, location, open_vectors(location, self._options)
            return self.index

    def ask(self, ask: Callable[[VectorIndex], T]) -> T:
        """Return the result of ``ask`` on the vector index; ask again if another process has moved the vectors."""
        while True:
            index, stored = self.reopen(), self._stored
            try:
                return ask(index)
            except StoreError:
                self._catalog.tables.forget_held()
                self._catalog.tables.check_fingerprint(self._fingerprint)
                if self._catalog.tables.meta(HOME) == stored:
                    raise

    def move(self, source: str | None, target: str, on_progress: OnProgress | None) -> None:
        """Move the vectors; see ``Store.move_vectors``."""
        self.index.close()  # a deleted file must not stay open
        self._move(source, target, on_progress)
        self.reopen()

    def _move(self, source: str | None, target: str, on_progress: OnProgress | None) -> None:
        tables, folder = self._catalog.tables, self._options.folder
        current = VectorLocation.from_json(tables.meta(HOME))
        leaving, unfinished = tables.meta(LEAVING), tables.meta(MOVING)
        came_from = VectorLocation.from_json(leaving).address if leaving else tables.meta(CAME_FROM)
        target = normalise_address(target, folder)
        if source is None:
            source = current.address if current.address != target else came_from or target
            if source == target:
                return
        source = normalise_address(source, folder)
        for address in (source, target):
            allow_address(folder, address)
        if leaving:
            self._delete_copy(LEAVING)
        if source != target and (came_from, current.address) == (source, target):
            return  # the same move has already switched
        if source != current.address:
            raise StoreError(f"{folder}: source must be {current.address}, where the vectors are, got {source}")
        if target == source:
            raise StoreError(f"{folder}: target must differ from source, got {target} twice")
        if unfinished and VectorLocation.from_json(unfinished).address != target:
            self._delete_copy(MOVING)  # an abandoned move to another location
            unfinished = None
        new = VectorLocation.from_json(unfinished) if unfinished else VectorLocation.create(target)
        with self._catalog.database.transaction(durable=True):
            tables.set_meta(MOVING, new.to_json())
        with closing(open_vectors(new, replace(self._options, device="cpu", on_progress=on_progress))) as vectors:
            vectors.prepare()
            vectors.save()
        with self._catalog.database.transaction(durable=True):
            tables.set_meta(HOME, new.to_json())
            tables.set_meta(LEAVING, current.to_json())
            tables.set_meta(CAME_FROM, current.address)
            self._catalog.database.run("DELETE FROM meta WHERE key = ?", MOVING)
        self._delete_copy(LEAVING)

    def _delete_copy(self, key: str) -> None:
        """Delete an unused copy; one that cannot be reached is kept, with a warning."""
        location = VectorLocation.from_json(self._catalog.tables.meta(key))
        with closing(open_vectors(location, replace(self._options, device="cpu"))) as vectors:
            try:
                vectors.drop()
            except VidretError as error:
                logger.warning("%s: cannot delete the vectors of %s: %s", location.address, location.name, error)
        self._catalog.database.run("DELETE FROM meta WHERE key = ?", key)

    def reset(self) -> None:
        """Delete a Milvus collection and create an empty one, after its change tracking was lost in a repair."""
        if self.address != FAISS:
            self.index.drop()
            self.index.prepare()
