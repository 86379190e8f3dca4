"""Stretches of a video around what was found: with context on both sides, and the whole shot where it fits."""

from collections.abc import Sequence

from vidret.types import Shot

Span = tuple[float, float]  # start and end in seconds
LARGE_OVERLAP = 0.5  # of the shorter of two stretches, from which on both show the same


def widen_span(span: Span, shots: Sequence[Shot], duration_s: float, *, margin_s: float, max_s: float) -> Span:
    """Return a span with ``margin_s`` more on both sides, or to the ends of its shots, whichever is further.

    It stays within the video. Where ``max_s`` does not allow all of it, both sides grow alike, and the shortest need
    first. A span that is longer than ``max_s`` is returned as it is.
    """
    start, end = span
    first = max((shot.start for shot in shots if shot.start <= start), default=start)
    last = min((shot.end for shot in shots if shot.end >= end), default=end)
    before = start - max(0.0, min(first, start - margin_s))
    after = min(duration_s, max(last, end + margin_s)) - end
    left = max_s - (end - start)
    if left <= 0:
        return span
    if before + after > left:
        half = left / 2
        if before <= half:
            after = left - before
        elif after <= half:
            before = left - after
        else:
            before = after = half
    return start - before, end + max(0.0, after)


def overlap_largely(one: Span, other: Span) -> bool:
    """Return whether two stretches of a video have half of the shorter one in common.

    >>> overlap_largely((0.0, 10.0), (4.0, 16.0)), overlap_largely((0.0, 10.0), (6.0, 16.0))
    (True, False)
    """
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common > LARGE_OVERLAP * min(one[1] - one[0], other[1] - other[0])


def spread_times(start: float, end: float, count: int) -> list[float]:
    """Return the middles of ``count`` equal parts of a stretch.

    >>> spread_times(0.0, 12.0, 3)
    [2.0, 6.0, 10.0]
    """
    return [start + (index + 0.5) * (end - start) / count for index in range(count)]
