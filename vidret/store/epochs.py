"""The feature files that the catalog points into, followed across compactions."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.features import Features
from vidret.store.records import Place


class Epochs:
    """Opens the files of the epoch that the catalog names, and keeps them open until it names another."""

    def __init__(self, folder: Path, dim: int, catalog: Catalog, *, write: bool) -> None:
        """Open the current files; a writer also clears away what an interrupted one left."""
        self._folder = folder
        self._dim = dim
        self._catalog = catalog
        self._lock = threading.Lock()
        if write:
            folder.mkdir(exist_ok=True)
            self._features = Features(folder, dim, catalog.meta("epoch"), write=True)
            self._features.resume(*catalog.tail())
            self._features.remove_others()
        else:
            self._features = self._open(catalog.meta("epoch"))

    def current(self) -> Features:
        """Give the files the catalog points into now."""
        return self._at(self._catalog.meta("epoch"))

    def locate(self, ids: Sequence[int] | Int64[np.ndarray, " id"] | None = None) -> tuple[Features, dict[int, Place]]:
        """Give segments' places (all by default, in id order), and the files these are places in."""
        for _ in range(2):
            epoch, places = self._catalog.places(ids)
            try:
                return self._at(epoch), places
            except FileNotFoundError:  # a compaction ended this very moment and deleted them: ask the catalog again
                continue
        raise StoreError(f"{self._folder}: the feature files of epoch {epoch} are missing")

    def replace(self, fresh: Features) -> None:
        """Go on with the files a compaction wrote; who still reads the old ones keeps them mapped."""
        with self._lock:
            self._features = fresh

    def close(self) -> None:
        """Give the files back."""
        self._features.close()

    def _at(self, epoch: int) -> Features:
        with self._lock:
            if self._features.epoch != epoch:
                self._features = Features(self._folder, self._dim, epoch)
            return self._features

    def _open(self, epoch: int) -> Features:
        try:
            return Features(self._folder, self._dim, epoch)
        except FileNotFoundError:
            return Features(self._folder, self._dim, self._catalog.meta("epoch"))
