"""An overview of the videos in a folder: clusters, words, look-alikes, outliers, and a map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float32, Int64

from vidret.corpus.describing import ExampleFrame
from vidret.corpus.phrases import WordUse, list_bank, measure_word_use
from vidret.corpus.vectors import IndexVectors, encode_phrases, read_index_vectors
from vidret.encode.text_cache import TextEncoder
from vidret.errors import VidretError
from vidret.search.browsing import choose_num_clusters, cluster_vectors, project_to_plane
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.store.vectors.flat import find_nearest_rows
from vidret.types import Filters, Segment, Shown
from vidret.video.files import choose_existing

NUM_NAMES = 2  # phrases of a cluster
NUM_EXAMPLES = 4
MAX_MAPPED = 400  # segments of the map, those that come first in their videos
NEIGHBOURS = 5  # videos that an outlier is far from
LOOK_ALIKE = 0.98  # cosine of mean vectors, from which videos are listed as look-alikes
OUTLYING = 3.5  # robust standard deviations
MAX_LISTED = 20  # look-alikes, and outliers


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentCluster:
    """Segments that look alike, with the most typical frames, of different videos, as examples.

    ``phrases`` set them apart from the other segments, best first; there is none for a single cluster. An overlap of
    segments counts once in ``hours``.
    """

    phrases: tuple[str, ...]
    num_segments: int
    num_videos: int
    hours: float
    examples: tuple[ExampleFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAlikes:
    """Two videos whose mean vectors are nearly equal, and their cosine."""

    paths: Annotated[tuple[str, str], Shown(holds="path")]
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlyingVideo:
    """A video unlike all others: its mean cosine with those that are nearest to it.

    ``deviation`` is how far that is below the median of all videos, in robust standard deviations.
    """

    path: Annotated[str, Shown(holds="path")]
    cosine: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPoint:
    """A segment on the map: its position in 0..1, its cluster, and its middle frame."""

    x: float
    y: float
    cluster: int
    frame: ExampleFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOverview:
    """The overview of a folder; look-alikes and outliers are ordered by their scores, the clearest first."""

    num_videos: int
    num_segments: int
    hours: float
    words: WordUse
    clusters: tuple[ContentCluster, ...]
    look_alikes: tuple[LookAlikes, ...]
    outliers: tuple[OutlyingVideo, ...]
    map_points: Annotated[tuple[MapPoint, ...], Shown(everywhere=False)]


@dataclass(frozen=True, slots=True, eq=False)
class _Folder:
    """The vectors of a folder's videos, with their records."""

    vectors: IndexVectors
    segments: Sequence[Segment]
    videos: Mapping[int, StoredVideo]

    @property
    def durations(self) -> dict[int, float]:
        """The seconds of each video."""
        return {video_id: video.duration for video_id, video in self.videos.items()}


def make_overview(
    store: Store,
    encoder: TextEncoder,
    folder: str,
    *,
    phrases: Sequence[str] | None = None,
    num_clusters: int | None = None,
) -> FolderOverview:
    """Return an overview of a folder of an index; ``encoder`` must be the index's.

    Clusters are named by ``phrases``, by default by those of ``list_bank``. There are at most ``num_clusters``, or as
    many as suit the number of segments. Raise VidretError if the folder is not in the index, or a vector is not finite.
    """
    content = _read_folder(store, folder)
    vectors = content.vectors
    num_segments = len(vectors.segments)
    labels = cluster_vectors(vectors.segments, num_clusters or choose_num_clusters(num_segments))
    names = name_clusters(vectors.segments, labels, encoder, list_bank() if phrases is None else phrases)
    lengths = _measure_lengths(content)
    clusters = tuple(
        ContentCluster(
            phrases=names[cluster],
            num_segments=len(rows),
            num_videos=len(np.unique(vectors.owners[rows])),
            hours=float(lengths[rows].sum() / 3600),
            examples=_find_typical(content, rows),
        )
        for cluster, rows in ((label, np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1))
    )
    look_alikes, outliers = _compare_videos(content)
    return FolderOverview(
        num_videos=len(vectors.video_ids),
        num_segments=num_segments,
        hours=sum(content.durations.values()) / 3600,
        words=measure_word_use(store, content.durations),
        clusters=clusters,
        look_alikes=look_alikes,
        outliers=outliers,
        map_points=_draw_map(content, labels),
    )


def name_clusters(
    vectors: np.ndarray, labels: Int64[np.ndarray, " row"], encoder: TextEncoder, phrases: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the phrases that fit the vectors of each cluster better than all vectors, best first.

    A phrase is scored by how far its mean score in the cluster is above that of all vectors, in standard deviations of
    its scores. Both follow from the mean and the covariance of the vectors, so that not every score is computed.
    """
    num_clusters = int(labels.max()) + 1
    if num_clusters == 1:
        return [()]
    phrases = list(dict.fromkeys(phrases))
    texts = encode_phrases(encoder, phrases)
    totals = np.zeros((num_clusters, vectors.shape[1]))
    products = np.zeros((vectors.shape[1], vectors.shape[1]))
    for first in range(0, len(vectors), 8192):
        chunk = vectors[first : first + 8192].astype(np.float32)
        products += chunk.T @ chunk
        membership = np.eye(num_clusters, dtype=np.float32)[labels[first : first + 8192]]
        totals += membership.T @ chunk
    mean = totals.sum(axis=0) / len(vectors)
    covariance = products / len(vectors) - np.outer(mean, mean)
    spreads = np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", texts, covariance, texts, optimize=True), 1e-12))
    means = totals / np.bincount(labels)[:, None]
    scores = (means - mean) @ texts.T / spreads
    order = np.argsort(-scores, axis=1, kind="stable")[:, :NUM_NAMES]
    return [tuple(phrases[phrase_index] for phrase_index in row) for row in order]


def _read_folder(store: Store, folder: str) -> _Folder:
    """Return the vectors of the videos in a folder."""
    records = {video.id: video for video in store.videos.find(Filters(folder=folder))}
    vectors = read_index_vectors(store)
    rows, videos = (np.isin(ids, list(records)) for ids in (vectors.owners, vectors.video_ids))
    if not rows.any():
        raise VidretError(f"{folder}: not in the index; index it first")
    folder_vectors = IndexVectors(
        segment_ids=vectors.segment_ids[rows],
        owners=vectors.owners[rows],
        segments=vectors.segments[rows],
        video_ids=vectors.video_ids[videos],
        means=vectors.means[videos],
    )
    folder_videos = {video_id: records[video_id] for video_id in folder_vectors.video_ids.tolist()}
    return _Folder(
        vectors=folder_vectors, segments=store.segments.get(folder_vectors.segment_ids), videos=folder_videos
    )


def _measure_lengths(content: _Folder) -> np.ndarray:
    """Return the seconds of each segment; where segments overlap, each has its share of the video."""
    spans = np.array([segment.end - segment.start for segment in content.segments])
    owners = np.searchsorted(content.vectors.video_ids, content.vectors.owners)
    totals = np.bincount(owners, weights=spans)
    durations = np.array(list(content.durations.values()))
    return spans * (durations / np.maximum(totals, 1e-9))[owners]


def _find_typical(content: _Folder, rows: Int64[np.ndarray, " row"]) -> tuple[ExampleFrame, ...]:
    """Return the middle frames of the segments nearest to the mean of ``rows``, from different videos if possible."""
    segment_vectors = content.vectors.segments[rows].astype(np.float32)
    order = rows[np.argsort(-(segment_vectors @ segment_vectors.mean(axis=0)), kind="stable")]
    _, first = np.unique(content.vectors.owners[order], return_index=True)
    return tuple(_show_middle(content, int(row)) for row in order[np.sort(first)][:NUM_EXAMPLES])


def _show_middle(content: _Folder, row: int) -> ExampleFrame:
    segment = content.segments[row]
    return ExampleFrame.of(content.videos[segment.video], (segment.start + segment.end) / 2)


def _compare_videos(content: _Folder) -> tuple[tuple[LookAlikes, ...], tuple[OutlyingVideo, ...]]:
    """Return the pairs of videos that are most alike, and the videos that are least like any other."""
    means: Float32[np.ndarray, "video dim"] = content.vectors.means
    units = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    paths = [choose_existing(video.paths) for video in content.videos.values()]
    if len(paths) < 2:
        return (), ()
    scores, nearest = find_nearest_rows(units, NEIGHBOURS + 1)
    pairs: dict[tuple[int, int], float] = {}
    for row, (cosines, others) in enumerate(zip(scores.tolist(), nearest.tolist(), strict=True)):
        for cosine, other in zip(cosines, others, strict=True):
            if other not in (row, -1) and cosine >= LOOK_ALIKE:
                pairs[min(row, other), max(row, other)] = min(cosine, 1.0)
    alike = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_LISTED]
    look_alikes = tuple(LookAlikes(paths=(paths[one], paths[two]), cosine=cosine) for (one, two), cosine in alike)
    is_other = (nearest >= 0) & (nearest != np.arange(len(paths))[:, None])
    closeness = (scores * is_other).sum(axis=1) / np.maximum(is_other.sum(axis=1), 1)
    median = float(np.median(closeness))
    spread = max(1.4826 * float(np.median(np.abs(closeness - median))), 1e-6)
    deviations = (median - closeness) / spread
    far = [row for row in np.argsort(-deviations, kind="stable")[:MAX_LISTED].tolist() if deviations[row] >= OUTLYING]
    outliers = (
        OutlyingVideo(path=paths[row], cosine=float(closeness[row]), deviation=float(deviations[row])) for row in far
    )
    return look_alikes, tuple(outliers) if len(paths) > 2 * NEIGHBOURS else ()


def _draw_map(content: _Folder, labels: Int64[np.ndarray, " row"]) -> tuple[MapPoint, ...]:
    """Return the positions of segments: the first of each video, then the second, up to ``MAX_MAPPED``."""
    numbers = np.array([segment.number for segment in content.segments])
    rows = np.sort(np.lexsort((content.vectors.owners, numbers))[:MAX_MAPPED])
    positions = project_to_plane(content.vectors.segments[rows].astype(np.float32))
    return tuple(
        MapPoint(x=x, y=y, cluster=int(labels[row]), frame=_show_middle(content, int(row)))
        for row, (x, y) in zip(rows, positions.tolist(), strict=True)
    )
