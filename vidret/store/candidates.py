"""The search over an index: vectors kept in step with the catalog, mapped from disk where that saves building them."""

import logging
import shutil
import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.manifest import SEAL, SEAL_DEAD, Seal, remove_others
from vidret.store.shards import IVF_FROM, Shards, choose_kind, name_kinds
from vidret.store.vectors import load_faiss
from vidret.types import ALL_VIDEOS, Filters

logger = logging.getLogger(__name__)

Ids = Int64[np.ndarray, " _id"]
MEMORY = "memory"


class Candidates:
    """Vectors that follow a catalog; nothing is loaded before the first search."""

    def __init__(
        self, path: Path, dim: int, catalog: Catalog, epochs: Epochs, *, device: str, ivf_from: int = IVF_FROM
    ) -> None:
        """Remember where everything is: ``path`` is the index's folder; with ``ivf_from`` vectors shards begin."""
        self._folder = path / "vectors"
        self._old = path / "vectors.faiss"  # the one file of earlier versions
        self._dim = dim
        self._catalog = catalog
        self._epochs = epochs
        self._device = device
        self._ivf_from = ivf_from
        self._lock = threading.Lock()
        self._shards: Shards | None = None
        self._text: str | None = None  # the seal that they were loaded from
        self._seen = -1  # the generation that they follow

    @property
    def kind(self) -> str:
        """Name what was saved: ``flat``, or kinds of shards."""
        return name_kinds(Seal.from_json(self._saved()[0]))

    @property
    def max_k(self) -> int | None:
        """The largest ``k`` that ``search`` takes: no limit."""
        return None

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k best segments per query among those searchable now, of videos that match."""
        with self._lock:
            shards, generation, new = self._follow()
            shards.fill(new)
            self._seen = generation
            within = None if filters == ALL_VIDEOS else self._catalog.segments.matching(filters)
            return shards.search(queries, k, within)

    def save(self) -> None:
        """Write the vectors, then have the catalog believe the files; until then it believes those of before."""
        with self._lock:
            shards, generation, new = self._follow()
            num = len(shards) + len(new)
            memory = self._catalog.meta(MEMORY) if num >= self._ivf_from else None
            shards.arrange(self._folder, choose_kind(num, self._dim, memory or None), new)
            self._seen = generation
            seal, dead = shards.save(self._folder, generation), shards.dead.tobytes()
            text = seal.to_json()
            if (text, dead) != self._saved():
                with self._catalog.transaction(durable=True):
                    self._catalog.set_meta(SEAL, text)
                    self._catalog.set_meta(SEAL_DEAD, dead)
            self._text = text
            remove_others(self._folder, seal)
            self._old.unlink(missing_ok=True)

    def _saved(self) -> tuple[str | None, bytes]:
        """Give the seal and the dead ids that the catalog keeps, of one moment."""
        seal, dead = self._catalog.derived(SEAL, SEAL_DEAD)
        return (seal, dead) if isinstance(dead, bytes) else (None, b"")

    def prepare(self) -> None:
        """Tell a writer now that FAISS is missing."""
        load_faiss()

    def keep_up(self, num_changes: int = 1) -> None:
        """Wait for the next search: adding what is new takes it no time to speak of."""

    def drop(self) -> None:
        """Delete the files: they are no longer this index's way to search."""
        with self._catalog.transaction(durable=True):
            self._catalog.run("DELETE FROM meta WHERE key IN (?, ?)", SEAL, SEAL_DEAD)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._old.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back: nothing but memory."""

    def _follow(self) -> tuple[Shards, int, Ids]:
        """Bring the vectors to the catalog's searchable ids; return its generation, and ids that are still to be read.

        Where what was saved is of the catalog's generation it is taken as it is: no id is listed.
        """
        if self._shards is None:
            self._shards = Shards(self._dim, self._epochs.vectors, device=self._device, ivf_from=self._ivf_from)
        generation = self._catalog.meta("generation")  # read first: the next search sees a change in between
        new: Ids = np.empty(0, np.int64)
        if generation != self._seen and self._load(self._shards) != generation:
            new = self._shards.follow(self._catalog.segments.searchable())
        return self._shards, generation, new

    def _load(self, shards: Shards) -> int:
        """Take over what was saved since the last time; return the generation it holds, -1 where that is not known."""
        for _ in range(2):
            text, dead = self._saved()
            if text == self._text:
                return -1
            self._text, seal = text, Seal.from_json(text)
            if seal is None or seal.dim != self._dim:
                logger.info("%s: building it anew (it was saved by another version)", self._old)
                return -1
            if shards.load(self._folder, seal, np.frombuffer(dead, np.int64)):
                return seal.generation
            if self._saved()[0] == text:
                break  # else a writer saved again this very moment, and removed these files
        return -1
