"""The search over an index whose vectors are in Milvus, always with the answers that the catalog and features give.

Milvus is asked about the videos that it knows as they are; the few that changed since the last push are scored here,
from the feature files. What Milvus finds is held against the catalog, and its score is the exact inner product with the
stored vector, so that an outdated or damaged collection gives nothing wrong. The writer pushes what changed every
``EVERY`` changes or ``SECONDS``, and at the end of a run.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store.address import MILVUS, OWN_FILE
from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.milvus import LIMIT, PATH_BYTES, Collection, missing
from vidret.store.mirror import Behind, Mirror, Task, express
from vidret.types import ALL_VIDEOS, Filters

logger = logging.getLogger(__name__)

EVERY, SECONDS = 512, 30.0
BATCH = 256  # videos pushed together
ROWS = 4096  # vectors read at once
QUERIES = 16  # queries whose candidates are read together
Ids = Int64[np.ndarray, " _id"]


class Mirrored:
    """A collection that follows a catalog; nothing is connected before it is needed."""

    def __init__(
        self,
        address: str,
        name: str,
        folder: Path,
        dim: int,
        catalog: Catalog,
        epochs: Epochs,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Remember where everything is; ``on_progress`` hears of videos pushed, and of all there are."""
        self._address, self._folder, self._dim = address, folder, dim
        self._name = f"vidret_{name}"
        self._catalog, self._epochs = catalog, epochs
        self._mirror = Mirror(catalog, name, PATH_BYTES)
        self._on_progress = on_progress
        self._lock, self._pushing = threading.Lock(), threading.Lock()
        self._collection: Collection | None = None
        self._loaded = self._prepared = False  # whether it can be searched, whether it holds what was pushed
        self._num_changes, self._pushed_at = 0, time.monotonic()

    @property
    def kind(self) -> str:
        """Say how a search goes."""
        return "milvus"

    # Reading

    @property
    def max_k(self) -> int | None:
        """The largest ``k`` that ``search`` takes in a larger index: what Milvus returns at most for one request."""
        return LIMIT

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k best segments per query among those searchable now, of videos that match.

        Raises:
            StoreError: Milvus does not answer, the collection is gone, or k is more than it can give.
        """
        if k > LIMIT and min(k, self._catalog.segments.count()) > LIMIT:
            raise StoreError(f"k must be at most {LIMIT} with vectors in Milvus, got {k}")
        collection = self._opened()
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        for first in range(0, len(queries), QUERIES):
            part = slice(first, first + QUERIES)
            found = self._find(collection, queries[part], min(k, LIMIT), filters)
            kept, products = self._score(queries[part], found)
            order = np.argsort(-products, axis=1, kind="stable")[:, :k]  # equal ones in the order of their ids
            scores[part, : order.shape[1]] = np.take_along_axis(products, order, axis=1)
            ids[part, : order.shape[1]] = kept[order]
        return scores, ids

    def _find(self, collection: Collection, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters) -> Ids:
        """Gather segments among which the k best of each query are, all of them searchable."""
        behind: Behind = self._mirror.behind(filters)
        by_id = [] if filters == ALL_VIDEOS else self._mirror.matched_by_id(filters)
        expression = express(filters, by_id, behind.videos)
        most = k
        while True:
            found = collection.search(queries, most, expression)
            good = self._mirror.still(np.unique(np.concatenate([behind.ids, *found])), filters)
            lacking = any(len(each) == most and np.isin(each, good).sum() < k for each in found)
            if not lacking or most == LIMIT:
                return good
            most = min(4 * most, LIMIT)  # rows that came into the collection, or went from the catalog, in between

    def _score(
        self, queries: Float32[np.ndarray, "query dim"], ids: Ids
    ) -> tuple[Ids, Float32[np.ndarray, "query id"]]:
        """Give the inner products with the stored vectors; damaged ones are left out."""
        kept, products = [np.empty(0, np.int64)], [np.empty((len(queries), 0), np.float32)]
        for first in range(0, len(ids), ROWS):
            known, vectors = self._epochs.vectors(ids[first : first + ROWS])
            kept.append(known)
            products.append(queries @ vectors.astype(np.float32).T)
        return np.concatenate(kept), np.concatenate(products, axis=1)

    # Writing

    def prepare(self) -> None:
        """Connect, and see to it that the collection holds what was pushed; one that does not is filled anew."""
        with self._pushing:
            self._prepare()

    def keep_up(self, num_changes: int = 1) -> None:
        """Push what changed, where that is enough or long enough ago; one thread does, the others go on."""
        self._num_changes += num_changes
        due = self._num_changes >= EVERY or time.monotonic() - self._pushed_at >= SECONDS
        if due and self._pushing.acquire(blocking=False):
            try:
                self._push()
            finally:
                self._pushing.release()

    def save(self) -> None:
        """Push all that changed, and have Milvus write it down."""
        with self._pushing:
            self._push()
            self._opened().flush()

    def drop(self) -> None:
        """Delete what the catalog knows of the collection, then the collection itself."""
        self._mirror.end()
        self._connected().drop()
        self.close()
        if self._address == MILVUS:  # the file was made for this index alone
            shutil.rmtree(self._folder / OWN_FILE, ignore_errors=True)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._collection is not None:
                self._collection.close()
            self._collection, self._loaded, self._prepared = None, False, False

    def _prepare(self) -> Collection:
        collection = self._connected()
        if self._prepared:
            return collection
        self._mirror.begin()
        whole = collection.exists()
        if whole:
            stale, expected = self._mirror.expect()
            found = collection.count(express(ALL_VIDEOS, [], stale))
            whole = found == expected
            if not whole:
                told = "%s: %d vectors are there where %d should be; filling it anew"
                logger.warning(told, self._address, found, expected)
                collection.drop()
        if not whole:
            self._mirror.restart()
            collection.make()
        self._loaded = self._prepared = True
        return collection

    def _push(self) -> None:
        """Tell the collection what changed, batch by batch, until little is left."""
        collection = self._prepare()
        self._num_changes, self._pushed_at = 0, time.monotonic()
        self._tell_progress()
        while True:
            tasks = self._mirror.take(BATCH)
            self._push_batch(collection, tasks)
            self._tell_progress()
            if len(tasks) < BATCH:
                break

    def _tell_progress(self) -> None:
        if self._on_progress is not None:
            left, total = self._mirror.count()
            self._on_progress(total - left, total)

    def _push_batch(self, collection: Collection, tasks: Sequence[Task]) -> None:
        """Write rows first and delete what is left of old ones after: a search finds a video all the while."""
        owners = {key: task for task in tasks for key in task.ids}
        ids, pushed = np.array(sorted(owners), np.int64), [np.empty(0, np.int64)]
        for first in range(0, len(ids), ROWS):
            kept, vectors = self._epochs.vectors(ids[first : first + ROWS])
            pushed.append(kept)
            keys = kept.tolist()
            rows = [{"id": key, "video": owners[key].video, **(owners[key].about or {})} for key in keys]
            collection.upsert(rows, vectors)
        old = [task.video for task in tasks if task.whole and task.pushed]
        if old:
            valid = np.concatenate(pushed)
            valid = valid[np.isin(valid, [key for task in tasks if task.whole and task.pushed for key in task.ids])]
            collection.delete(f"video in {old}" + (f" and id not in {valid.tolist()}" if len(valid) else ""))
        self._mirror.record(tasks, np.concatenate(pushed))

    def _opened(self) -> Collection:
        """Give the collection, ready to be searched."""
        collection = self._connected()
        if not self._loaded:
            if not collection.exists():
                raise missing(self._address, self._name)
            self._loaded = True
        return collection

    def _connected(self) -> Collection:
        with self._lock:
            if self._collection is None:
                self._collection = Collection(self._address, self._name, self._dim, self._folder)
            return self._collection
