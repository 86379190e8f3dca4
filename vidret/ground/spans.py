"""Spans of time: how much two of them share, and keeping the best of many that overlap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Span(NamedTuple):
    """A stretch of one video in seconds, ``start`` < ``end``, and how well it answers (higher is better)."""

    start: float
    end: float
    score: float


def overlap(
    starts: Float[np.ndarray, " span"], ends: Float[np.ndarray, " span"], start: float, end: float
) -> Float[np.ndarray, " span"]:
    """Give the intersection over union of each span with one span."""
    shared = np.minimum(ends, end) - np.maximum(starts, start)
    joined = np.maximum(ends, end) - np.minimum(starts, start)
    ratio: Float[np.ndarray, " span"] = np.maximum(shared, 0) / np.maximum(joined, 1e-9)
    return ratio


def keep_apart(spans: Sequence[Span]) -> list[Span]:
    """Return the spans, best first, that no better one overlaps."""
    starts, ends, scores = np.array(spans, np.float64).reshape(-1, 3).T
    return [spans[place] for place in keep_best(starts, ends, scores, limit=len(spans), max_overlap=0.0)]


def keep_best(
    starts: Float[np.ndarray, " span"],
    ends: Float[np.ndarray, " span"],
    scores: Float[np.ndarray, " span"],
    *,
    limit: int,
    max_overlap: float,
) -> Int[np.ndarray, " kept"]:
    """Take spans from the best down, leaving out each that overlaps one already taken by more than ``max_overlap``.

    Among equal scores the first in order wins. Returns indices, best first, at most ``limit``.
    """
    free: Bool[np.ndarray, " span"] = np.ones(len(scores), dtype=bool)
    kept: list[int] = []
    while len(kept) < limit and free.any():
        best = int(np.argmax(np.where(free, scores, -np.inf)))
        kept.append(best)
        free &= overlap(starts, ends, starts[best], ends[best]) <= max_overlap
        free[best] = False
    return np.array(kept, dtype=np.int64)
