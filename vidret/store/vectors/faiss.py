"""Vectors of an index in FAISS, synchronised with the catalog and memory-mapped from saved files where possible."""

import contextlib
import logging
import threading
from collections.abc import Sequence

from vidret.store.folder import VECTORS
from vidret.store.snapshots.bitmap import pack_bitmap, unpack_bitmap
from vidret.store.snapshots.snapshot import Selection
from vidret.store.vectors.base import FAISS, Queries, SearchResult, VectorOptions, VectorStore
from vidret.store.vectors.flat import load_faiss
from vidret.store.vectors.manifest import HELD_IDS, MANIFEST, Manifest, remove_others
from vidret.store.vectors.shards import IVF_FROM, Shards, choose_kind, describe_kinds

logger = logging.getLogger(__name__)

MEMORY = "memory"


class FaissVectors:
    """A ``VectorIndex`` in FAISS; nothing is loaded before the first search, which may be of any depth."""

    max_k: int | None = None

    def __init__(self, options: VectorOptions, *, ivf_from: int = IVF_FROM) -> None:
        """Store the arguments. From ``ivf_from`` vectors on, shards are built."""
        self._folder, self._dim, self._device = options.folder / VECTORS, options.dim, options.device
        self._catalog, self._epochs = options.catalog, options.epochs
        self._ivf_from, self._lock = ivf_from, threading.Lock()
        self._shards: Shards | None = None
        self._text: str | None = None  # the manifest that the shards were loaded from
        self._searched: Selection | None = None  # the selection of all vectors in the shards

    @property
    def kind(self) -> str:
        """The kinds of the saved files, such as ``flat`` or ``ivf, flat``."""
        return describe_kinds(Manifest.from_json(self._catalog.tables.derived(MANIFEST)[0]))

    def search_within(self, queries: Queries, k: int, within: Selection) -> SearchResult:
        """Return scores and ids of the k best per query, within a selection of a snapshot."""
        return self._synchronise().search(queries, k, within)

    def search_words(self, terms: Sequence[str], k: int, within: Selection) -> None:
        """Return None: FAISS has no full text."""

    def save(self) -> None:
        """Write the vectors to files, then their manifest to the catalog; until then the previous one is valid."""
        with self._lock:
            shards, wanted = self._load(), self._catalog.snapshots.current().everything
            memory = self._catalog.tables.meta(MEMORY) if wanted.num_segments >= self._ivf_from else None
            shards.rebuild(self._folder, choose_kind(wanted.num_segments, self._dim, memory or None), wanted.bits)
            manifest, held = shards.save(self._folder), pack_bitmap(shards.bits)
            text = manifest.to_json()
            if [text, held] != self._catalog.tables.derived(MANIFEST, HELD_IDS):
                with self._catalog.database.transaction(durable=True):
                    self._catalog.tables.set_meta(MANIFEST, text)
                    self._catalog.tables.set_meta(HELD_IDS, held)
            self._text, self._searched = text, wanted
            remove_others(self._folder, manifest)

    def prepare(self) -> None:
        """Check that FAISS is installed."""
        load_faiss()

    def note_changes(self, num_changes: int = 1) -> None:
        """Do nothing: the next search adds new vectors, which is fast."""

    def drop(self) -> None:
        """Delete the saved files, since the vectors have moved."""
        with self._catalog.database.transaction(durable=True):
            self._catalog.database.run("DELETE FROM meta WHERE key IN (?, ?)", MANIFEST, HELD_IDS)
        remove_others(self._folder, Manifest(self._dim, (), None))
        with contextlib.suppress(OSError):  # the folder does not exist, or has foreign files
            self._folder.rmdir()

    def close(self) -> None:
        """Do nothing: only memory is in use."""

    def _synchronise(self) -> Shards:
        """Return all vectors, including those of new segments in the latest snapshot.

        Other threads can search at the same time. Damaged vectors are read again whenever there are new ones.
        """
        wanted = self._catalog.snapshots.current().everything
        if self._searched is not wanted:
            with self._lock:
                if self._searched is not wanted:
                    shards = self._load()
                    shards.add(shards.find_missing(wanted.bits))
                    self._searched = wanted
        assert self._shards is not None
        return self._shards

    def _load(self) -> Shards:
        """Load the files saved since the last call."""
        if self._shards is None:
            self._shards = Shards(self._dim, self._epochs.intact_vectors, device=self._device, ivf_from=self._ivf_from)
        for _ in range(2):
            text: str | None = self._catalog.tables.derived(MANIFEST)[0]
            if text == self._text:
                break
            text, packed = self._catalog.tables.derived(MANIFEST, HELD_IDS)
            self._text, manifest = text, Manifest.from_json(text)
            if manifest is None or manifest.dim != self._dim:
                logger.info("%s: rebuilding (saved by another version)", self._folder)
                break
            self._shards.load(self._folder, manifest, unpack_bitmap(packed))
            # Otherwise a writer may have saved again just now, and removed these files.
        return self._shards


STORE = VectorStore(
    forms=(FAISS,),
    normalise=lambda address, _folder: address if address == FAISS else None,
    is_part=lambda _address: True,
    check=lambda _address, _folder, _dim: load_faiss(),
    open=lambda _location, options: FaissVectors(options),
)
