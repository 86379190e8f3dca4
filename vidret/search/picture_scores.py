"""How well the frames of candidate videos match the clauses of a query, for all videos in one matrix product."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.search.reranking import SegmentFeatures
from vidret.types import Segment


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VideoPictures:
    """The frames of one video, in time order.

    Attributes:
        times: Their times in seconds.
        scores: Their scores by clause.
        best: The best score of each clause.
        segments: The segments that hold them.
    """

    times: Float64[np.ndarray, " frame"]
    scores: Float[np.ndarray, "clause frame"]
    segments: list[Segment]
    best: Sequence[float]


def score_pictures(
    stored: SegmentFeatures,
    *,
    clauses: Float32[np.ndarray, "clause dim"],
    negatives: Float32[np.ndarray, "negative dim"],
    unrelated: Float32[np.ndarray, "query dim"],
    mean: float,
    deviation: float,
    hints: Float[np.ndarray, " clause"],
) -> dict[int, VideoPictures]:
    """Return the frames of each video with their standard scores, by video id, in the order of the segments.

    Videos that resemble every query are lowered: of each inner product the level of the video is subtracted, the mean
    over the unrelated queries of what each reaches at best in it. A negative term lowers a frame by how much it scores
    above the video's mean for that term, or, since all of a video may show it, above the mean of the unrelated queries.

    Args:
        stored: Segments with their frames; those without frames are left out.
        clauses: The clauses of the query.
        negatives: Its negative terms.
        unrelated: The unrelated queries.
        mean: Of the best scores of unrelated queries in the index.
        deviation: Of the same scores.
        hints: What each clause adds to the standard scores.
    """
    members: dict[int, list[int]] = {}
    for row, segment in enumerate(stored.segments):
        if len(stored.frames[row]):
            members.setdefault(segment.video, []).append(row)
    if not members:
        return {}
    for own in members.values():
        own.sort(key=lambda row: stored.segments[row].start)
    order = [row for own in members.values() for row in own]
    frames = np.concatenate([stored.frames[row] for row in order])
    times = np.concatenate([stored.times[row] for row in order])
    lengths = np.array([sum(len(stored.frames[row]) for row in own) for own in members.values()])
    similarities = np.concatenate([clauses, negatives, unrelated]) @ frames.T
    scores = _subtract_levels(similarities, lengths, len(clauses), len(negatives))
    scores = (scores - mean) / deviation + hints[:, None]
    ends = np.cumsum(lengths)
    best = np.maximum.reduceat(scores, ends - lengths, axis=1).T.tolist()
    return {
        video_id: VideoPictures(
            times=times[end - length : end],
            scores=scores[:, end - length : end],
            segments=[stored.segments[row] for row in own],
            best=highest,
        )
        for (video_id, own), length, end, highest in zip(
            members.items(), lengths.tolist(), ends.tolist(), best, strict=True
        )
    }


def hide_pictures(pictures: Mapping[int, VideoPictures], score: float) -> dict[int, VideoPictures]:
    """Return the same frames, all with one score."""
    return {
        video_id: replace(each, scores=np.full_like(each.scores, score), best=[score] * len(each.best))
        for video_id, each in pictures.items()
    }


def lower_pictures(pictures: Mapping[int, VideoPictures], video_ids: Set[int], loss: float) -> dict[int, VideoPictures]:
    """Return the same frames, those of some videos with lower scores."""
    return {
        video_id: replace(each, scores=each.scores - loss, best=[score - loss for score in each.best])
        if video_id in video_ids
        else each
        for video_id, each in pictures.items()
    }


def _subtract_levels(
    similarities: Float32[np.ndarray, "vector frame"],
    lengths: Int64[np.ndarray, " video"],
    num_clauses: int,
    num_negatives: int,
) -> Float[np.ndarray, "clause frame"]:
    """Return the scores of clauses from the similarities of clauses, negative terms and unrelated queries."""
    starts = np.cumsum(lengths) - lengths
    scores, negatives, unrelated = np.split(similarities, [num_clauses, num_clauses + num_negatives])
    for negative in negatives:
        means = np.add.reduceat(negative, starts) / lengths
        scores = scores - np.maximum(0, negative - np.minimum(np.repeat(means, lengths), unrelated.mean(axis=0)))
    levels = np.maximum.reduceat(unrelated, starts, axis=1).mean(axis=0)
    result: Float[np.ndarray, "clause frame"] = scores - np.repeat(levels, lengths)
    return result
