"""Upkeep of an open index: pruning, saving and moving vectors, repair."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from vidret.errors import StoreError
from vidret.store import maintenance, switching
from vidret.store.catalog import Catalog
from vidret.store.creation import CATALOG, FEATURES, VECTORS
from vidret.store.current_vectors import CurrentVectors
from vidret.store.epochs import Epochs
from vidret.store.faiss_vectors import MEMORY
from vidret.store.lock import WriteAccess
from vidret.store.records import BadFile, BadSegment, PruneReport


class Upkeep:
    """The methods of ``Store`` that set metadata and maintain its files."""

    def __init__(
        self, folder: Path, catalog: Catalog, epochs: Epochs, vectors: CurrentVectors, access: WriteAccess
    ) -> None:
        """Maintain an open index."""
        self._folder, self._catalog, self._epochs, self._vectors, self._access = (
            folder,
            catalog,
            epochs,
            vectors,
            access,
        )

    def get_meta(self, key: str) -> str | bytes | None:
        """Return a metadata value, None if it was never set."""
        value: str | bytes | None = self._catalog.meta(f"user.{key}")
        return value

    def meta_keys(self, prefix: str) -> list[str]:
        """Return the sorted metadata keys that begin with a prefix."""
        return self._catalog.meta_keys(f"user.{prefix}", skip=len("user."))

    def set_meta(self, key: str, value: str | bytes) -> None:
        """Set a metadata value."""
        self.set_metas({key: value})

    def set_metas(self, facts: Mapping[str, str | bytes]) -> None:
        """Set metadata values in one transaction."""
        self._access.check()
        with self._catalog.transaction():
            for key, value in facts.items():
                self._catalog.set_meta(f"user.{key}", value)

    def prune(self, files: Collection[str] | None = None) -> PruneReport:
        """Delete missing files, or those in ``files``, and videos without a file; free the space if it is a lot."""
        with self._access:
            report = maintenance.prune(self._catalog, files)
            old = self._epochs.current()
            fresh = maintenance.compact(self._catalog, old, self._folder / FEATURES)
            if fresh is None:
                return report
            self._epochs.replace(fresh)
            self._catalog.snapshots.save()
            return replace(report, freed_bytes=old.num_bytes - fresh.num_bytes)

    def set_memory(self, num_bytes: int) -> None:
        """Set the memory limit of vectors in bytes, from the next ``save_vectors`` on; 0 for no limit.

        Indexes too large for an exact search use the finest kind of vectors that fits: float16 values, or 2 or 1 bits
        per value, which searches refine with the feature files. Without a limit they use 2 bits, the fastest.
        """
        self._access.check()
        if num_bytes < 0:
            raise StoreError(f"memory must not be negative, got {num_bytes}")
        self._catalog.set_meta(MEMORY, num_bytes)

    def save_vectors(self) -> None:
        """Save the vector index at the end of an indexing run, so that opening the index is fast."""
        self._access.check()
        self._vectors.reopen().save()
        self._catalog.snapshots.save()

    def move_vectors(self, source: str, target: str, *, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Move the vectors from ``source`` to ``target``, each ``faiss`` or an address as in ``create``.

        The same call resumes a move that was killed, and does nothing after one that is complete. Searches use the old
        location until the end; then the old copy is deleted. ``on_progress`` receives the number of videos done and the
        total.

        Raises:
            StoreError: The vectors are not at ``source``, or a location cannot be reached.
        """
        with self._access:
            self._vectors.move(source, target, on_progress)

    def take_over(self, source: Path) -> None:
        """Replace all that the index holds by what the index in the folder ``source`` holds, in one transaction.

        Readers have the old content until then; afterwards they must open the index again, as must the caller. A folder
        inside the index needs no further disk space where files can be linked.

        Raises:
            StoreError: The vectors of the index are not in FAISS, or a file cannot be read.
        """
        with self._access:
            switching.take_content(self._folder, self._catalog, source)

    def continue_ids(self, other: Path) -> None:
        """Let the ids of new videos and segments go on after those of another index."""
        with self._access, contextlib.closing(Catalog(other / CATALOG, write=False)) as catalog:
            switching.continue_ids(self._catalog, catalog)

    def verify_vectors(self, *, repair: bool = False) -> list[BadFile]:
        """Verify every byte of the saved vectors; return damaged files, which ``repair`` deletes to be rebuilt."""
        if repair:
            self._access.check()
        return maintenance.find_bad_files(self._catalog, self._folder / VECTORS, repair=repair)

    def verify(self, *, repair: bool = False) -> list[BadSegment]:
        """Read all segments and return the damaged ones; ``repair`` deletes them to be encoded again.

        Raises:
            StoreError: The catalog itself is damaged: run ``repair_catalog`` first.
        """
        if repair:
            self._access.check()
        damaged = maintenance.find_damage(self._catalog, self._epochs)
        if damaged and repair:
            with self._access:
                maintenance.drop_segments(self._catalog, [segment.id for segment in damaged])
        return damaged
