"""Pairs of videos that may share footage, by the nearest neighbours of their whitened frames.

Whitening removes what most videos of a corpus have in common. The mean is subtracted, and the directions of most
variance are scaled to equal variance. Frames of two look-alike scenes are then hardly closer than frames of any two
videos, and copies stand out.

Reference: Jégou and Chum 2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
whitening", section 3.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64

from vidret.copies.alignment import Alignment, align_footage
from vidret.store.store import Store
from vidret.store.vectors.flat import find_nearest_rows
from vidret.types.arrays import widen_rows

MAX_DIM = 128  # of 155 pairs of copies of realistic kinds, all but 1 % are among the three nearest videos
FRAMES_PER_DIM = 8  # so that directions are estimated, not memorised
SHRINKAGE = 1e-3  # of the mean variance, added to each
UNRELATED_SHARE = 0.02  # share of frame pairs of different videos that are more alike than the level of unrelated ones
FEW_VIDEOS = 40  # up to which a corpus is too small to know what unrelated videos have in common: most may be copies
FEW_VIDEOS_LEVEL = 0.5  # of unrelated frames then, at most
BATCH = 4096  # segments that are read together


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The frames of some videos, video by video and in time order.

    Attributes:
        video_ids: Ids of the videos.
        bounds: The first row of each video, and the number of rows.
        vectors: Unit vectors.
        times: Times in seconds.
    """

    video_ids: Int64[np.ndarray, " video"]
    bounds: Int64[np.ndarray, " bound"]
    vectors: Float16[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]

    @property
    def owners(self) -> Int64[np.ndarray, " frame"]:
        """The index of the video of each frame."""
        return np.repeat(np.arange(len(self.video_ids)), np.diff(self.bounds))

    def rows(self, video: int) -> slice:
        """Return the rows of a video, given its index in the table."""
        return slice(int(self.bounds[video]), int(self.bounds[video + 1]))

    def read(self, video: int) -> tuple[Float32[np.ndarray, "frame dim"], Float64[np.ndarray, " frame"]]:
        """Return the vectors and times of a video, given its index in the table."""
        rows = self.rows(video)
        return self.vectors[rows].astype(np.float32), self.times[rows]


def read_frame_table(store: Store, video_ids: Collection[int] | None = None) -> FrameTable:
    """Read the frames of the searchable videos, or of those among them with some ids; damaged segments are skipped."""
    parts = defaultdict[int, list[tuple[int, np.ndarray, np.ndarray]]](list)
    if video_ids is None:
        ids: Sequence[int] | Int64[np.ndarray, " segment"] = store.searchable()
    else:
        ids = [segment for video in sorted(set(video_ids)) for segment in store.segments.ids_of_video(video)]
    for first in range(0, len(ids), BATCH):
        stored = store.features.read(ids[first : first + BATCH], tokens=False)
        for segment, frames, times in zip(stored.segments, stored.frames, stored.times, strict=True):
            parts[segment.video].append((segment.number, np.array(frames), np.array(times)))
    order = sorted(parts)
    frames_of, times_of = [np.empty((0, store.dim), np.float16)], [np.empty(0, np.float64)]
    counts = [0]
    for video in order:
        segments = sorted(parts.pop(video), key=lambda part: part[0])
        frames_of += [frames for _, frames, _ in segments]
        times_of += [times for *_, times in segments]
        counts.append(sum(len(times) for *_, times in segments))
    return FrameTable(np.array(order, np.int64), np.cumsum(counts), np.concatenate(frames_of), np.concatenate(times_of))


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """A projection that is fitted to a corpus, and the similarity of unrelated frames after it.

    Attributes:
        mean: Mean vector.
        projection: Directions scaled by their inverse standard deviations, in columns.
        level: Similarity that only ``UNRELATED_SHARE`` of the frames of different videos exceed.
    """

    mean: Float32[np.ndarray, " dim"]
    projection: Float32[np.ndarray, "dim small"]
    level: float = 0.0

    def apply(self, vectors: Float[np.ndarray, "frame dim"]) -> Float32[np.ndarray, "frame small"]:
        """Return whitened vectors of unit length."""
        projected = (widen_rows(vectors) - self.mean) @ self.projection
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        unit: Float32[np.ndarray, "frame small"] = (projected / np.maximum(lengths, 1e-9)).astype(np.float32)
        return unit


def fit_whitening(vectors: Float[np.ndarray, "frame dim"], owners: Int64[np.ndarray, " frame"]) -> Whitening:
    """Fit a whitening to the frames of a corpus, and its level, given the video of each frame."""
    whitening = fit_projection(vectors, owners)
    level = unrelated_level(whitening.apply(vectors), owners)
    return replace(whitening, level=min(level, FEW_VIDEOS_LEVEL) if has_few_videos(owners) else level)


def has_few_videos(owners: Int64[np.ndarray, " frame"]) -> bool:
    """Return whether the videos are too few to estimate what unrelated ones have in common."""
    return len(np.unique(owners)) <= FEW_VIDEOS


def fit_projection(vectors: Float[np.ndarray, "frame dim"], owners: Int64[np.ndarray, " frame"]) -> Whitening:
    """Fit a whitening without its level; with few videos it changes nothing."""
    if has_few_videos(owners):
        return Whitening(np.zeros(vectors.shape[1], np.float32), np.eye(vectors.shape[1], dtype=np.float32))
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    centred = exact - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    dim = int(np.clip(len(vectors) // FRAMES_PER_DIM, 2, min(MAX_DIM, vectors.shape[1])))
    kept = slice(-1, -dim - 1, -1)
    spread = np.sqrt(variances[kept].clip(0) + SHRINKAGE * max(variances.mean(), 1e-12))
    projection = (directions[:, kept] / spread).astype(np.float32)
    return Whitening(mean.astype(np.float32), projection)


def unrelated_level(vectors: Float[np.ndarray, "frame dim"], owners: Int64[np.ndarray, " frame"]) -> float:
    """Return the similarity that only ``UNRELATED_SHARE`` of the frames of different videos exceed; 0 without any."""
    chosen = np.random.default_rng(0).permutation(len(vectors))[:2000]
    similarities = vectors[chosen] @ vectors[chosen].T
    differ = owners[chosen][:, None] != owners[chosen][None, :]
    return float(np.quantile(similarities[differ], 1 - UNRELATED_SHARE)) if differ.any() else 0.0


SAMPLED_SEGMENTS = 600  # whose frames represent the whole index


def whiten_index(store: Store, fit: Callable[..., Whitening] = fit_whitening) -> Whitening:
    """Fit a whitening to the frames of a sample of the segments of an index; ``fit_projection`` without its level."""
    ids = store.searchable()
    chosen = np.random.default_rng(0).choice(ids, min(len(ids), SAMPLED_SEGMENTS), replace=False, shuffle=False)
    stored = store.features.read(np.sort(chosen), tokens=False)
    counts = np.array([len(times) for times in stored.times], np.int64)
    owners = np.repeat(np.array([segment.video for segment in stored.segments], np.int64), counts)
    return fit(np.concatenate([np.empty((0, store.dim), np.float16), *stored.frames]), owners)


SAMPLE = 20_000  # frames to which the whitening is fitted
NEIGHBOURS = 48  # of each frame, among which those of other videos count
DISTINCT = 0.85  # similarity to the last kept frames of its video, up to which a frame is kept
NUM_COMPARED = 32  # of these: an interview alternates between a few views
MAX_PARTNERS = 12  # videos that each video is aligned with
MAX_CHECKED = 5  # of them, the number checked on decoded frames


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPair:
    """The ids of two videos and their alignment; the clip is the one with fewer frames, at ``times`` in seconds."""

    clip: int
    film: int
    times: list[float]
    alignment: Alignment


def whiten_table(table: FrameTable) -> tuple[Whitening, Float32[np.ndarray, "frame small"]]:
    """Return the whitening of the frames of a table, and all its frames whitened."""
    rng, num_frames = np.random.default_rng(0), len(table.times)
    sample = np.sort(rng.choice(num_frames, min(SAMPLE, num_frames), replace=False))
    whitening = fit_whitening(table.vectors[sample], table.owners[sample])
    parts = [whitening.apply(table.vectors[first : first + SAMPLE]) for first in range(0, num_frames, SAMPLE)]
    return whitening, np.concatenate(parts)


def find_distinct(
    vectors: Float32[np.ndarray, "frame dim"], bounds: Int64[np.ndarray, " bound"]
) -> Bool[np.ndarray, " frame"]:
    """Return a mask of distinct frames: those unlike the last ``NUM_COMPARED`` distinct ones of their video."""
    starts, num_kept = set(bounds[:-1].tolist()), 0
    kept = np.empty((NUM_COMPARED, vectors.shape[1]), np.float32)
    steps = np.einsum("ij,ij->i", vectors[1:], vectors[:-1])
    distinct = np.ones(len(vectors), bool)
    for row in range(len(vectors)):
        if row in starts:
            num_kept = 0
        elif distinct[row - 1] and steps[row - 1] >= DISTINCT:  # most frames are like the one before
            distinct[row] = False
        else:
            distinct[row] = (kept[:num_kept] @ vectors[row]).max() < DISTINCT
        if distinct[row]:
            kept[num_kept % NUM_COMPARED] = vectors[row]
            num_kept += 1
    return distinct


def find_partners(
    vectors: Float32[np.ndarray, "frame dim"], bounds: Int64[np.ndarray, " bound"], level: float
) -> list[tuple[int, int]]:
    """Return the pairs of videos of which many frames are near neighbours, the best ``MAX_PARTNERS`` of each video.

    A pair is worth the sum, over the distinct frames of one video, of how far the nearest frame of the other one is
    above the level of unrelated frames.
    """
    rows = np.flatnonzero(find_distinct(vectors, bounds))
    owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[rows]
    scores, nearest = find_nearest_rows(vectors[rows], NEIGHBOURS)
    first = np.repeat(owners, nearest.shape[1])
    second = owners[nearest.ravel()]
    frames = np.repeat(np.arange(len(rows)), nearest.shape[1])
    kept = (nearest.ravel() >= 0) & (first != second) & (scores.ravel() > level)
    first, second, frames, gains = first[kept], second[kept], frames[kept], scores.ravel()[kept] - level
    # The best neighbour of each frame in each video: neighbours come best first.
    _, best = np.unique(frames.astype(np.int64) * len(bounds) + second, return_index=True)
    keys, inverse = np.unique(first[best].astype(np.int64) * len(bounds) + second[best], return_inverse=True)
    worth = np.bincount(inverse, weights=gains[best])
    pairs: set[tuple[int, int]] = set()
    counts = np.zeros(len(bounds), np.int64)
    for key in keys[np.argsort(-worth, kind="stable")].tolist():
        one, other = divmod(key, len(bounds))
        if counts[one] < MAX_PARTNERS:
            counts[one] += 1
            pairs.add((min(one, other), max(one, other)))
    return sorted(pairs)


def find_video_pairs(table: FrameTable, wanted: Collection[int] | None = None) -> list[VideoPair]:
    """Return the pairs of videos whose frames also agree in their order, most alike first.

    Each has one of the ``wanted`` ids, None for any.
    """
    whitening, vectors = whiten_table(table)
    is_wanted = np.ones(len(table.video_ids), bool) if wanted is None else np.isin(table.video_ids, list(wanted))
    pairs = []
    for one, other in find_partners(vectors, table.bounds, whitening.level):
        if not (is_wanted[one] or is_wanted[other]):
            continue
        clip, film = sorted((one, other), key=lambda video: table.rows(video).stop - table.rows(video).start)
        clip_rows, film_rows = table.rows(clip), table.rows(film)
        scores = vectors[clip_rows] @ vectors[film_rows].T - whitening.level
        alignment = align_footage(scores, table.times[clip_rows], table.times[film_rows])
        if alignment is not None:
            ids, times = table.video_ids, table.times[clip_rows]
            pairs.append(VideoPair(clip=int(ids[clip]), film=int(ids[film]), times=times.tolist(), alignment=alignment))
    return limit_pairs(sorted(pairs, key=lambda pair: -pair.alignment.score))


def limit_pairs(pairs: Sequence[VideoPair]) -> list[VideoPair]:
    """Return the pairs that are among the best ``MAX_CHECKED`` of either video, best first."""
    counts = Counter[int]()
    kept = []
    for pair in pairs:
        if min(counts[pair.clip], counts[pair.film]) < MAX_CHECKED:
            counts.update((pair.clip, pair.film))
            kept.append(pair)
    return kept
