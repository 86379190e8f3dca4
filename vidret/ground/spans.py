"""Spans of time, their overlap, and non-maximum suppression."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Span(NamedTuple):
    """A span of one video in seconds, ``start`` < ``end``, and its score (higher is better)."""

    start: float
    end: float
    score: float


def overlap(
    starts: Float[np.ndarray, " span"], ends: Float[np.ndarray, " span"], start: float, end: float
) -> Float[np.ndarray, " span"]:
    """Return the intersection over union of each span with the span from ``start`` to ``end``."""
    intersection = np.minimum(ends, end) - np.maximum(starts, start)
    union = np.maximum(ends, end) - np.minimum(starts, start)  # of spans that intersect
    ratio: Float[np.ndarray, " span"] = np.maximum(intersection, 0) / np.maximum(union, 1e-9)
    return ratio


def drop_overlapping(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that overlap no better one, best first."""
    starts, ends, scores = np.array(spans, np.float64).reshape(-1, 3).T
    return [spans[index] for index in keep_best(starts, ends, scores, limit=len(spans), max_overlap=0.0)]


def keep_best(
    starts: Float[np.ndarray, " span"],
    ends: Float[np.ndarray, " span"],
    scores: Float[np.ndarray, " span"],
    *,
    limit: int,
    max_overlap: float,
) -> Int[np.ndarray, " kept"]:
    """Return the indices of the spans that non-maximum suppression keeps, best first, at most ``limit``.

    A span is dropped if its intersection over union with a better kept one exceeds ``max_overlap``, or if it is empty
    and equals one. Ties keep their order.
    """
    remaining, kept = np.argsort(-scores, kind="stable"), list[int]()
    while len(remaining) and len(kept) < limit:
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        remaining = remaining[overlap(starts[remaining], ends[remaining], starts[best], ends[best]) <= max_overlap]
        if starts[best] == ends[best]:
            remaining = remaining[(starts[remaining] != starts[best]) | (ends[remaining] != ends[best])]
    return np.array(kept, dtype=np.int64)
