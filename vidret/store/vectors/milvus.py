"""Vectors of an index in Milvus, with results that always agree with the catalog and the feature files.

Milvus searches the videos that are up to date there; the few that changed since the last push are scored here, from the
feature files. Ids from Milvus are verified against the catalog and scored by exact inner products with the stored
vectors, so that an outdated or damaged collection causes no wrong result. The writer pushes after ``EVERY`` changes or
``SECONDS``, and at the end of a run.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store.consent import check_allowed
from vidret.store.folder import MILVUS_FILE
from vidret.store.snapshots.bitmap import contains
from vidret.store.snapshots.snapshot import Choice, Selection
from vidret.store.vectors.base import FoundWords, Queries, SearchResult, VectorLocation, VectorOptions, VectorStore
from vidret.store.vectors.milvus_collection import (
    FORMS,
    LIMIT,
    MILVUS,
    Collection,
    missing_collection_error,
    normalise_milvus,
)
from vidret.store.vectors.milvus_rows import CollectionRows, to_milvus_filter
from vidret.store.vectors.mirror import PushTask, StaleRows
from vidret.types import ALL_VIDEOS

logger = logging.getLogger(__name__)

EVERY, SECONDS = 512, 30.0  # pushes: changes and seconds in between
BATCH = 256  # videos per push
ROWS = 4096  # vectors read together
QUERIES = 16  # queries whose candidates are read together
Ids = Int64[np.ndarray, " _id"]


class MilvusVectors:
    """A ``VectorIndex`` in a Milvus collection, connected on first use."""

    def __init__(self, location: VectorLocation, options: VectorOptions) -> None:
        self._address, self._folder, self._dim = location.address, options.folder, options.dim
        self._name = f"vidret_{location.name}"
        self._catalog, self._epochs, self._on_progress = options.catalog, options.epochs, options.on_progress
        self._rows = CollectionRows(self._catalog, location.name, options.pictures)
        self._mirror = self._rows.mirror
        # The index whose user allows the address.
        self._owner = options.folder if options.pictures is None else options.pictures.parent
        self._lock, self._pushing = threading.Lock(), threading.Lock()
        self._collection: Collection | None = None
        self._loaded = self._prepared = False  # searchable; verified against the mirror
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
        stale = self._find_stale()
        expression = self._make_expression(within, stale)
        for first in range(0, len(queries), QUERIES):
            batch = slice(first, first + QUERIES)
            found = _deepen(partial(collection.search, queries[batch], expression=expression), k, within)
            kept, products = self._score(queries[batch], np.unique(np.concatenate([*found, _keep(stale.ids, within)])))
            order = np.argsort(-products, axis=1, kind="stable")[:, :k]  # stable: ties in the order of their ids
            scores[batch, : order.shape[1]] = np.take_along_axis(products, order, axis=1)
            ids[batch, : order.shape[1]] = kept[order]
        return SearchResult(scores, ids)

    def search_words(self, terms: Sequence[str], k: int, within: Selection) -> FoundWords | None:
        """Return the k texts of a selection with the best bm25 for any of these stems; None if Milvus has no bm25."""
        collection = self._open()
        if not collection.has_words:
            return None
        stale = self._find_stale()
        ask = partial(
            collection.search_words, " ".join(dict.fromkeys(terms)), expression=self._make_expression(within, stale)
        )
        return FoundWords(_deepen(ask, k, within)[0][:k], stale.owners)

    def _find_stale(self) -> StaleRows:
        return self._mirror.find_stale(self._rows.find_outdated())

    def _make_expression(self, within: Selection, stale: StaleRows) -> str:
        """Return a selection, without videos that are out of date, as an expression of Milvus."""
        choice = within.choice
        if choice is None and within.narrow:
            owners = set(self._catalog.snapshots.current().owners(within.ids()).tolist())
            return f"video in {sorted(owners.difference(stale.videos, [-1])) or [0]}"
        choice, own = choice or Choice(), [] if choice is None else self._rows.list_conditions(choice)
        by_id = [] if choice.filters == ALL_VIDEOS else self._mirror.find_by_id(within.bits)
        return " and ".join(filter(None, [*own, to_milvus_filter(choice.filters, by_id, stale.videos)]))

    def _score(self, queries: Queries, ids: Ids) -> tuple[Ids, Float32[np.ndarray, "query id"]]:
        """Return the ids of intact vectors, and their inner products with the queries."""
        kept, products = [np.empty(0, np.int64)], [np.empty((len(queries), 0), np.float32)]
        for first in range(0, len(ids), ROWS):
            known, vectors = self._epochs.intact_vectors(ids[first : first + ROWS])
            kept.append(known)
            products.append(queries @ vectors.astype(np.float32).T)
        return np.concatenate(kept), np.concatenate(products, axis=1)

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
        """Delete the mirror's tables in the catalog, then the collection."""
        self._rows.drop()
        self._connect().drop()
        self.close()
        if self._address == MILVUS:  # the file belongs to this index
            shutil.rmtree(self._folder / MILVUS_FILE, ignore_errors=True)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._collection is not None:
                self._collection.close()
            self._collection, self._loaded, self._prepared = None, False, False
            self._rows.close()

    def _prepare(self) -> Collection:
        collection = self._connect()
        if self._prepared:
            return collection
        self._rows.begin()
        valid = collection.exists()
        if valid:
            stale, expected = self._mirror.count_expected()
            num_vectors = collection.count(to_milvus_filter(ALL_VIDEOS, [], stale))
            valid = num_vectors == expected
            if not valid:
                message = "%s: the collection must have %d vectors, got %d; filling a new one"
                logger.warning(message, self._address, expected, num_vectors)
                collection.drop()
        if not valid:
            self._mirror.restart()
            collection.create(with_texts=self._rows.has_texts)
        self._loaded = self._prepared = True
        return collection

    def _push(self) -> None:
        """Push changed videos, batch by batch, until less than a batch is left."""
        collection = self._prepare()
        self._num_changes, self._pushed_at = 0, time.monotonic()
        self._rows.follow()
        self._report_progress()
        while True:
            tasks = self._mirror.next_tasks(BATCH)
            self._push_batch(collection, tasks)
            self._report_progress()
            if len(tasks) < BATCH:
                break

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            num_stale, total = self._mirror.count()
            self._on_progress(total - num_stale, total)

    def _push_batch(self, collection: Collection, tasks: Sequence[PushTask]) -> None:
        """Write new rows, then delete outdated ones, so that searches find a video all the time."""
        owners = {key: task for task in tasks for key in task.ids}
        ids, pushed = np.array(sorted(owners), np.int64), [np.empty(0, np.int64)]
        for first in range(0, len(ids), ROWS):
            kept, vectors = self._epochs.intact_vectors(ids[first : first + ROWS])
            pushed.append(kept)
            rows = [{"id": key, "video": owners[key].video, **(owners[key].about or {})} for key in kept.tolist()]
            if collection.has_words:
                words = self._rows.read_words(kept.tolist())
                rows = [{**row, "words": words.get(key, "")} for key, row in zip(kept.tolist(), rows, strict=True)]
            collection.upsert(rows, vectors)
        replaced = [task for task in tasks if task.whole and task.pushed]
        if replaced:
            valid = np.concatenate(pushed)
            valid = valid[np.isin(valid, [key for task in replaced for key in task.ids])]
            videos = [task.video for task in replaced]
            collection.delete(f"video in {videos}" + (f" and id not in {valid.tolist()}" if len(valid) else ""))
        self._mirror.record(tasks, np.concatenate(pushed))

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
                if self._address != MILVUS:  # which is a file in the index
                    check_allowed(self._owner, self._address, option="--store")
                self._collection = Collection(self._address, self._name, self._dim, self._folder)
            return self._collection


def _keep(ids: Ids, within: Selection) -> Ids:
    kept: Ids = ids[contains(within.bits, ids)]
    return kept


def _deepen(ask: Callable[[int], list[Ids]], k: int, within: Selection) -> list[Ids]:
    """Return k ids of a selection for each query, or more, from what the collection answers to a limit."""
    limit = min(k, LIMIT)
    while True:
        results = ask(limit)
        kept = [_keep(ids, within) for ids in results]
        if limit == LIMIT or all(len(ids) < limit or len(own) >= k for ids, own in zip(results, kept, strict=True)):
            return kept
        limit = min(4 * limit, LIMIT)  # rows were added to the collection, or deleted from the catalog, meanwhile


STORE = VectorStore(
    forms=FORMS,
    normalise=normalise_milvus,
    is_part=lambda address: address == MILVUS,
    check=lambda address, folder, dim: Collection(address, "", dim, folder).close(),
    open=MilvusVectors,
)
