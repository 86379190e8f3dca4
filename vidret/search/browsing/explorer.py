"""What is in an index, without a query: kinds of segments, a map of them, and the videos least like others.

Of a large index, evenly spread segments stand for all, so that each answer takes at most seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import VidretError
from vidret.search.browsing.clusters import choose_num_clusters, cluster_vectors, project_to_plane
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters, KindOfVideo, MappedMoment, UnusualVideo

MAX_SEGMENTS = 4000  # that stand for an index
MAX_PLACED = 600  # whose places on the map are found; others are placed between those that they resemble
NEIGHBOURS = 5  # videos that a video is compared with, and segments that a segment is placed between
MAX_ANSWERS = 16  # that are kept

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
    """Answers about an index, each kept until the index changes."""

    def __init__(self, store: Store) -> None:
        """Set the index."""
        self._store = store
        self._generation = -1
        self._answers: dict[object, object] = {}

    def list_kinds(self, filters: Filters = ALL_VIDEOS, limit: int = 8) -> list[KindOfVideo]:
        """Return what the videos that match show, each kind by a moment typical of it, the most frequent first."""
        return self._keep(("kinds", filters, limit), lambda: self._list_kinds(filters, limit))

    def draw_map(self, filters: Filters = ALL_VIDEOS) -> list[MappedMoment]:
        """Return moments of the videos that match, with places on a map on which those that look alike are near."""
        return self._keep(("map", filters), lambda: self._draw_map(filters))

    def list_unusual(
        self, filters: Filters = ALL_VIDEOS, against: Filters = ALL_VIDEOS, limit: int = 20
    ) -> list[UnusualVideo]:
        """Return the videos least like their surroundings, the least first.

        Args:
            filters: The videos.
            against: The videos that each is compared with, except itself.
            limit: Maximum number of videos.

        Raises:
            VidretError: There are too few videos to compare with.
        """
        return self._keep(("unusual", filters, against, limit), lambda: self._list_unusual(filters, against, limit))

    def _keep(self, key: object, compute: Callable[[], list[Answer]]) -> list[Answer]:
        if self._generation != self._store.generation or len(self._answers) > MAX_ANSWERS:
            self._generation, self._answers = self._store.generation, {}
        if key not in self._answers:
            self._answers[key] = compute()
        return self._answers[key]  # type: ignore[return-value]

    def _sample(self, filters: Filters) -> SampledSegments:
        ids = self._store.snapshot().select(filters).ids()
        chosen = ids[np.unique(np.linspace(0, max(len(ids) - 1, 0), min(len(ids), MAX_SEGMENTS)).astype(np.int64))]
        kept, vectors = self._store.features.intact_vectors(chosen)
        owners = self._store.owners(kept)
        known = np.array([key in owners for key in kept.tolist()], bool)
        kept, vectors = kept[known], vectors[known]
        by_segment = np.array([owners[key] for key in kept.tolist()], np.int64)
        return SampledSegments(kept, by_segment, vectors.astype(np.float32))

    def _find_moments(self, ids: Int64[np.ndarray, " segment"]) -> dict[int, tuple[int, float]]:
        """Return the video and the middle, in seconds, of segments by id."""
        segments = self._store.segments.intact(ids)
        return {key: (segment.video, (segment.start + segment.end) / 2) for key, segment in segments.items()}

    def _list_kinds(self, filters: Filters, limit: int) -> list[KindOfVideo]:
        sample = self._sample(filters)
        if not len(sample.ids):
            return []
        labels = cluster_vectors(sample.vectors, min(limit, choose_num_clusters(len(sample.ids))))
        kinds: list[KindOfVideo] = []
        used: set[int] = set()
        for label in range(int(labels.max()) + 1):
            rows = np.flatnonzero(labels == label)
            part = sample.vectors[rows]
            order = rows[np.argsort(-(part @ part.mean(axis=0)), kind="stable")]
            best = next((row for row in order if int(sample.owners[row]) not in used), order[0])
            used.add(int(sample.owners[best]))
            for video_id, time_s in self._find_moments(sample.ids[[best]]).values():
                num_videos = len(np.unique(sample.owners[rows]))
                path = self._store.files.paths_of([video_id])[video_id][0]
                kinds.append(KindOfVideo(video=video_id, path=path, time=time_s, num_videos=num_videos))
        return kinds

    def _draw_map(self, filters: Filters) -> list[MappedMoment]:
        sample = self._sample(filters)
        if not len(sample.ids):
            return []
        placed = np.unique(np.linspace(0, len(sample.ids) - 1, min(len(sample.ids), MAX_PLACED)).astype(np.int64))
        known = project_to_plane(sample.vectors[placed])
        centred = sample.vectors - sample.vectors.mean(axis=0)
        likeness = centred @ centred[placed].T
        nearest = np.argsort(-likeness, axis=1)[:, :NEIGHBOURS]
        weights = np.maximum(np.take_along_axis(likeness, nearest, axis=1), 1e-6) ** 2
        places = (known[nearest] * weights[:, :, None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
        places[placed] = known
        moments = self._find_moments(sample.ids)
        return [
            MappedMoment(video=moments[key][0], time=moments[key][1], x=float(x), y=float(y))
            for key, (x, y) in zip(sample.ids.tolist(), places, strict=True)
            if key in moments
        ]

    def _list_unusual(self, filters: Filters, against: Filters, limit: int) -> list[UnusualVideo]:
        own, other = (_average(self._sample(each)) for each in (filters, against))
        if len(other[0]) <= NEIGHBOURS:
            raise VidretError(f"against must have more than {NEIGHBOURS} videos, got {len(other[0])}")
        likeness = own[1] @ other[1].T
        likeness[own[0][:, None] == other[0][None, :]] = -1.0
        closeness = np.sort(likeness, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
        order = np.argsort(closeness, kind="stable")[:limit]
        paths = self._store.files.paths_of([int(own[0][row]) for row in order])
        return [
            UnusualVideo(video=video_id, path=paths[video_id][0], likeness=float(closeness[row]))
            for row, video_id in zip(order, own[0][order].tolist(), strict=True)
        ]


def _average(sample: SampledSegments) -> tuple[Int64[np.ndarray, " video"], Float32[np.ndarray, "video dim"]]:
    """Return the videos of a sample, and the unit mean vector of each."""
    videos, rows = np.unique(sample.owners, return_inverse=True)
    sums = np.zeros((len(videos), sample.vectors.shape[1]), np.float32)
    np.add.at(sums, rows, sample.vectors)
    return videos, sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
