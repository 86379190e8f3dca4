"""Clusters of unit vectors: spherical k-means around the directions in which they differ from their mean.

Reference: Dhillon and Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering".
"""

import math

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.errors import VidretError

SAMPLE = 20_000  # vectors that the centres are fitted to
BATCH = 8192  # vectors that are assigned together
MAX_ROUNDS = 30
MAX_CLUSTERS = 12  # by default


def choose_num_clusters(num_vectors: int) -> int:
    """Return how many clusters an overview of some vectors has: the root of half of them, up to 12."""
    return max(1, min(MAX_CLUSTERS, round(math.sqrt(num_vectors / 2))))


def cluster_vectors(
    vectors: Float[np.ndarray, "row dim"], num_clusters: int, *, seed: int = 0
) -> Int64[np.ndarray, " row"]:
    """Return the cluster of each vector, the largest cluster first; there may be fewer than ``num_clusters``.

    The mean is subtracted first, since vectors of images and texts have most of their direction in common.

    Raises:
        VidretError: There is no vector, or ``num_clusters`` is below 1.
    """
    if not len(vectors) or num_clusters < 1:
        raise VidretError(f"clusters need a vector and a number of at least 1, got {len(vectors)} and {num_clusters}")
    rng = np.random.default_rng(seed)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample = np.sort(rng.permutation(len(vectors))[:SAMPLE])
    centres = _fit_centres(_centre(vectors[sample], mean), num_clusters, rng)
    batches = [slice(first, first + BATCH) for first in range(0, len(vectors), BATCH)]
    labels = np.concatenate([(_centre(vectors[batch], mean) @ centres.T).argmax(axis=1) for batch in batches])
    found, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_size = np.argsort(-counts, kind="stable")
    ranks = np.empty(len(found), np.int64)
    ranks[by_size] = np.arange(len(found))
    return ranks[inverse]


def _centre(vectors: np.ndarray, mean: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, "row dim"]:
    """Return the unit directions of vectors from their mean; a vector at the mean stays zero."""
    moved = vectors.astype(np.float32) - mean
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    directions: Float32[np.ndarray, "row dim"] = moved / np.maximum(lengths, 1e-6)
    return directions


def _fit_centres(
    directions: Float32[np.ndarray, "row dim"], num_clusters: int, rng: np.random.Generator
) -> Float32[np.ndarray, "cluster dim"]:
    """Return centres that k-means++ starts and Lloyd's rounds improve until no vector changes its cluster."""
    centres = directions[[int(rng.integers(len(directions)))]]
    for _ in range(num_clusters - 1):
        distances = np.maximum(1 - (directions @ centres.T).max(axis=1), 0).astype(np.float64) ** 2
        if distances.sum() <= 1e-9:  # all vectors are at a centre
            break
        chosen = rng.choice(len(directions), p=distances / distances.sum())
        centres = np.concatenate([centres, directions[[chosen]]])
    labels = np.full(len(directions), -1)
    for _ in range(MAX_ROUNDS):
        updated = (directions @ centres.T).argmax(axis=1)
        if np.array_equal(updated, labels):
            break
        labels = updated
        for cluster in np.unique(labels):
            total = directions[labels == cluster].sum(axis=0)
            centres[cluster] = total / max(float(np.linalg.norm(total)), 1e-6)
    return centres
