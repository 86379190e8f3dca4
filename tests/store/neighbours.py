"""Vectors to search, and their nearest neighbours by loops."""

import numpy as np

from vidret.store.vectors.base import SearchResult

DIM = 16


def naive_search(
    queries: np.ndarray, ids: np.ndarray, vectors: np.ndarray, k: int
) -> tuple[list[list[float]], list[list[int]]]:
    """Score all vectors, sort, truncate."""
    scores, best_ids = [], []
    for query in queries.astype(np.float64):
        products = [float(np.dot(query, vector.astype(np.float64))) for vector in vectors]
        best = sorted(range(len(ids)), key=lambda index: -products[index])[:k]
        num_missing = k - len(best)
        scores.append([products[index] for index in best] + [-np.inf] * num_missing)
        best_ids.append([int(ids[index]) for index in best] + [-1] * num_missing)
    return scores, best_ids


def sample(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.choice(10 * num, num, replace=False)).astype(np.int64) + 1, vectors.astype(np.float16)


def queries(num: int = 5) -> np.ndarray:
    return np.random.default_rng(99).standard_normal((num, DIM)).astype(np.float32)


def recall(found: np.ndarray, exact: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact, strict=True)]))


def assert_found(result: SearchResult, ids: np.ndarray, vectors: np.ndarray, k: int) -> None:
    expected_scores, expected = naive_search(queries(), ids, vectors, k)
    assert result.ids.tolist() == expected
    np.testing.assert_allclose(result.scores, expected_scores, rtol=1e-5, atol=1e-6)
