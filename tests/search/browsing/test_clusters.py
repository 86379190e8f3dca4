"""Clusters of vectors, and maps of them in two dimensions."""

import numpy as np
import pytest

from vidret.errors import VidretError
from vidret.search.browsing.clusters import (
    MAX_CLUSTERS,
    MAX_POINTS,
    choose_num_clusters,
    cluster_vectors,
    project_to_plane,
)

SIZES = (40, 25, 15)


@pytest.fixture(scope="module")
def groups() -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors in three groups with a common direction, and the group of each."""
    rng = np.random.default_rng(0)
    centres = np.eye(16)[:3] + 3 * np.eye(16)[5]
    vectors = np.concatenate([c + 0.05 * rng.standard_normal((n, 16)) for c, n in zip(centres, SIZES, strict=True)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(3), SIZES)


def test_planted_groups_are_found_the_largest_first(groups: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, owners = groups
    order = np.random.default_rng(1).permutation(len(vectors))
    assert cluster_vectors(vectors[order], 3).tolist() == owners[order].tolist()
    assert cluster_vectors(vectors[order].astype(np.float16), 3).tolist() == owners[order].tolist()


def test_each_vector_is_with_the_nearest_centre(groups: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, _ = groups
    labels = cluster_vectors(vectors, 6)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    centres = np.stack([centred[labels == cluster].sum(axis=0) for cluster in range(labels.max() + 1)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    assert (centred @ centres.T).argmax(axis=1).tolist() == labels.tolist()
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_equal_vectors_are_one_cluster() -> None:
    assert cluster_vectors(np.ones((5, 3), np.float32), 4).tolist() == [0] * 5
    assert [choose_num_clusters(n) for n in (1, 8, 50, 100_000)] == [1, 2, 5, MAX_CLUSTERS]
    with pytest.raises(VidretError, match="got 0 and 3"):
        cluster_vectors(np.ones((0, 3), np.float32), 3)


def test_a_map_keeps_neighbours_together(groups: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, owners = groups
    positions = project_to_plane(vectors)
    assert positions.shape == (80, 2)
    assert (positions.min(axis=0), positions.max(axis=0)) == (pytest.approx([0, 0]), pytest.approx([1, 1]))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (owners[distances.argmin(axis=1)] == owners).all()
    assert np.array_equal(project_to_plane(vectors), positions)


def test_small_and_flat_sets_have_maps() -> None:
    assert project_to_plane(np.ones((1, 4))).tolist() == [[0.5, 0.5]]
    assert project_to_plane(np.eye(4)[:3]).shape == (3, 2)
    assert np.isfinite(project_to_plane(np.repeat(np.eye(4), 3, axis=0))).all()
    assert np.isfinite(project_to_plane(np.ones((9, 4)))).all()
    with pytest.raises(VidretError, match=f"at most {MAX_POINTS} finite vectors, got 3"):
        project_to_plane(np.full((3, 2), np.nan))


def test_fewer_different_vectors_than_clusters_make_one_cluster_each() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32)[[2, 0]], (2, 5), axis=0)
    assert cluster_vectors(vectors, 6).tolist() == [1] * 2 + [0] * 5
