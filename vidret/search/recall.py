"""Recall of the coarse search: the share of the nearest segments that it finds, measured against exact search.

An index with inverted lists or compressed vectors misses some of the nearest segments, which results do not show. The
number depends on the distribution of its vectors, so recall is measured on each index.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.errors import StoreError
from vidret.store.store import Store

BEST = 10
LOW = 0.95  # recall below which results are noticeably worse
SAMPLE = 1000
BLOCK = 8192  # segments compared at a time: 24 MB for 512 dimensions, and 43 MB of scores for 1,300 queries
BATCH_SIZE = 64  # queries searched for at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Recall of the ``BEST`` nearest segments, as the mean over queries.

    Attributes:
        num_queries: Number of queries.
        num_segments: Number of segments in the index.
        candidates: Number of segments that an engine requests.
        searched: Recall among the first ``BEST`` of ``candidates`` segments.
        asked: Recall if only ``BEST`` segments are requested, which searches less deeply.
        within: Recall among all ``candidates`` segments, which are reranked: no engine finds the rest.
    """

    num_queries: int
    num_segments: int
    candidates: int
    searched: float
    asked: float
    within: float

    @property
    def low(self) -> bool:
        """Whether the recall is noticeably low."""
        return self.searched < LOW


def sample_vectors(store: Store, *, num: int = SAMPLE, seed: int = 0) -> Float32[np.ndarray, "query dim"]:
    """Return the vectors of a random sample of at most ``num`` segments."""
    ids = store.searchable()
    chosen = np.random.default_rng(seed).choice(len(ids), min(num, len(ids)), replace=False)
    return store.features.read_vectors(np.sort(ids[chosen])).astype(np.float32)


def measure_recall(
    store: Store,
    queries: Mapping[str, Float[np.ndarray, "query dim"]],
    *,
    candidates: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Recall]:
    """Return the recall of an index for each kind of query, measured against all stored vectors.

    Exact scores are inner products in float32 of the stored vectors, read in blocks. A segment that the search returns
    counts if its exact score is at most half a float16 unit in the last place below the tenth best: float16 cannot tell
    these apart. The segment that a query vector belongs to counts like any other. Progress is the number of queries
    searched for and segments compared, and the total of both.

    Raises:
        StoreError: The index is empty, or a stored vector is damaged.
    """
    ids = store.searchable()
    if not len(ids):
        raise StoreError(f"{store.path}: there must be a segment to measure, got an empty index")
    vectors = np.concatenate([np.asarray(rows, np.float32) for rows in queries.values()])
    report, total = on_progress or (lambda _done, _total: None), len(vectors) + len(ids)
    retrieved = _retrieve(store, vectors, candidates, lambda done: report(done, total))
    scores, tenth_best = _score_exactly(store, vectors, ids, retrieved, lambda done: report(len(vectors) + done, total))
    num_best = min(BEST, len(ids))
    tolerance = np.abs(np.spacing(tenth_best.astype(np.float16))).astype(np.float32) / 2
    is_near = scores >= (tenth_best - tolerance)[:, None]
    searched, asked, within = (
        np.minimum(part.sum(axis=1), num_best) / num_best
        for part in (is_near[:, :candidates][:, :BEST], is_near[:, candidates:], is_near[:, :candidates])
    )
    ends = np.cumsum([len(rows) for rows in queries.values()])
    return {
        name: Recall(
            num_queries=len(rows),
            num_segments=len(ids),
            candidates=candidates,
            searched=float(searched[end - len(rows) : end].mean()),
            asked=float(asked[end - len(rows) : end].mean()),
            within=float(within[end - len(rows) : end].mean()),
        )
        for (name, rows), end in zip(queries.items(), ends.tolist(), strict=True)
    }


def _retrieve(
    store: Store, vectors: Float32[np.ndarray, "query dim"], candidates: int, on_progress: Callable[[int], None]
) -> Int64[np.ndarray, "query k"]:
    """Return the ids found by a search for ``candidates`` segments, then those found by one for ``BEST``."""
    retrieved: list[Int64[np.ndarray, "query k"]] = []
    for first in range(0, len(vectors), BATCH_SIZE):
        batch = vectors[first : first + BATCH_SIZE]
        retrieved.append(np.hstack([store.search(batch, k)[1] for k in (candidates, BEST)]))
        on_progress(first + len(batch))
    return np.concatenate(retrieved)


def _score_exactly(
    store: Store,
    queries: Float32[np.ndarray, "query dim"],
    ids: Int64[np.ndarray, " segment"],
    retrieved: Int64[np.ndarray, "query k"],
    on_progress: Callable[[int], None],
) -> tuple[Float32[np.ndarray, "query k"], Float32[np.ndarray, " query"]]:
    """Return the exact scores of the retrieved segments, -inf for missing ones, and each query's tenth best score."""
    scores = np.full(retrieved.shape, -np.inf, np.float32)
    best = np.full((len(queries), min(BEST, len(ids))), -np.inf, np.float32)
    for first in range(0, len(ids), BLOCK):
        block = ids[first : first + BLOCK]
        exact = queries @ store.features.read_vectors(block).astype(np.float32).T
        columns = np.searchsorted(block, retrieved).clip(max=len(block) - 1)
        in_block = block[columns] == retrieved
        rows = np.nonzero(in_block)[0]
        scores[in_block] = exact[rows, columns[in_block]]
        best = np.partition(np.hstack([best, exact]), -best.shape[1], axis=1)[:, -best.shape[1] :]
        on_progress(first + len(block))
    return scores, best.min(axis=1)
