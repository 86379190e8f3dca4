"""The vectors of an open index, reopened when another process moves them."""

import threading
from collections.abc import Callable, Set
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store import moving
from vidret.store.address import FAISS
from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.faiss_vectors import FaissVectors
from vidret.store.moving import OnProgress
from vidret.store.snapshot import Selection
from vidret.store.vector_index import VectorIndex, VectorLocation, open_vectors
from vidret.types import Filters

Found = tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]


class CurrentVectors:
    """The vector index at the location in the catalog; nothing is loaded or connected before it is needed."""

    def __init__(self, folder: Path, dim: int, catalog: Catalog, epochs: Epochs, *, device: str) -> None:
        """Open the vectors of the index in ``folder``."""
        self._folder, self._dim, self._device = folder, dim, device
        self._catalog, self._epochs = catalog, epochs
        self._lock = threading.Lock()
        self._fingerprint = catalog.fact("encoder_fingerprint")
        self._location = self._read_location()
        self.index = self._open(self._location, device=device)

    @property
    def address(self) -> str:
        """The address when the vectors were last opened: ``faiss`` or the address of a Milvus."""
        return self._location.address

    def reopen(self) -> VectorIndex:
        """Return the vector index, reopened if another process has moved it.

        Raises:
            MovedError: Another process has moved the index to another encoder.
        """
        self._catalog.check_fingerprint(self._fingerprint)
        location = self._read_location()
        with self._lock:
            if location != self._location:
                self.index.close()
                self._location, self.index = location, self._open(location, device=self._device)
            return self.index

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters, excluded: Set[int] = frozenset()
    ) -> Found:
        """Search as ``VectorIndex.search``, again if another process moves the vectors meanwhile."""
        return self._ask(lambda index: index.search(queries, k, filters, excluded))

    def search_within(self, queries: Float32[np.ndarray, "query dim"], k: int, within: Selection) -> Found:
        """Search as ``FaissVectors.search_within``.

        Raises:
            StoreError: The vectors are elsewhere.
        """

        def ask(index: VectorIndex) -> Found:
            if not isinstance(index, FaissVectors):
                raise StoreError(f"{self._folder}: the vectors must be in {FAISS} to search a selection")
            return index.search_within(queries, k, within)

        return self._ask(ask)

    def _ask(self, ask: Callable[[VectorIndex], Found]) -> Found:
        while True:
            index, location = self.reopen(), self._location
            try:
                return ask(index)
            except StoreError:
                self._catalog.check_fingerprint(self._fingerprint)
                if self._read_location() == location:
                    raise

    def move(self, source: str, target: str, on_progress: OnProgress | None) -> None:
        """Move the vectors; see ``Store.move_vectors``."""

        def open_at(location: VectorLocation, on_progress: OnProgress | None = None) -> VectorIndex:
            return self._open(location, device="cpu", on_progress=on_progress)

        self.index.close()  # a deleted file must not stay open
        moving.move_store(self._folder, self._catalog, open_at, source, target, on_progress)
        self.reopen()

    def reset(self) -> None:
        """Delete a Milvus collection and create an empty one, after its change tracking was lost in a repair."""
        if self.address != FAISS:
            self.index.drop()
            self.index.prepare()

    def _read_location(self) -> VectorLocation:
        return VectorLocation.from_json(self._catalog.meta(moving.HOME))

    def _open(self, location: VectorLocation, *, device: str, on_progress: OnProgress | None = None) -> VectorIndex:
        catalog, epochs = self._catalog, self._epochs
        return open_vectors(location, self._folder, self._dim, catalog, epochs, device=device, on_progress=on_progress)
