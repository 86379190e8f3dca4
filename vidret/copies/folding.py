"""Folding of a search's results that show the same footage, by stored frame vectors only.

No frame is decoded, so that a search stays fast, and only certain copies are folded. Vectors of two takes of one place
are as close as those of a copy, at any two times; but only in a copy do they change at the same times. The evidence is
the agreement of both videos' changes in their order, in standard deviations of a random order. Dusk, or a camera that
turns on a schedule, makes any two takes agree: only changes within segments count, less their trend.

Reference: Daniels 1944, "The relation between measures of correlation in the universe of sample permutations".
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int64

from vidret.copies.candidates import FEW_VIDEOS, Whitening, fit_projection, whiten_index
from vidret.store.lookup import spread_evenly
from vidret.store.records import VideoSize
from vidret.store.store import Store
from vidret.types import Hit, Moment, NearCopy
from vidret.types.arrays import widen_rows

Result = TypeVar("Result", Hit, Moment)

MAX_FRAMES = 128  # of the shorter video, evenly spread, that are compared
MIN_FRAMES = 6
SAME_LENGTH_S, SAME_LENGTH_SHARE = 0.15, 0.002  # by which copies of a whole video may differ
LEAST_SHARE = 0.5  # of the longer video, that a part must fill
LEAST_ALIKE = 0.75  # similarity of the mean vectors; nearly all copies have more
# None of 6,600 pairs of look-alikes of 3 to 30 s without a common frame reaches these.
ORDER_OF_WHOLE, AGREEMENT_OF_WHOLE = 3.3, 0.2
ORDER_OF_PART, AGREEMENT_OF_PART = 5.0, 0.35  # stricter, since the best of many offsets is taken
STEP_S = 0.25  # between offsets of a part
DRIFT = 1.25  # growth or shrinkage of the index, beyond which the whitening is fitted again
WHITENING = "whitening"  # key of the metadata: generation, number of segments, mean vector and directions
MAX_VERDICTS = 100_000  # in the cache
Pair = tuple[VideoSize, VideoSize]  # a video with other segments is a different one
Offsets = dict[Pair, float | None]  # of the second of two videos at time 0 of the first; None if not copies


class FoundSpan(NamedTuple):
    """The span of a search result: its video, and start and end in seconds."""

    video: int
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """The frames of a video, in time order.

    Attributes:
        vectors: Unit vectors, as stored or whitened.
        times: Times in seconds.
        segments: Index of the segment of each.
    """

    vectors: Float[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]
    segments: Int64[np.ndarray, " frame"]

    @cached_property
    def changes(
        self,
    ) -> tuple[Float64[np.ndarray, " row"], Float[np.ndarray, "row known"], Float[np.ndarray, "row dim"]]:
        """The times of at most ``MAX_FRAMES`` frames, the basis of ``make_basis``, and their vectors without it."""
        rows = spread_evenly(len(self.times), MAX_FRAMES)
        basis, vectors = make_basis(self.times[rows], self.segments[rows]), self.vectors[rows]
        return self.times[rows], basis, vectors - basis @ (basis.T @ vectors)


class CopyFolder:
    """Folds results that show the same footage; verdicts on pairs of videos are cached until one of the two changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fitted: tuple[int, Whitening] | None = None  # with the number of segments, as is stored or fitted now
        self._offsets: Offsets = {}

    def fold_results(self, results: Sequence[Result]) -> list[Result]:
        """Return the results that show no footage of an earlier one; those that do are ``near_copies`` of that."""
        if len({result.video for result in results}) < 2:
            return list(results)
        by_hits = isinstance(results[0], Hit)
        spans = [
            FoundSpan(result.video, result.time, result.time)
            if isinstance(result, Hit)
            else FoundSpan(result.video, result.start, result.end)
            for result in results
        ]
        copies: dict[int, dict[int, NearCopy]] = {}
        for index, leader in enumerate(self.fold(spans, whole=by_hits)):
            leader_copies = copies.setdefault(leader, {})
            if leader != index:
                result, span = results[index], spans[index]
                leader_copies.setdefault(span.video, NearCopy(video=span.video, path=result.path, time=span.start))
        return [
            replace(results[index], near_copies=tuple(leader_copies.values())) if leader_copies else results[index]
            for index, leader_copies in copies.items()
        ]

    def fold(self, spans: Sequence[FoundSpan], *, whole: bool) -> list[int]:
        """Return for each result, best first, the index of the first one that shows the same footage, perhaps itself.

        If results stand for ``whole`` videos, copies of whole videos are folded whichever spans were found.
        """
        videos = self._store.read_sizes({span.video for span in spans})
        fitted, num_segments = self._fitted, len(self._store)
        if (fitted is not None and not _holds(fitted[0], num_segments)) or len(self._offsets) > MAX_VERDICTS:
            self._fitted, self._offsets = None, {}
        offsets = self._offsets  # another thread may replace them
        pairs = combinations(sorted(videos.values()), 2)
        self._judge({(one, other) for one, other in pairs if may_be_copies(one.seconds, other.seconds)}, offsets)
        leaders: list[int] = []
        for index, span in enumerate(spans):
            firsts = (other for other in range(index) if leaders[other] == other)
            same = (other for other in firsts if _shows(spans[other], span, videos, offsets, whole=whole))
            leaders.append(next(same, index))
        return leaders

    def _list_segments(self, video_ids: Iterable[int]) -> Int64[np.ndarray, " segment"]:
        return self._store.overlapping_segments([(video_id, -math.inf, math.inf) for video_id in video_ids])

    def _judge(self, pairs: Set[Pair], offsets: Offsets) -> None:
        """Add the offsets of pairs of videos that are not known yet, None if they are not copies."""
        new = sorted(pair for pair in pairs if pair not in offsets)
        if not new:
            return
        means = self._average({video.id for pair in new for video in pair})
        offsets |= dict.fromkeys(new)
        alike = [
            (one, other)
            for one, other in new
            if one.id in means and other.id in means and float(means[one.id] @ means[other.id]) >= LEAST_ALIKE
        ]
        videos = self._read({video.id for pair in alike for video in pair})
        enough = {video: frames for video, frames in videos.items() if len(frames.times) >= MIN_FRAMES}
        if enough:
            fitted = self._fitted or _load_whitening(self._store)
            self._fitted = fitted = fitted or (len(self._store), whiten_index(self._store, fit_projection))
            for video, frames in enough.items():
                enough[video] = replace(frames, vectors=fitted[1].apply(frames.vectors))
        for one, other in alike:
            if one.id in enough and other.id in enough:
                offsets[one, other] = self._align(enough[one.id], enough[other.id], one.seconds, other.seconds)

    def _average(self, videos: Collection[int]) -> dict[int, Float[np.ndarray, " dim"]]:
        """Return the unit mean of the segments of each video that has one."""
        kept, vectors = self._store.features.intact_vectors(self._list_segments(videos))
        video_ids, rows = np.unique(self._store.owners(kept), return_inverse=True)
        sums = (rows == np.arange(len(video_ids))[:, None]).astype(np.float32) @ widen_rows(vectors)
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
        return dict(zip(video_ids.tolist(), sums, strict=True))

    def _read(self, videos: Collection[int]) -> dict[int, VideoFrames]:
        """Return the frames of the videos that have a segment, in time order."""
        stored = self._store.features.read(self._list_segments(videos), tokens=False)
        rows: dict[int, list[int]] = {}
        for row, segment in sorted(enumerate(stored.segments), key=lambda numbered: numbered[1].number):
            rows.setdefault(segment.video, []).append(row)
        return {
            video: VideoFrames(
                np.concatenate([stored.frames[row] for row in video_rows]),
                np.concatenate([stored.times[row] for row in video_rows]),
                np.repeat(np.arange(len(video_rows)), [len(stored.times[row]) for row in video_rows]),
            )
            for video, video_rows in rows.items()
        }

    def _align(self, one: VideoFrames, other: VideoFrames, one_s: float, other_s: float) -> float | None:
        """Return the time of the second of two videos at time 0 of the first; None unless they are certainly copies."""
        if is_same_length(one_s, other_s):
            order, agreement = measure_order(one, other, 0.0)
            return 0.0 if order >= ORDER_OF_WHOLE and agreement >= AGREEMENT_OF_WHOLE else None
        if one_s < other_s:
            return find_part(one, other, other_s - one_s)
        offset = find_part(other, one, one_s - other_s)
        return None if offset is None else -offset


def save_whitening(store: Store) -> None:
    """Fit and store the whitening that folding starts with, unless nothing changed; none is stored for few videos."""
    generation, num_segments, stored = store.generation, len(store), store.metadata.get(WHITENING)
    head = np.array([generation, num_segments], np.int64).tobytes()
    if store.select().num_videos > FEW_VIDEOS and not (isinstance(stored, bytes) and stored.startswith(head)):
        fitted = whiten_index(store, fit_projection)
        with Store.open(store.path, write=True) as writer:
            rows = fitted.mean.tobytes() + fitted.projection.T.tobytes()
            writer.metadata.set(WHITENING, head + rows)


def _load_whitening(store: Store) -> tuple[int, Whitening] | None:
    """Return the number of segments and the whitening that are stored; None unless it is still valid for the index."""
    stored = store.metadata.get(WHITENING)
    if not isinstance(stored, bytes) or len(stored) % (4 * store.dim) != 16:
        return None
    num_segments = int(np.frombuffer(stored, np.int64, 2)[1])
    mean, *rows = np.frombuffer(stored, np.float32, offset=16).reshape(-1, store.dim)
    whitening = Whitening(mean, np.array(rows, np.float32).reshape(-1, store.dim).T)
    if not rows or not _holds(num_segments, len(store)) or not np.isfinite(whitening.projection).all():
        return None
    return num_segments, whitening


def _holds(num_fitted: int, num_segments: int) -> bool:
    """Return whether a whitening fitted to ``num_fitted`` segments is valid for an index of ``num_segments``."""
    return num_fitted > 0 and 1 / DRIFT <= num_segments / num_fitted <= DRIFT


def _shows(one: FoundSpan, other: FoundSpan, videos: Mapping[int, VideoSize], offsets: Offsets, *, whole: bool) -> bool:
    """Return whether a result shows the footage of another one."""
    first, second = sorted((videos[one.video], videos[other.video]))
    offset = offsets.get((first, second))
    if offset is None or one.video == other.video:
        return False
    if whole and is_same_length(videos[one.video].seconds, videos[other.video].seconds):
        return True
    moved = -offset if one.video < other.video else offset  # from the times of ``other`` to those of ``one``
    return other.start + moved <= one.end and one.start <= other.end + moved


def is_same_length(one_s: float, other_s: float) -> bool:
    """Return whether two videos are as long as a video and its copy."""
    return abs(one_s - other_s) <= max(SAME_LENGTH_S, SAME_LENGTH_SHARE * one_s)


def may_be_copies(one_s: float, other_s: float) -> bool:
    """Return whether one of two lengths is a large enough part of the other."""
    return min(one_s, other_s) >= LEAST_SHARE * max(one_s, other_s) > 0


def find_part(part: VideoFrames, film: VideoFrames, room_s: float) -> float | None:
    """Return the time in seconds at which a film, ``room_s`` longer, shows a part; None unless it certainly does.

    The frames of both are whitened.
    """
    nearest = (part.vectors @ film.vectors.T).argmax(axis=1)
    steps = np.round((film.times[nearest] - part.times) / STEP_S)[:, None] + np.arange(-2, 3)
    offsets = STEP_S * np.unique(steps)
    offsets = offsets[(offsets >= -STEP_S) & (offsets <= room_s + STEP_S)]
    if not len(offsets):
        return None
    likeness = [float((part.vectors * _read_at(film, part.times + offset)).sum()) for offset in offsets]
    best = float(offsets[int(np.argmax(likeness))])
    order, agreement = measure_order(part, film, best)
    return best if order >= ORDER_OF_PART and agreement >= AGREEMENT_OF_PART else None


def measure_order(one: VideoFrames, other: VideoFrames, offset_s: float) -> tuple[float, float]:
    """Return how much two videos change at the same times: as standard deviations and as a correlation.

    Both are 0 if there are fewer than ``MIN_FRAMES`` frames, or if one video does not change. The other video is at
    ``offset_s`` when the first is at 0 s.
    """
    times, basis, ours = one.changes
    num_free = len(times) - basis.shape[1]
    if num_free < MIN_FRAMES - 2:
        return 0.0, 0.0
    theirs = _read_at(other, times + offset_s)
    theirs = theirs - basis @ (basis.T @ theirs)
    products = ours @ theirs.T
    spread = math.sqrt(float((products**2).sum()) / num_free)
    size = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    total = float(np.trace(products))
    return (total / spread, total / size) if spread > 0 and size > 1e-6 * len(times) else (0.0, 0.0)


def make_basis(
    times: Float64[np.ndarray, " frame"], segments: Int64[np.ndarray, " frame"]
) -> Float64[np.ndarray, "frame known"]:
    """Return an orthonormal basis of what is not a change: a constant for each segment, and a linear trend."""
    _, owners, counts = np.unique(segments, return_inverse=True, return_counts=True)
    levels = (owners[:, None] == np.arange(len(counts))) / np.sqrt(counts)
    trend = times - (np.bincount(owners, times) / counts)[owners]
    length = np.linalg.norm(trend)
    return np.concatenate([levels, trend[:, None] / length], axis=1) if length > 1e-9 * np.ptp(times) else levels


def _read_at(frames: VideoFrames, wanted: Float64[np.ndarray, " time"]) -> Float64[np.ndarray, "time dim"]:
    """Return unit vectors at some times, interpolated between frames; the first or the last one outside of them."""
    times, vectors = frames.times, frames.vectors
    after = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    before, after = after - 1, np.minimum(after, len(times) - 1)
    gaps = np.maximum(times[after] - times[before], 1e-9)
    shares = ((wanted - times[before]) / gaps).clip(0, 1)[:, None]
    mixed: Float64[np.ndarray, "time dim"] = (1 - shares) * vectors[before] + shares * vectors[after]
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)
    return mixed
