"""Vectors of an index in FAISS, synchronised with the catalog and memory-mapped from saved files where possible."""

import contextlib
import logging
import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.manifest import DEAD_IDS, MANIFEST, Manifest, remove_others
from vidret.store.shards import IVF_FROM, Shards, choose_kind, describe_kinds
from vidret.store.vectors import load_faiss
from vidret.types import ALL_VIDEOS, Filters

logger = logging.getLogger(__name__)

Ids = Int64[np.ndarray, " _id"]
MEMORY = "memory"


class FaissVectors:
    """A ``VectorIndex`` in FAISS; nothing is loaded before the first search."""

    def __init__(
        self, path: Path, dim: int, catalog: Catalog, epochs: Epochs, *, device: str, ivf_from: int = IVF_FROM
    ) -> None:
        """Store the arguments; ``path`` is the index folder. From ``ivf_from`` vectors on, shards are built."""
        self._folder = path / "vectors"
        self._old = path / "vectors.faiss"  # written by earlier versions
        self._dim = dim
        self._catalog = catalog
        self._epochs = epochs
        self._device = device
        self._ivf_from = ivf_from
        self._lock = threading.Lock()
        self._shards: Shards | None = None
        self._text: str | None = None  # the manifest they were loaded from
        self._seen = -1  # the generation they match

    @property
    def kind(self) -> str:
        """The kinds of the saved files, such as ``flat`` or ``ivf, flat``."""
        return describe_kinds(Manifest.from_json(self._saved()[0]))

    @property
    def max_k(self) -> int | None:
        """The largest ``k`` that ``search`` takes: no limit."""
        return None

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Return scores and ids of the k best searchable segments per query, from videos that match."""
        with self._lock:
            shards, generation, new_ids = self._synchronise()
            shards.add(new_ids)
            self._seen = generation
            within = None if filters == ALL_VIDEOS else self._catalog.segments.matching(filters)
            return shards.search(queries, k, within)

    def save(self) -> None:
        """Write the vectors to files, then their manifest to the catalog; until then the previous one is valid."""
        with self._lock:
            shards, generation, new_ids = self._synchronise()
            num_vectors = len(shards) + len(new_ids)
            memory = self._catalog.meta(MEMORY) if num_vectors >= self._ivf_from else None
            shards.rebuild(self._folder, choose_kind(num_vectors, self._dim, memory or None), new_ids)
            self._seen = generation
            manifest, dead = shards.save(self._folder, generation), shards.dead.tobytes()
            text = manifest.to_json()
            if (text, dead) != self._saved():
                with self._catalog.transaction(durable=True):
                    self._catalog.set_meta(MANIFEST, text)
                    self._catalog.set_meta(DEAD_IDS, dead)
            self._text = text
            remove_others(self._folder, manifest)
            self._old.unlink(missing_ok=True)

    def _saved(self) -> tuple[str | None, bytes]:
        """Return the manifest and the dead ids in the catalog, read together."""
        manifest, dead = self._catalog.derived(MANIFEST, DEAD_IDS)
        is_list = isinstance(dead, bytes) and not len(dead) % 8
        return (manifest, dead) if is_list else (None, b"")

    def prepare(self) -> None:
        """Check that FAISS is installed."""
        load_faiss()

    def note_changes(self, num_changes: int = 1) -> None:
        """Do nothing: the next search adds new vectors, which is fast."""

    def drop(self) -> None:
        """Delete the saved files, since the vectors have moved."""
        with self._catalog.transaction(durable=True):
            self._catalog.run("DELETE FROM meta WHERE key IN (?, ?)", MANIFEST, DEAD_IDS)
        remove_others(self._folder, Manifest(self._dim, -1, (), None))
        with contextlib.suppress(OSError):  # it does not exist, or holds what is not vidret's
            self._folder.rmdir()
        self._old.unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: only memory is in use."""

    def _synchronise(self) -> tuple[Shards, int, Ids]:
        """Synchronise with the searchable ids; return the shards, the generation, and ids whose vectors must be read.

        Saved files of the current generation are used without listing any ids.
        """
        if self._shards is None:
            self._shards = Shards(self._dim, self._epochs.vectors, device=self._device, ivf_from=self._ivf_from)
        generation: int = self._catalog.meta("generation")  # before the ids: the next search notices changes in between
        new_ids: Ids = np.empty(0, np.int64)
        if generation != self._seen and self._load(self._shards) != generation:
            new_ids = self._shards.retain(self._catalog.segments.searchable())
        return self._shards, generation, new_ids

    def _load(self, shards: Shards) -> int:
        """Load what was saved since the last call; return its generation, -1 where it is unknown."""
        for _ in range(2):
            text, dead = self._saved()
            if text == self._text:
                return -1
            self._text, manifest = text, Manifest.from_json(text)
            if manifest is None or manifest.dim != self._dim:
                logger.info("%s: rebuilding (saved by another version)", self._folder)
                return -1
            if shards.load(self._folder, manifest, np.frombuffer(dead, np.int64)):
                return manifest.generation
            if self._saved()[0] == text:
                break  # otherwise a writer has just saved again and removed these files
        return -1
