"""Overviews of an index without a query: kinds of segments, a map of them, and the videos least like others.

Kinds are clusters of unit vectors (spherical k-means), and the map keeps neighbours together (t-SNE). A large index is
sampled evenly, so that each answer takes at most seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.errors import VidretError
from vidret.store.lookup import find_middles, spread_evenly
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters, KindOfVideo, MappedMoment, UnusualVideo

MAX_SEGMENTS = 4000  # in the sample of an index
MAX_PLACED = 600  # whose positions on the map are computed; others are interpolated between those that they resemble
NEIGHBOURS = 5  # videos that a video is compared with, and segments that a segment is placed between
MAX_ANSWERS = 16  # that are cached
SAMPLE = 20_000  # vectors that the centres are fitted to
BATCH = 8192  # vectors that are assigned together
MAX_ROUNDS = 30
MAX_CLUSTERS = 12  # by default
MAX_POINTS = 2000  # the matrices of all pairs are in memory
PERPLEXITY = 20.0
NUM_STEPS, NUM_EARLY_STEPS = 400, 100
EARLY_EXAGGERATION = 6.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class SampledSegments:
    """Some segments of an index, in the order of their ids.

    Attributes:
        ids: Their ids.
        owners: The video of each.
        vectors: Their unit vectors.
    """

    ids: Int64[np.ndarray, " segment"]
    owners: Int64[np.ndarray, " segment"]
    vectors: Float32[np.ndarray, "segment dim"]


class Explorer:
    """Computes overviews of an index, and caches them until the index changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._generation = -1
        self._answers: dict[object, object] = {}

    def list_kinds(self, filters: Filters = ALL_VIDEOS, limit: int = 8) -> list[KindOfVideo]:
        """Return the kinds of segments in the videos that match, each with a typical moment, most frequent first."""
        return self._keep(self._list_kinds, filters, limit)

    def draw_map(self, filters: Filters = ALL_VIDEOS) -> list[MappedMoment]:
        """Return moments of the videos that match, with positions on a map on which similar ones are close."""
        return self._keep(self._draw_map, filters)

    def list_unusual(
        self, filters: Filters = ALL_VIDEOS, against: Filters = ALL_VIDEOS, limit: int = 20
    ) -> list[UnusualVideo]:
        """Return the videos least like those that ``against`` selects, least similar first.

        Raises:
            VidretError: There are too few videos to compare with.
        """
        return self._keep(self._list_unusual, filters, against, limit)

    def _keep(self, compute: Callable[..., list[Answer]], *asked: object) -> list[Answer]:
        if self._generation != self._store.generation or len(self._answers) > MAX_ANSWERS:
            self._generation, self._answers = self._store.generation, {}
        key, answers = (compute.__name__, *asked), self._answers  # another thread may replace the attribute
        if key not in answers:
            answers[key] = compute(*asked)
        return answers[key]  # type: ignore[return-value]

    def _sample(self, filters: Filters) -> SampledSegments:
        ids = self._store.snapshot().select(filters).ids()
        chosen = ids[spread_evenly(len(ids), MAX_SEGMENTS)]
        kept, vectors = self._store.features.intact_vectors(chosen)
        owners = self._store.owners(kept)
        is_owned = owners >= 0
        return SampledSegments(kept[is_owned], owners[is_owned], vectors[is_owned].astype(np.float32))

    def _list_kinds(self, filters: Filters, limit: int) -> list[KindOfVideo]:
        sample = self._sample(filters)
        if not len(sample.ids):
            return []
        labels = cluster_vectors(sample.vectors, min(limit, choose_num_clusters(len(sample.ids))))
        kinds: list[KindOfVideo] = []
        used: set[int] = set()
        for label in range(int(labels.max()) + 1):
            rows = np.flatnonzero(labels == label)
            kind_vectors = sample.vectors[rows]
            order = rows[np.argsort(-(kind_vectors @ kind_vectors.mean(axis=0)), kind="stable")]
            best = next((row for row in order if int(sample.owners[row]) not in used), order[0])
            used.add(int(sample.owners[best]))
            for video_id, time_s in find_middles(self._store, sample.ids[[best]]).values():
                num_videos = len(np.unique(sample.owners[rows]))
                paths = self._store.files.paths_of([video_id], filters)[video_id]  # none if it has just been lost
                kinds += [
                    KindOfVideo(video=video_id, path=path, time=time_s, num_videos=num_videos) for path in paths[:1]
                ]
        return kinds

    def _draw_map(self, filters: Filters) -> list[MappedMoment]:
        sample = self._sample(filters)
        if not len(sample.ids):
            return []
        placed = spread_evenly(len(sample.ids), MAX_PLACED)
        placed_points = project_to_plane(sample.vectors[placed])
        centred = sample.vectors - sample.vectors.mean(axis=0)
        likeness = centred @ centred[placed].T
        nearest = np.argsort(-likeness, axis=1)[:, :NEIGHBOURS]
        weights = np.maximum(np.take_along_axis(likeness, nearest, axis=1), 1e-6) ** 2
        points = (placed_points[nearest] * weights[:, :, None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
        points[placed] = placed_points
        moments = find_middles(self._store, sample.ids)
        return [
            MappedMoment(video=moments[key][0], time=moments[key][1], x=float(x), y=float(y))
            for key, (x, y) in zip(sample.ids.tolist(), points, strict=True)
            if key in moments
        ]

    def _list_unusual(self, filters: Filters, against: Filters, limit: int) -> list[UnusualVideo]:
        candidates, compared = (_average(self._sample(chosen)) for chosen in (filters, against))
        if len(compared[0]) <= NEIGHBOURS:
            raise VidretError(f"videos to compare with must be more than {NEIGHBOURS}, got {len(compared[0])}")
        likeness = candidates[1] @ compared[1].T
        likeness[candidates[0][:, None] == compared[0][None, :]] = -1.0
        closeness = np.sort(likeness, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
        order = np.argsort(closeness, kind="stable")[:limit]
        paths = self._store.files.paths_of(candidates[0][order].tolist(), filters)
        return [
            UnusualVideo(video=video_id, path=path, likeness=float(closeness[row]))
            for row, video_id in zip(order, candidates[0][order].tolist(), strict=True)
            for path in paths[video_id][:1]
        ]


def _average(sample: SampledSegments) -> tuple[Int64[np.ndarray, " video"], Float32[np.ndarray, "video dim"]]:
    """Return the videos of a sample, and the unit mean vector of each."""
    videos, rows = np.unique(sample.owners, return_inverse=True)
    sums = np.zeros((len(videos), sample.vectors.shape[1]), np.float32)
    np.add.at(sums, rows, sample.vectors)
    return videos, sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)


def choose_num_clusters(num_vectors: int) -> int:
    """Return the default number of clusters: the root of half the number of vectors, at most ``MAX_CLUSTERS``."""
    return max(1, min(MAX_CLUSTERS, round(math.sqrt(num_vectors / 2))))


def cluster_vectors(vectors: Float[np.ndarray, "row dim"], num_clusters: int) -> Int64[np.ndarray, " row"]:
    """Return the cluster of each vector, the largest cluster first; there may be fewer than ``num_clusters``.

    The mean is subtracted first, since vectors of images and texts have most of their direction in common.

    Raises:
        VidretError: There is no vector, or ``num_clusters`` is below 1.
    """
    if not len(vectors) or num_clusters < 1:
        raise VidretError(f"clusters need a vector and a number of at least 1, got {len(vectors)} and {num_clusters}")
    rng = np.random.default_rng(0)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample = np.sort(rng.permutation(len(vectors))[:SAMPLE])
    centres = _fit_centres(_centre(vectors[sample], mean), num_clusters, rng)
    batches = [slice(first, first + BATCH) for first in range(0, len(vectors), BATCH)]
    labels = np.concatenate([(_centre(vectors[batch], mean) @ centres.T).argmax(axis=1) for batch in batches])
    unique_labels, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_size = np.argsort(-counts, kind="stable")
    ranks = np.empty(len(unique_labels), np.int64)
    ranks[by_size] = np.arange(len(unique_labels))
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
    """Return centres by k-means++ and then Lloyd's algorithm, until no vector changes its cluster."""
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


def project_to_plane(vectors: Float[np.ndarray, "point dim"]) -> Float64[np.ndarray, "point 2"]:
    """Return positions in 0..1 of vectors; equal vectors give equal maps.

    It starts from the two principal components, so that it needs no seed and keeps the large structure. The
    perplexity, the effective number of neighbours of a point, is limited to a third of the points.

    Raises:
        VidretError: There are more than ``MAX_POINTS`` vectors, or a vector is not finite.
    """
    num_points = len(vectors)
    if num_points > MAX_POINTS or not np.isfinite(vectors).all():
        raise VidretError(f"a map must have at most {MAX_POINTS} finite vectors, got {num_points}")
    if num_points < 2:
        return np.full((num_points, 2), 0.5)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    positions = _find_components(centred)
    if num_points > 4:
        positions = _move(positions, _compute_affinities(centred, min(PERPLEXITY, (num_points - 1) / 3)))
    low, high = positions.min(axis=0), positions.max(axis=0)
    return np.where(high > low, (positions - low) / np.maximum(high - low, 1e-12), 0.5)


def _find_components(centred: np.ndarray) -> Float64[np.ndarray, "point 2"]:
    """Return the two principal components, scaled to a small spread; a dimension that is missing is zero."""
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    components = (left * values * signs)[:, :2]
    padded = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return padded * (1e-2 / max(float(padded[:, 0].std()), 1e-12))


def _compute_affinities(centred: np.ndarray, perplexity: float) -> Float64[np.ndarray, "point point"]:
    """Return the symmetric probabilities of neighbours, each point's with the wanted perplexity."""
    squares = (centred**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * centred @ centred.T, 0)
    np.fill_diagonal(distances, np.inf)
    distances -= distances.min(axis=1, keepdims=True)  # changes no probability, and keeps the largest exponential at 1
    low, high = np.zeros(len(distances)), np.full(len(distances), np.inf)
    beta = 1 / np.maximum(np.where(np.isfinite(distances), distances, 0).mean(axis=1), 1e-12)
    for _ in range(50):
        weights = np.exp(-distances * beta[:, None])
        shares = weights / weights.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
        is_wide = entropy > np.log(perplexity)
        low, high = np.where(is_wide, beta, low), np.where(is_wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + np.minimum(high, 1e300)) / 2)
    affinities: Float64[np.ndarray, "point point"] = (shares + shares.T) / (2 * len(shares))
    return affinities


def _move(
    positions: Float64[np.ndarray, "point 2"], affinities: Float64[np.ndarray, "point point"]
) -> Float64[np.ndarray, "point 2"]:
    """Return positions after gradient descent with momentum on the divergence of the two maps of neighbours."""
    rate = max(len(positions) / EARLY_EXAGGERATION / 4, 10.0)
    velocity, gains = np.zeros_like(positions), np.ones_like(positions)
    for step in range(NUM_STEPS):
        is_early = step < NUM_EARLY_STEPS
        squares = (positions**2).sum(axis=1)
        kernel = 1 / (1 + np.maximum(squares[:, None] + squares[None] - 2 * positions @ positions.T, 0))
        np.fill_diagonal(kernel, 0)
        pull = (affinities * (EARLY_EXAGGERATION if is_early else 1) - kernel / kernel.sum()) * kernel
        gradient = 4 * (pull.sum(axis=1, keepdims=True) * positions - pull @ positions)
        same_sign = np.sign(gradient) == np.sign(velocity)
        gains = np.maximum(np.where(same_sign, gains * 0.8, gains + 0.2), 0.01)
        velocity = (0.5 if is_early else 0.8) * velocity - rate * gains * gradient
        positions = positions + velocity
    return positions
