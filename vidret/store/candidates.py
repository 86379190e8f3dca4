"""The search over an index: vectors kept in step with the catalog, loaded from disk where that saves building them.

Ids are never reused and a vector never changes under its id, so holding the right *set of ids* is holding the right
vectors: that one comparison covers every way of being out of date.
"""

import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.vectors import BATCH, Seal, Vectors
from vidret.types import ALL_VIDEOS, Filters

logger = logging.getLogger(__name__)

Ids = Int64[np.ndarray, " id"]


class Candidates:
    """Vectors that follow a catalog; nothing is loaded before the first search."""

    def __init__(self, path: Path, dim: int, catalog: Catalog, epochs: Epochs, *, device: str) -> None:
        """Remember where everything is; ``path`` is the file to load from and save to."""
        self._path = path
        self._dim = dim
        self._catalog = catalog
        self._epochs = epochs
        self._device = device
        self._lock = threading.Lock()
        self._vectors: Vectors | None = None
        self._seen = -1  # the generation that the vectors follow
        self._saved = False  # whether the file holds just these vectors

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k best segments per query among those searchable now, of videos that match."""
        with self._lock:
            vectors = self._fresh()
            within = None if filters == ALL_VIDEOS else self._catalog.matching(filters)
            return vectors.search(queries, k, within)

    def save(self) -> None:
        """Write the vectors, then have the catalog believe the file: between the two steps it would be built anew."""
        with self._lock:
            vectors = self._fresh()
            if vectors.train() or not self._saved:
                seal = vectors.save(self._path)
                with self._catalog.transaction(durable=True):
                    self._catalog.set_meta("vectors", json.dumps(asdict(seal)))
                self._saved = True

    def seal(self) -> Seal | None:
        """Describe the saved vectors, None where none were saved."""
        text = self._catalog.meta("vectors")
        return Seal(**json.loads(text)) if text else None

    def _fresh(self) -> Vectors:
        """Bring the vectors to the catalog's set of searchable ids."""
        generation = self._catalog.meta("generation")  # read first: the next search sees a change in between
        if self._vectors is None:
            self._vectors, seal = Vectors(self._dim, device=self._device), self.seal()
            self._saved = seal is not None and self._vectors.load(self._path, seal)
        if generation != self._seen:
            wanted = self._catalog.searchable()
            gone = np.setdiff1d(self._vectors.ids, wanted, assume_unique=True)
            new = np.setdiff1d(wanted, self._vectors.ids, assume_unique=True)
            self._vectors.remove(gone)
            for first in range(0, len(new), BATCH):
                self._vectors.add(*self._read(new[first : first + BATCH]))
            self._saved = self._saved and not len(gone) and not len(new)
            self._seen = generation
        return self._vectors

    def _read(self, ids: Ids) -> tuple[Ids, Float16[np.ndarray, "id dim"]]:
        """Read segments' own vectors; a damaged one is left out, since one bad row must not end all searching."""
        features, places = self._epochs.locate(ids)
        kept, rows = [], [np.empty((0, self._dim), np.float16)]
        for key, place in places.items():
            try:
                rows.append(features.read_video(place))
                kept.append(key)
            except StoreError as error:
                logger.warning("segment %d cannot be searched: %s", key, error)
        return np.asarray(kept, np.int64), np.concatenate(rows)
