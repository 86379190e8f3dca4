"""Vectors of an index in Milvus, with results that always agree with the catalog and the feature files.

The catalog lists the segments in a collection. Ids are never reused and the vector of an id never changes, so comparing
sets of ids gives the segments to push and to delete. Milvus searches its segments; the few that it lacks are scored
here, from the feature files. Ids from Milvus are verified against the catalog and scored by exact inner products with
the stored vectors, so that an outdated or damaged collection causes no wrong result. The writer pushes after ``EVERY``
changes or ``SECONDS``, and at the end of a run.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from vidret.errors import StoreError
from vidret.store.consent import check_allowed
from vidret.store.folder import CATALOG, MILVUS_FILE, TEXTS
from vidret.store.snapshots.bitmap import (
    Bits,
    Ids,
    add_ids,
    contains,
    count_ids,
    list_ids,
    pack_bitmap,
    subtract,
    unpack_bitmap,
)
from vidret.store.snapshots.snapshot import Selection, find_rows
from vidret.store.texts.stems import Stemmer
from vidret.store.vectors.base import FoundWords, Queries, SearchResult, VectorLocation, VectorOptions, VectorStore
from vidret.store.vectors.milvus_collection import (
    LIMIT,
    MILVUS,
    WORDS_BYTES,
    Collection,
    missing_collection_error,
    normalise_milvus,
)

logger = logging.getLogger(__name__)

EVERY, SECONDS = 512, 30.0  # pushes: changes and seconds in between
ROWS = 4096  # vectors read or pushed together
QUERIES = 16  # queries whose candidates are read together


class Pushed(NamedTuple):
    """The ids of a collection's rows: all ``held`` ones are in it, and it has none that was not ``sent``."""

    held: Bits
    sent: Bits


NOTHING = Pushed(np.zeros(0, np.uint8), np.zeros(0, np.uint8))


class MilvusVectors:
    """A ``VectorIndex`` in a Milvus collection, connected on first use."""

    def __init__(self, location: VectorLocation, options: VectorOptions) -> None:
        self._address, self._folder, self._dim = location.address, options.folder, options.dim
        self._name = f"vidret_{location.name}"
        self._keys = [f"milvus.{location.name}.{kind}" for kind in Pushed._fields]
        self._catalog, self._epochs, self._on_progress = options.catalog, options.epochs, options.on_progress
        folder = options.folder.absolute()
        self._has_texts = folder.name == TEXTS and (folder.parent / CATALOG).is_file()
        # The index whose consent covers the address.
        self._owner = folder.parent if self._has_texts else options.folder
        self._stemmer: Stemmer | None = None
        self._lock, self._pushing = threading.Lock(), threading.Lock()
        self._collection: Collection | None = None
        self._loaded = self._prepared = False  # searchable; verified against the pushed ids
        self._pushed: tuple[list[object], Pushed] = [], NOTHING  # as it was last read
        self._num_changes, self._pushed_at = 0, time.monotonic()

    @property
    def kind(self) -> str:
        """The kind of index."""
        return "milvus"

    # Reading

    @property
    def max_k(self) -> int | None:
        """The maximum ``k`` of ``search_within`` in a larger index: Milvus returns no more results per request."""
        return LIMIT

    def search_within(self, queries: Queries, k: int, within: Selection) -> SearchResult:
        """Return scores and ids of the k best segments per query, within a selection of a snapshot.

        Raises:
            StoreError: Milvus does not answer, the collection does not exist, or k exceeds the limit of Milvus.
        """
        if min(k, self._catalog.snapshots.current().everything.num_segments) > LIMIT:
            raise StoreError(f"k must be at most {LIMIT} with vectors in Milvus, got {k}")
        collection = self._open()
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        pushed = self._read_pushed()
        missing, expression = list_ids(subtract(within.bits, pushed.held)), self._make_expression(within, pushed)
        for first in range(0, len(queries), QUERIES):
            batch = slice(first, first + QUERIES)
            nearest_ids = _deepen(partial(collection.search, queries[batch], expression=expression), k, within)
            kept, products = self._score(queries[batch], np.unique(np.concatenate([*nearest_ids, missing])))
            order = np.argsort(-products, axis=1, kind="stable")[:, :k]  # stable: ties in the order of their ids
            scores[batch, : order.shape[1]] = np.take_along_axis(products, order, axis=1)
            ids[batch, : order.shape[1]] = kept[order]
        return SearchResult(scores, ids)

    def search_words(self, terms: Sequence[str], k: int, within: Selection) -> FoundWords | None:
        """Return the k texts of a selection with the best bm25 for any of these stems; None if Milvus has no bm25."""
        collection = self._open()
        if not collection.has_words:
            return None
        pushed = self._read_pushed()
        expression = self._make_expression(within, pushed)
        ask = partial(collection.search_words, " ".join(dict.fromkeys(terms)), expression=expression)
        missing = list_ids(subtract(within.bits, pushed.held))
        owners = set(self._catalog.snapshots.current().owners(missing).tolist()) - {-1}
        return FoundWords(_deepen(ask, k, within)[0][:k], tuple(sorted(owners)))

    def _make_expression(self, within: Selection, pushed: Pushed) -> str:
        """Return a Milvus expression that excludes most rows that are not in a selection."""
        snapshot = self._catalog.snapshots.current()
        segments, videos = snapshot.segments, snapshot.videos
        is_in = videos.num_paths > 0
        if within.narrow:
            is_in = np.zeros(len(videos.ids), bool)
            is_in[segments.video_rows[contains(within.bits, segments.ids)]] = True
        chosen, others = videos.ids[is_in].tolist(), videos.ids[~is_in & (videos.last_segments >= 0)].tolist()
        if len(chosen) <= len(others):
            return f"video in {chosen or [0]}"
        dead = list_ids(subtract(pushed.sent, snapshot.everything.bits))
        rows = find_rows(segments.ids, dead)
        is_listed = rows < 0
        is_listed[~is_listed] = is_in[segments.video_rows[rows[~is_listed]]]
        conditions = {"video": others, "id": dead[is_listed].tolist()}
        return " and ".join(f"{field} not in {values}" for field, values in conditions.items() if values)

    def _score(self, queries: Queries, ids: Ids) -> tuple[Ids, Float32[np.ndarray, "query id"]]:
        """Return the ids of intact vectors, and their inner products with the queries."""
        kept, products = [np.empty(0, np.int64)], [np.empty((len(queries), 0), np.float32)]
        for batch in _split(ids):
            intact_ids, vectors = self._epochs.intact_vectors(batch)
            kept.append(intact_ids)
            products.append(queries @ vectors.astype(np.float32).T)
        return np.concatenate(kept), np.concatenate(products, axis=1)

    def _read_pushed(self) -> Pushed:
        """Return the ids that the collection has; none if they are unknown."""
        stored = self._catalog.tables.derived(*self._keys)
        known, pushed = self._pushed
        if stored != known:
            held, sent = map(unpack_bitmap, stored)
            pushed = NOTHING if held is None or sent is None else Pushed(held, sent)
            self._pushed = stored, pushed
        return pushed

    # Writing

    def prepare(self) -> None:
        """Connect and verify the number of rows in the collection; if it is wrong, start over with an empty one."""
        with self._pushing:
            self._prepare()

    def note_changes(self, num_changes: int = 1) -> None:
        """Push changes if there are enough or enough time has passed; one thread pushes while the others continue."""
        self._num_changes += num_changes
        due = self._num_changes >= EVERY or time.monotonic() - self._pushed_at >= SECONDS
        if due and self._pushing.acquire(blocking=False):
            try:
                self._push()
            finally:
                self._pushing.release()

    def save(self) -> None:
        """Push all changes and flush them to disk."""
        with self._pushing:
            self._push()
            self._open().flush()

    def drop(self) -> None:
        """Delete the catalog's entries for the collection, then the collection."""
        self._catalog.database.run("DELETE FROM meta WHERE key IN (?, ?)", *self._keys)
        self._connect().drop()
        self.close()
        if self._address == MILVUS:  # the file belongs to this index
            shutil.rmtree(self._folder / MILVUS_FILE, ignore_errors=True)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._collection is not None:
                self._collection.close()
            if self._stemmer is not None:
                self._stemmer.close()
            self._collection, self._stemmer, self._loaded, self._prepared = None, None, False, False

    def _prepare(self) -> Collection:
        collection = self._connect()
        if self._prepared:
            return collection
        is_valid = collection.exists()
        if is_valid:
            pushed, num_rows = self._read_pushed(), collection.count("")
            num_held = count_ids(pushed.held)
            is_valid = num_held <= num_rows <= count_ids(pushed.sent)
            if not is_valid:
                message = "%s: the collection must have %d vectors, got %d; filling a new one"
                logger.warning(message, self._address, num_held, num_rows)
                collection.drop()
        if not is_valid:
            self._record(NOTHING)
            collection.create(with_texts=self._has_texts)
        self._loaded = self._prepared = True
        return collection

    def _push(self) -> None:
        """Push new segments, batch by batch, and delete those that searches must not return."""
        collection = self._prepare()
        self._num_changes, self._pushed_at = 0, time.monotonic()
        wanted, (held, sent) = self._catalog.snapshots.current().everything.bits, self._read_pushed()
        missing, dead = list_ids(subtract(wanted, held)), list_ids(subtract(sent, wanted))
        report = self._follow_progress(missing)
        report(0)
        if not len(missing) and not len(dead):
            return
        held = subtract(held, subtract(held, wanted))
        sent = add_ids(sent, missing)
        self._record(Pushed(held, sent))
        for batch in _split(dead):
            collection.delete(f"id in {batch.tolist()}")
        for first, batch in zip(range(0, len(missing), ROWS), _split(missing), strict=True):
            kept = self._push_batch(collection, batch)
            held = add_ids(held, kept)
            self._record(Pushed(held, sent))
            report(first + len(batch))
        self._record(Pushed(held, held))

    def _push_batch(self, collection: Collection, ids: Ids) -> Ids:
        """Push the segments that can be read, return their ids, and delete others that a killed run pushed."""
        kept, vectors = self._epochs.intact_vectors(ids)
        owners = self._catalog.snapshots.current().owners(kept).tolist()
        rows = [{"id": key, "video": video} for key, video in zip(kept.tolist(), owners, strict=True)]
        if collection.has_words:
            words = self._read_words(kept)
            rows = [{**row, "words": words.get(key, "")} for key, row in zip(kept.tolist(), rows, strict=True)]
        collection.upsert(rows, vectors)
        if len(kept) < len(ids):
            collection.delete(f"id in {np.setdiff1d(ids, kept).tolist()}")
        return kept

    def _read_words(self, ids: Ids) -> dict[int, str]:
        """Return the stems of each text, joined by spaces, by id."""
        self._stemmer = self._stemmer or Stemmer()
        texts = self._catalog.texts.read_words(ids)
        words = [" ".join(stems).encode()[:WORDS_BYTES] for stems in self._stemmer.stems(list(texts.values()))]
        return {key: encoded.decode(errors="ignore") for key, encoded in zip(texts, words, strict=True)}

    def _record(self, pushed: Pushed) -> None:
        with self._catalog.database.transaction(durable=True):
            for key, bits in zip(self._keys, pushed, strict=True):
                self._catalog.tables.set_meta(key, pack_bitmap(bits))

    def _follow_progress(self, missing: Ids) -> Callable[[int], None]:
        """Return a function that reports the number of complete videos, given the number of missing rows pushed."""
        on_progress = self._on_progress
        if on_progress is None:
            return lambda _num_rows: None
        snapshot = self._catalog.snapshots.current()
        owners = snapshot.owners(missing)
        _, last = np.unique(owners[::-1], return_index=True)
        ends = np.sort(len(owners) - last)
        total = snapshot.everything.num_videos
        return lambda num_rows: on_progress(total - int((ends > num_rows).sum()), total)

    def _open(self) -> Collection:
        """Return the collection, loaded for searching."""
        collection = self._connect()
        if not self._loaded:
            if not collection.exists():
                raise missing_collection_error(self._address, self._name)
            self._loaded = True
        return collection

    def _connect(self) -> Collection:
        with self._lock:
            if self._collection is None:
                if self._address != MILVUS:  # that is a file in the index
                    check_allowed(self._owner, self._address, option="--store")
                self._collection = Collection(self._address, self._name, self._dim, self._folder)
            return self._collection


def _split(ids: Ids) -> Iterator[Ids]:
    return (ids[first : first + ROWS] for first in range(0, len(ids), ROWS))


def _deepen(ask: Callable[[int], list[Ids]], k: int, within: Selection) -> list[Ids]:
    """Return at least k ids of a selection for each query, by asking the collection with growing limits."""
    limit = min(k, LIMIT)
    while True:
        results = ask(limit)
        kept = [ids[contains(within.bits, ids)] for ids in results]
        if limit == LIMIT or all(
            len(ids) < limit or len(kept_ids) >= k for ids, kept_ids in zip(results, kept, strict=True)
        ):
            return kept
        limit = min(4 * limit, LIMIT)  # rows were just added to the collection, or deleted from the catalog


STORE = VectorStore(
    forms=(MILVUS, "milvus://FILE.db", "milvus://HOST:PORT", "milvus://http(s)://HOST:PORT[/DATABASE]"),
    normalise=normalise_milvus,
    is_part=lambda address: address == MILVUS,
    check=lambda address, folder, dim: Collection(address, "", dim, folder).close(),
    open=MilvusVectors,
)
