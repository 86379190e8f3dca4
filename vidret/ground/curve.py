"""Moments with no training: from the curve of a query's score over a video's frames to spans that stand out of it."""

import numpy as np
from jaxtyping import Float, Int

from vidret.ground.spans import Span, keep_best

FLANK = 2  # a span is held against neighbours twice its own length on either side
CONTRAST = 0.5  # what standing out counts, against the level itself
RELIABILITY = 0.25  # how strongly longer evidence is trusted: 0 not at all, 0.5 as a t-test of independent frames
SHORTEST = 2  # frames; one frame alone is noise
ALL_LENGTHS = 64  # frames; beyond, lengths grow by a tenth, so that a two-hour video has about a hundred
MAX_OVERLAP = 0.3


def find_spans(
    scores: Float[np.ndarray, " frame"],
    times: Float[np.ndarray, " frame"],
    *,
    start: float,
    end: float,
    k: int = 5,
) -> list[Span]:
    """Find the spans in which a score curve stands high, and above its surroundings.

    Every stretch of frames, at all scales, is held against its flanks: its score is the mean inside, plus half the
    contrast (mean inside less mean of the flanks) weighted by (inside * outside / (inside + outside)) ** RELIABILITY,
    where the two are numbers of frames. No threshold is taken: nothing but this video decides the boundaries.

    Args:
        scores: Similarity of the query with each frame.
        times: When the frames are, in seconds, rising.
        start: Where the first frame's stretch begins, in seconds.
        end: Where the last frame's stretch ends, in seconds.
        k: How many spans to give at most; no two overlap by more than ``MAX_OVERLAP``.

    Returns:
        Spans, best first. A boundary lies midway between two frames.
    """
    num_frames = len(scores)
    if len(times) != num_frames or num_frames == 0:
        raise ValueError(f"scores and times must be of one length above 0, got {num_frames} and {len(times)}")
    edges = np.concatenate([[start], (times[1:] + times[:-1]) / 2, [end]])
    first, last = list_windows(num_frames)
    values = weigh_windows(np.asarray(scores, dtype=np.float64), first, last)
    best = keep_best(edges[first], edges[last], values, limit=k, max_overlap=MAX_OVERLAP)
    return [Span(float(edges[first[i]]), float(edges[last[i]]), float(values[i])) for i in best]


def list_windows(num_frames: int) -> tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"]]:
    """List all windows (first frame, frame after the last) of the lengths looked at, shortest first."""
    lengths = []
    length = min(SHORTEST, num_frames)
    while length < num_frames:
        lengths.append(length)
        length = length + 1 if length < ALL_LENGTHS else int(length * 1.1)
    lengths.append(num_frames)
    first = np.concatenate([np.arange(num_frames - length + 1) for length in lengths])
    counts = [num_frames - length + 1 for length in lengths]
    return first, first + np.repeat(lengths, counts)


def weigh_windows(
    scores: Float[np.ndarray, " frame"], first: Int[np.ndarray, " window"], last: Int[np.ndarray, " window"]
) -> Float[np.ndarray, " window"]:
    """Score each window by its level and its contrast with its flanks; one without flanks has no contrast."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    inside = last - first
    before = np.maximum(first - FLANK * inside, 0)
    after = np.minimum(last + FLANK * inside, len(scores))
    outside = (first - before) + (after - last)
    level = (total[last] - total[first]) / inside
    around = (total[first] - total[before] + total[after] - total[last]) / np.maximum(outside, 1)
    weight = (inside * outside / (inside + outside)) ** RELIABILITY
    values: Float[np.ndarray, " window"] = level + CONTRAST * np.where(outside > 0, (level - around) * weight, 0.0)
    return values
