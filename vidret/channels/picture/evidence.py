"""Evidence of the pictures of videos for the clauses of a query, from some segments or all frames.

Picture scales turn scores into evidence: the mean and deviation of unrelated queries' scores, by ranker.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Float64

from vidret.channels.base import AdjustSpans, Clause, EncodedQuery
from vidret.channels.picture.ranking import Ids, Ranker
from vidret.channels.picture.reranking import RankedSegments
from vidret.store.records import StoredSegments
from vidret.store.store import Store
from vidret.text import parse_json
from vidret.types import Segment, Source, Vector
from vidret.types.arrays import widen_rows

DRIFT = 1.25  # growth of the index above which a scale is measured again
SAMPLE = 256  # segments that a scale is measured on

# Pictures: nats for each standard deviation of the scores of unrelated queries, and for a score at their mean.
PICTURE_SLOPE, PICTURE_OFFSET = 1.9, -0.9
MIN_DEVIATION = 1e-4  # of the scores of unrelated queries: float16 vectors cannot resolve smaller ones
# Nats that a hint at words subtracts from pictures, and that "someone says that ..." subtracts in addition.
HINTED, REPORTED = 0.8, 1.7

Measure = Callable[[Ranker], Float[np.ndarray, " score"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScale:
    """Mean and standard deviation of a ranker's scores of unrelated queries in the segments of an index."""

    mean: float
    deviation: float

    def rate(self, scores: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """Return scores as evidence."""
        return self.slope * (scores - self.mean) + PICTURE_OFFSET

    @property
    def slope(self) -> float:
        """Nats for each unit of the scores."""
        return PICTURE_SLOPE / max(self.deviation, MIN_DEVIATION)


def weigh_pictures(clause: Clause, compared: Collection[Source]) -> float:
    """Return the nats that a clause's wording adds to pictures, next to other sources."""
    hinted = (clause.source not in (None, "sound")) * HINTED + clause.is_report * REPORTED
    return clause.weigh("picture", compared) - hinted


UNKNOWN = PictureScale(mean=0.0, deviation=0.1)  # of an empty index


class _Known(NamedTuple):
    """The scale of a ranker, and the state of the index for which it is valid."""

    generation: int
    stored: str | bytes | None
    num_segments: int
    scale: PictureScale


class PictureScales:
    """The scales of an index. Indexing stores them; a reader measures them again if the index has grown since."""

    def __init__(self, measure: Measure) -> None:
        """Set the function that scores unrelated queries in a sample of the index."""
        self._measure = measure
        self._known: dict[str, _Known] = {}

    def find(self, store: Store, ranker: Ranker) -> PictureScale:
        """Return the scale of a ranker, as stored or measured now."""
        generation, stored = store.generation, store.metadata.get(_key(ranker))
        known = self._known.get(ranker.name)
        if known is None or (known.generation, known.stored) != (generation, stored):
            _, num_segments, scale = _read(stored)
            if known is not None and known.stored == stored and known.num_segments > num_segments:
                num_segments, scale = known.num_segments, known.scale
            if len(store) > num_segments * DRIFT:
                num_segments, scale = len(store), self._measure_scale(ranker)
            self._known[ranker.name] = known = _Known(generation, stored, num_segments, scale)
        return known.scale

    def save(self, store: Store, ranker: Ranker) -> None:
        """Measure and store a scale, unless the stored one was measured on the index as it is."""
        stored = store.metadata.get(_key(ranker))
        if _read(stored)[0] != store.generation:
            store.metadata.set_many(self.measure(store, ranker))

    def measure(self, store: Store, ranker: Ranker) -> dict[str, str]:
        """Measure now, and return the entries to store; none for an empty index."""
        self._known.pop(ranker.name, None)
        generation, scale = store.generation, self._measure_scale(ranker)
        facts = {"segments": len(store), "generation": generation, "scale": [scale.mean, scale.deviation]}
        return {_key(ranker): json.dumps(facts)} if scale is not UNKNOWN else {}

    def _measure_scale(self, ranker: Ranker) -> PictureScale:
        scores = self._measure(ranker).astype(np.float64)  # then the sum does not depend on the order of segments
        if not len(scores):
            return UNKNOWN
        return PictureScale(mean=float(scores.mean()), deviation=float(scores.std()))


def find_typical_score(scale: PictureScale, share: float) -> float:
    """Return the score that a share of unrelated queries reaches in a segment."""
    return scale.mean + NormalDist().inv_cdf(1 - share) * scale.deviation


def _read(stored: str | bytes | None) -> tuple[int, int, PictureScale]:
    """Return the generation and the number of segments of a stored scale, and it; an unknown one if it is invalid."""
    with suppress(ValueError, LookupError, TypeError, OverflowError):
        facts: Any = parse_json(stored or "")
        mean, deviation = map(float, facts["scale"])
        if math.isfinite(mean) and 0 <= deviation < math.inf:
            return int(facts["generation"]), int(facts["segments"]), PictureScale(mean=mean, deviation=deviation)
    return -1, 0, UNKNOWN


def _key(ranker: Ranker) -> str:
    return f"scale.{ranker.name}"


@dataclass(frozen=True, slots=True, eq=False)
class FrameScorer:
    """Scores the frames of one video for a query.

    A negative term lowers the score of a frame by its own score above the mean of the video's stored frames.
    """

    positive: Vector
    negatives: tuple[tuple[Vector, float], ...]

    @classmethod
    def fit(cls, query: EncodedQuery, stored: Float[np.ndarray, "frame dim"]) -> Self:
        """Return the scorer of a video with these stored frames."""
        negatives = tuple((text.sentence, float((stored @ text.sentence).mean())) for text in query.negatives)
        return cls(query.positive.sentence, negatives)

    def score(self, frames: Float[np.ndarray, "frame dim"]) -> Float[np.ndarray, " frame"]:
        """Return the scores of some frames."""
        scores: Float[np.ndarray, " frame"] = frames @ self.positive
        for negative, mean in self.negatives:
            scores = scores - np.maximum(0, frames @ negative - mean)
        return scores


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VideoPictures:
    """Points in time of one video, rising: frames, or the best frames of some segments.

    Attributes:
        times: Their times in seconds.
        scores: Their evidence by clause.
        best: The evidence of the video for each clause.
        segments: The segments of the points, by time.
        ids: Their ids.
        levels: Levels of the score of the best segment by name; empty for several clauses.
        line: Offset and slope of the evidence as a function of the similarity of frames, for the first clause; None if
            the points are the best frames of segments.
    """

    times: Float64[np.ndarray, " point"]
    scores: Float[np.ndarray, "clause point"]
    best: Sequence[float]
    segments: Sequence[Segment]
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    levels: Mapping[str, float] = field(default_factory=dict)
    line: tuple[float, float] | None = None

    def with_scores(self, scores: Float[np.ndarray, "clause point"]) -> "VideoPictures":
        """Return the same points with other evidence."""
        return replace(self, scores=scores, best=scores.max(axis=1).tolist(), levels={}, line=None)

    @property
    def best_id(self) -> int:
        """The id of the best segment for the first clause, where the points are the best frames of segments."""
        return int(self.ids[self.scores[0].argmax()])


def collect_segments(
    ranked: Sequence[RankedSegments], evidence: Sequence[Float[np.ndarray, " segment"]]
) -> dict[int, VideoPictures]:
    """Return segments with their evidence for each clause, by video as points in time.

    The best video of the first clause is first, and its times are those of the points.
    """
    best_rows: dict[int, int] = {}  # the row of the best segment of each video
    for row in np.argsort(-ranked[0].scores, kind="stable").tolist():
        best_rows.setdefault(ranked[0].segments[row].video, row)
    ranks = {video_id: rank for rank, video_id in enumerate(best_rows)}
    owners = np.array([ranks[segment.video] for segment in ranked[0].segments])
    order = np.lexsort((ranked[0].times, owners))
    ids, segments = ranked[0].ids[order], [ranked[0].segments[row] for row in order.tolist()]
    scores = np.stack(evidence)[:, order]
    times = ranked[0].times[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    best = np.maximum.reduceat(scores, starts, axis=1).T.tolist()
    levels = {name: level.tolist() for name, level in ranked[0].levels.items()} if len(ranked) == 1 else {}
    return {
        video_id: VideoPictures(
            times=times[start:end],
            scores=scores[:, start:end],
            best=video_best,
            ids=ids[start:end],
            segments=segments[start:end],
            levels={name: level[row] for name, level in levels.items()},
        )
        for (video_id, row), start, end, video_best in zip(
            best_rows.items(), starts.tolist(), [*starts[1:].tolist(), len(segments)], best, strict=True
        )
    }


def merge_segments(parts: Sequence[VideoPictures], ids: Set[int]) -> VideoPictures:
    """Return the segments of a video with these ids, from one or several parts; each part's best must be among them."""
    kept = np.flatnonzero([key in ids for part in parts for key in part.ids.tolist()])
    times = np.concatenate([part.times for part in parts])
    order = kept[np.argsort(times[kept], kind="stable")]
    scores = np.concatenate([part.scores for part in parts], axis=1)[:, order]
    segments = [segment for part in parts for segment in part.segments]
    return VideoPictures(
        times=times[order],
        scores=scores,
        best=scores.max(axis=1).tolist(),
        ids=np.concatenate([part.ids for part in parts])[order],
        segments=[segments[row] for row in order.tolist()],
        levels=max(parts, key=lambda part: part.best[0]).levels,
    )


def collect_frames(
    stored: StoredSegments, segments: Mapping[int, VideoPictures], queries: Sequence[EncodedQuery], slope: float
) -> dict[int, VideoPictures]:
    """Return all stored frames of videos as points in time.

    The best frame of a video has the evidence of its best segment. Other frames have ``slope`` nats less for each unit
    that their similarity is lower, so that moments are found as in the curve of similarities. ``segments`` are the
    stored ones as ``collect_segments`` returns them.
    """
    members: dict[int, list[int]] = {}
    for row, segment in enumerate(stored.segments):
        if segment.video in segments and len(stored.frames[row]):
            members.setdefault(segment.video, []).append(row)
    videos = {}
    for video_id, rows in members.items():
        rows.sort(key=lambda row: stored.segments[row].start)
        frames = widen_rows(np.concatenate([stored.frames[row] for row in rows]))
        similarities = np.stack([FrameScorer.fit(query, frames).score(frames) for query in queries])
        best = np.array(segments[video_id].best)
        below = slope * (similarities.max(axis=1, keepdims=True) - similarities)
        videos[video_id] = replace(
            segments[video_id],
            times=np.concatenate([stored.times[row] for row in rows]),
            scores=best[:, None] - below,
            ids=stored.ids[rows],
            segments=[stored.segments[row] for row in rows],
            line=(float(best[0] - slope * similarities[0].max()), slope),
        )
    return videos


def weigh_points(
    videos: Mapping[int, VideoPictures], stored: StoredSegments, weights: Float[np.ndarray, "clause segment"]
) -> dict[int, VideoPictures]:
    """Return the same points, each with the weight of its segment added to its evidence."""
    rows = {key: row for row, key in enumerate(stored.ids.tolist())}
    weighed = {}
    for video_id, points in videos.items():
        point_rows = [rows[key] for key in points.ids.tolist()]
        gains = weights[:, point_rows]
        if len(points.times) > len(point_rows):  # all frames of the segments
            gains = np.repeat(gains, [len(stored.times[row]) for row in point_rows], axis=1)
        weighed[video_id] = points.with_scores(points.scores + gains)
    return weighed


def adjust_points(
    videos: Mapping[int, VideoPictures], adjust: AdjustSpans, *, frames: bool
) -> dict[int, VideoPictures]:
    """Return the same points with their evidence adjusted, each over its time or, without ``frames``, its segment."""
    if frames:
        starts = ends = np.concatenate([points.times for points in videos.values()])
    else:
        spans = [(segment.start, segment.end) for points in videos.values() for segment in points.segments]
        starts, ends = np.array(spans, np.float64).T
    counts = [len(points.times) for points in videos.values()]
    scores = np.concatenate([points.scores for points in videos.values()], axis=1)
    scores = adjust(np.repeat(np.array([*videos]), counts), starts, ends, scores)
    parts = np.split(scores, np.cumsum(counts)[:-1], axis=1)
    return {
        video_id: points.with_scores(video_scores)
        for (video_id, points), video_scores in zip(videos.items(), parts, strict=True)
    }


def lower_pictures(pictures: Mapping[int, VideoPictures], video_ids: Set[int], loss: float) -> dict[int, VideoPictures]:
    """Return the same points, those of some videos with less evidence."""
    if not video_ids:
        return dict(pictures)
    return {
        video_id: replace(
            points,
            scores=points.scores - loss,
            best=[score - loss for score in points.best],
            line=None if points.line is None else (points.line[0] - loss, points.line[1]),
        )
        if video_id in video_ids
        else points
        for video_id, points in pictures.items()
    }
