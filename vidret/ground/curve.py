"""Training-free grounding: spans that stand out in the curve of a query's scores over a video's frames.

Points become spans, after Jeon et al. 2025, "Point to Span" (arXiv:2512.10363); their growth and scores are ours.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from vidret.ground.spans import Span, keep_best
from vidret.types import Curve

SHARES = (0.4, 0.6)  # of the rise of a peak above the median, down to which a span reaches
FLANK = 2  # flanks on either side, in lengths of the span
CONTRAST = 0.5  # weight of the contrast with the flanks, relative to the height
RELIABILITY = 0.25  # exponent that favours longer spans: 0 none, 0.5 as in a t-test of independent frames
MAX_OVERLAP = 0.5  # spans that overlap more are one answer
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

    Around every local maximum a span reaches as far as the curve stays above a share of the maximum's rise over the
    median (of a lower one, over the lowest score), for each of ``SHARES``; a single lower frame does not end it. Every
    shot is a span too. The score is the middle of the maximum and the mean inside, plus half the contrast (mean inside
    minus mean of the flanks), weighted by (inside * outside / (inside + outside)) ** RELIABILITY with ``inside`` and
    ``outside`` in frames. "High" is thus relative to this video only.

    Where shots are known, a frame's score counts less than the mean of its shot, since pictures rarely change within
    one. With ``snap``, spans gain a little for ends at cuts. Times are in seconds; those of frames ascend.

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
    smooth = smooth_over_shots(np.asarray(scores, dtype=np.float64), is_cut)
    peak, first, last = grow_peaks(smooth)
    shots = np.flatnonzero(is_cut)  # none without cuts
    first, last = np.append(first, shots[:-1]), np.append(last, shots[1:])
    highest = np.append(smooth[peak], np.maximum.reduceat(smooth, shots[:-1]))
    values = weigh_spans(smooth, highest, first, last)
    if snap:
        values += CUT_BONUS * smooth.std() * (is_cut[first].astype(np.float64) + is_cut[last])
    else:
        edges, _ = find_edges(times, (), start=start, end=end)
    best = keep_best(edges[first], edges[last], values, limit=k, max_overlap=max_overlap)
    return [Span(float(edges[first[i]]), float(edges[last[i]]), float(values[i])) for i in best]


def find_edges(
    times: Float[np.ndarray, " frame"], cuts: Sequence[float], *, start: float, end: float
) -> tuple[Float[np.ndarray, " edge"], Bool[np.ndarray, " edge"]]:
    """Return the edges before, between and after frames, and a mask of cuts, with the outer edges if there is a cut.

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
    """Return scores averaged with the mean of their shot, whose weight is ``SHOT_WEIGHT``."""
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


def _find_inside(curve: Curve, span: Span) -> Bool[np.ndarray, " frame"]:
    """Return a mask of the frames inside a span; a frame at a cut is the first of the shot after it."""
    end = np.nextafter(span.end, -np.inf) if span.end in curve.cuts else span.end
    return (curve.times >= span.start) & (curve.times <= end)


def mean_inside(curve: Curve, span: Span) -> float:
    """Return the mean score of the frames inside a span, or the score of the nearest frame if there are none."""
    inside = curve.scores[_find_inside(curve, span)]
    if len(inside):
        return float(inside.mean())
    return float(curve.scores[np.abs(curve.times - (span.start + span.end) / 2).argmin()])


def widen_in_shot(curve: Curve, span: Span, slack: float) -> Span:
    """Return a span with the frames beside it, up to a cut or gap, that score at most ``slack`` below its mean."""
    inside = np.flatnonzero(_find_inside(curve, span))
    if not len(inside):
        return span
    first, last = inside[0], inside[-1]
    # The last frame may be at the end itself, as the vectors of frames that another program made.
    breaks = _list_breaks(replace(curve, end=max(curve.end, float(np.nextafter(curve.times[-1], np.inf)))))
    left = breaks[breaks <= curve.times[first]].max()
    right = breaks[breaks > curve.times[last]].min()
    is_lower = curve.scores < curve.scores[inside].mean() - slack
    ends = np.flatnonzero(is_lower | (curve.times < left) | (curve.times >= right))
    begin, end = ends[ends < first].max(initial=-1), ends[ends > last].min(initial=len(curve.times))
    middles = np.concatenate([[left], (curve.times[1:] + curve.times[:-1]) / 2, [right]])
    start_s = span.start if begin == first - 1 else max(left, middles[begin + 1])
    end_s = span.end if end == last + 1 else min(right, middles[end], curve.end)
    return Span(float(start_s), float(end_s), span.score)


def lengthen_in_shot(curve: Curve, span: Span, shortest_s: float, others: Sequence[Span] = ()) -> Span:
    """Return a span of at least ``shortest_s``, grown on both sides, but not across a cut, a gap or another span."""
    breaks = np.array([*_list_breaks(curve), *(edge for other in others for edge in (other.start, other.end))])
    left = breaks[breaks <= span.start].max(initial=-np.inf)
    right = breaks[breaks >= span.end].min(initial=np.inf)
    lacking_s = shortest_s - (span.end - span.start)
    if lacking_s <= 0 or not np.isfinite([left, right]).all():
        return span
    start_s = min(span.start, max(left, min(span.start - lacking_s / 2, right - shortest_s)))
    return Span(float(start_s), float(max(span.end, min(right, start_s + shortest_s))), span.score)


def _list_breaks(curve: Curve) -> Float[np.ndarray, " time"]:
    """Return the times in seconds at which a curve starts or ends, or has a cut, or a gap that starts or ends."""
    return np.array([curve.start, curve.end, *curve.cuts, *(edge for gap in curve.gaps for edge in gap)], np.float64)


def grow_peaks(
    scores: Float[np.ndarray, " frame"],
) -> tuple[Int[np.ndarray, " span"], Int[np.ndarray, " span"], Int[np.ndarray, " span"]]:
    """Return spans around the local maxima: the maximum, the first frame, and that after the last.

    A span ends before two frames in a row that are lower than its share of the maximum's rise, and before a higher one.
    """
    beside = np.concatenate([[-np.inf], scores, [-np.inf]])
    peaks = np.flatnonzero(scores >= np.maximum(beside[:-2], beside[2:]))
    median = np.median(scores)
    base = np.where(scores[peaks] >= median, median, scores.min())
    limits = (base + np.multiply.outer(SHARES, scores[peaks] - base)).ravel()
    peak, end = np.tile(peaks, len(SHARES)), len(scores) - 1
    first = end - _grow_right(scores[::-1], end - peak, limits)
    return peak, first, _grow_right(scores, peak, limits) + 1


def _grow_right(
    scores: Float[np.ndarray, " frame"], starts: Int[np.ndarray, " span"], limits: Float[np.ndarray, " span"]
) -> Int[np.ndarray, " span"]:
    """Return the last frame of at least the limit, before a higher one than the first or two in a row that are lower.

    Steps are doubled: the tables hold the lowest of the pairs, and the highest of the frames, in 1, 2, 4 ... steps.
    """
    tables = [(np.maximum(scores[:-1], scores[1:]), scores[1:])]
    while 2 ** len(tables) <= len(scores) - 1:
        half, (lowest, highest) = 2 ** (len(tables) - 1), tables[-1]
        tables.append((np.minimum(lowest[:-half], lowest[half:]), np.maximum(highest[:-half], highest[half:])))
    last = starts.copy()
    for power, (lowest, highest) in reversed(list(enumerate(tables))):
        inside = np.flatnonzero(last < len(lowest))
        is_free = (lowest[last[inside]] >= limits[inside]) & (highest[last[inside]] <= scores[starts[inside]])
        last[inside[is_free]] += 2**power
    last -= scores[last] < limits
    return last


def weigh_spans(
    scores: Float[np.ndarray, " frame"],
    highest: Float[np.ndarray, " span"],
    first: Int[np.ndarray, " span"],
    last: Int[np.ndarray, " span"],
) -> Float[np.ndarray, " span"]:
    """Return each span's score from its height and its contrast with its flanks, which is 0 without flanks."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    inside = last - first
    before = np.maximum(first - FLANK * inside, 0)
    after = np.minimum(last + FLANK * inside, len(scores))
    outside = (first - before) + (after - last)
    level = (total[last] - total[first]) / inside
    around = (total[first] - total[before] + total[after] - total[last]) / np.maximum(outside, 1)
    weight = (inside * outside / (inside + outside)) ** RELIABILITY
    contrast = np.where(outside > 0, (level - around) * weight, 0.0)
    values: Float[np.ndarray, " span"] = (highest + level) / 2 + CONTRAST * contrast
    return values
