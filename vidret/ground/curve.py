"""Training-free grounding: spans that stand out of the curve of a query's score over a video's frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from vidret.ground.spans import Span, keep_best
from vidret.types import Curve

FLANK = 2  # flanks on either side, in lengths of the span
CONTRAST = 0.5  # weight of the contrast with the flanks, relative to the level inside
RELIABILITY = 0.25  # exponent that favours longer spans: 0 none, 0.5 as in a t-test of independent frames
SHORTEST = 2  # frames; a single frame is noise
ALL_LENGTHS = 64  # frames; longer ones grow by a tenth, so that a two-hour video has about a hundred lengths
MAX_OVERLAP = 0.3
# Measured on joined real clips with two sets of captions. Results hardly change from 0.6 to 0.9, and from 0.05 to 0.2.
SHOT_WEIGHT = 0.6  # of the mean score of a frame's shot, against its own score
CUT_BONUS = 0.1  # standard deviations of the scores that a span gains for each end at a cut
STANDS_OUT = 0.5  # fraction of the best span's rise above the mean of its video


def find_spans(
    scores: Float[np.ndarray, " frame"],
    times: Float[np.ndarray, " frame"],
    *,
    start: float,
    end: float,
    k: int = 5,
    max_overlap: float = MAX_OVERLAP,
    cuts: Sequence[float] = (),
    snap: bool = True,
) -> list[Span]:
    """Return the spans in which a score curve is high, both absolutely and relative to the frames around.

    Every window of frames, at all scales, is compared with its flanks. Its score is the mean inside plus half the
    contrast (mean inside minus mean of the flanks), weighted by (inside * outside / (inside + outside)) ** RELIABILITY
    with ``inside`` and ``outside`` in frames. There is no threshold: boundaries depend on this video only.

    Where shots are known, a frame's score counts less than the mean of its shot, since what is seen rarely changes
    within one. With ``snap``, ends at cuts count as a little better. Times are in seconds, those of frames rising.

    Returns:
        At most ``k`` spans, best first, whose intersection over union is at most ``max_overlap``. Boundaries are at the
        cut between two frames, or else midway between them; without ``snap``, midway throughout.

    Raises:
        ValueError: ``scores`` and ``times`` differ in length, or are empty.
    """
    num_frames = len(scores)
    if len(times) != num_frames or num_frames == 0:
        raise ValueError(f"scores and times must be of one length above 0, got {num_frames} and {len(times)}")
    edges, is_cut = find_edges(times, cuts, start=start, end=end)
    first, last = list_windows(num_frames)
    smooth = smooth_over_shots(np.asarray(scores, dtype=np.float64), is_cut)
    values = weigh_windows(smooth, first, last)
    if snap:
        values += CUT_BONUS * smooth.std() * (is_cut[first].astype(np.float64) + is_cut[last])
    else:
        edges, _ = find_edges(times, (), start=start, end=end)
    best = keep_best(edges[first], edges[last], values, limit=k, max_overlap=max_overlap)
    return [Span(float(edges[first[i]]), float(edges[last[i]]), float(values[i])) for i in best]


def find_edges(
    times: Float[np.ndarray, " frame"], cuts: Sequence[float], *, start: float, end: float
) -> tuple[Float[np.ndarray, " edge"], Bool[np.ndarray, " edge"]]:
    """Return the edges before, between and after frames, and which are cuts; the outer ones are if there is any.

    The edge between two frames is the last cut between them, or else midway.
    """
    edges = np.concatenate([[start], (times[1:] + times[:-1]) / 2, [end]])
    is_cut = np.zeros(len(edges), bool)
    inner = np.array([cut for cut in cuts if times[0] < cut <= times[-1]])
    if len(inner):
        positions = np.searchsorted(times, inner)
        edges[positions] = inner  # of several cuts between two frames, the last one stays
        is_cut[positions] = True
        is_cut[[0, -1]] = True
    return edges, is_cut


def smooth_over_shots(
    scores: Float[np.ndarray, " frame"], is_cut: Bool[np.ndarray, " edge"]
) -> Float[np.ndarray, " frame"]:
    """Return scores of which ``SHOT_WEIGHT`` is the mean over the shot."""
    shot = np.cumsum(is_cut[:-1])
    means = np.bincount(shot, scores) / np.maximum(np.bincount(shot), 1)
    smooth: Float[np.ndarray, " frame"] = (1 - SHOT_WEIGHT) * scores + SHOT_WEIGHT * means[shot]
    return smooth if is_cut.any() else scores


def find_moments(curve: Curve, *, k: int, overlapping: bool, weak: bool, snap: bool = True) -> list[Span]:
    """Return the spans of a curve to show, best first, as ``find_spans`` orders them; none crosses a gap.

    Args:
        curve: The score curve. If ``typical`` is set, a part between gaps that is nowhere below it becomes one span
            with the score of its best stretch: differences within it are noise.
        k: Maximum number of spans per part between gaps.
        overlapping: Whether to keep spans that overlap better ones, and the stretches of a part that is above
            ``typical`` throughout.
        weak: Whether to keep spans that rise less than half as far above the mean of the curve as the best one.
        snap: Whether spans begin and end at cuts where they can.
    """
    candidates = []
    for part in split_at_gaps(curve):
        overlap = MAX_OVERLAP if overlapping else 0.0
        spans = find_spans(
            part.scores,
            part.times,
            start=part.start,
            end=part.end,
            k=k,
            max_overlap=overlap,
            cuts=curve.cuts,
            snap=snap,
        )
        if not overlapping and curve.typical is not None and part.scores.min() >= curve.typical:
            spans = [Span(part.start, part.end, spans[0].score)]
        candidates += spans
    best, *others = sorted(candidates, key=lambda span: -span.score)
    mean = float(curve.scores.mean())
    least = mean + STANDS_OUT * (mean_inside(curve, best) - mean)
    return [best, *(span for span in others if weak or mean_inside(curve, span) >= least)]


def split_at_gaps(curve: Curve) -> list[Curve]:
    """Return the parts of a curve between its gaps, in order."""
    starts = [curve.start, *(end for _, end in curve.gaps)]
    ends = [*(start for start, _ in curve.gaps), curve.end]
    firsts = np.searchsorted(curve.times, starts[1:])
    scores, times = np.split(curve.scores, firsts), np.split(curve.times, firsts)
    parts = zip(scores, times, starts, ends, strict=True)
    return [Curve(*part, curve.best) for part in parts if len(part[0])]


def mean_inside(curve: Curve, span: Span) -> float:
    """Return the mean score of the frames inside a span, or the score of the nearest frame if there are none."""
    inside = curve.scores[(curve.times >= span.start) & (curve.times <= span.end)]
    if len(inside):
        return float(inside.mean())
    return float(curve.scores[np.abs(curve.times - (span.start + span.end) / 2).argmin()])


def list_windows(num_frames: int) -> tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"]]:
    """Return all windows, as first frame and frame after the last, of all lengths, shortest first."""
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
    """Return each window's score from its level and its contrast with its flanks, which is 0 without flanks."""
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
