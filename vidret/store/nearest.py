"""The nearest neighbours of every vector of a set in the same set, with FAISS."""

import numpy as np
from jaxtyping import Float32

from vidret.store.vectors import BATCH, SearchResult, load_faiss

EXACT_UP_TO = 30_000  # vectors; more are searched in lists of similar ones
LISTS = 4  # lists, times the square root of the number of vectors
PROBES = 12  # lists that are searched
SAMPLES_PER_LIST = 32
SEED = 1234


def find_nearest_rows(vectors: Float32[np.ndarray, "row dim"], k: int) -> SearchResult:
    """Return the k nearest rows of each row by inner product, itself included; approximately if there are many.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    f = load_faiss()
    num_rows, dim = vectors.shape
    vectors = np.ascontiguousarray(vectors, np.float32)
    k = min(k, num_rows)
    if num_rows <= EXACT_UP_TO:
        index = f.IndexFlatIP(dim)
    else:
        num_lists = round(LISTS * num_rows**0.5)
        index = f.IndexIVFFlat(f.IndexFlatIP(dim), dim, num_lists, f.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid, index.cp.spherical = SEED, 1, True
        num_samples = min(num_rows, num_lists * SAMPLES_PER_LIST)
        index.train(vectors[np.random.default_rng(SEED).choice(num_rows, num_samples, replace=False)])
        index.nprobe = PROBES
    index.add(vectors)
    parts = [index.search(vectors[first : first + BATCH], k) for first in range(0, num_rows, BATCH)]
    scores = [scores for scores, _ in parts] or [np.empty((0, k), np.float32)]
    rows = [rows for _, rows in parts] or [np.empty((0, k), np.int64)]
    return SearchResult(np.concatenate(scores), np.concatenate(rows))
