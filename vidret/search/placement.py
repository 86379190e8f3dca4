"""Placement of the steps of a query on the timeline of one video: one span each, in order, without overlap.

The score of a placement is the sum of its spans' scores. The best one is found by a dynamic programme over the spans of
each step in the order of their ends: the best placement that ends with a span is its score plus the best of those that
end before it starts. A maximal gap makes the latter a maximum over a window, which a sparse table answers.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepSpans:
    """The spans in seconds on which one step may be placed, and their scores."""

    starts: Float64[np.ndarray, " span"]
    ends: Float64[np.ndarray, " span"]
    scores: Float64[np.ndarray, " span"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A span of each step, as an index into its spans, in order and without overlap, and the sum of their scores."""

    indices: tuple[int, ...]
    score: float
    start: float
    end: float


def place_in_order(
    steps: Sequence[StepSpans], gaps_s: Sequence[float | None], *, earliest_s: float = -np.inf, latest_s: float = np.inf
) -> Placement | None:
    """Return the best placement of all steps between two times; None if there is none.

    A gap is the maximum time between the end of the step before and the start of a step, None for any; the first is not
    used.
    """
    totals, before = chain_steps(steps, gaps_s, earliest_s=earliest_s, latest_s=latest_s)
    if not len(totals) or not np.isfinite(totals.max()):
        return None
    return trace_placement(steps, before, totals, int(totals.argmax()))


def chain_steps(
    steps: Sequence[StepSpans], gaps_s: Sequence[float | None], *, earliest_s: float = -np.inf, latest_s: float = np.inf
) -> tuple[Float[np.ndarray, " span"], list[Int64[np.ndarray, " _span"]]]:
    """Return the score of the best placement that ends with each span of the last step, and the predecessors.

    The score is -inf where there is none. The predecessors of each step but the first are indices into the spans of the
    step before.
    """
    totals = np.where(_is_inside(steps[0], earliest_s, latest_s), steps[0].scores, -np.inf)
    before: list[Int64[np.ndarray, " _span"]] = []
    for previous, step, gap_s in zip(steps, steps[1:], gaps_s[1:], strict=False):
        order = np.argsort(previous.ends, kind="stable")
        ends = previous.ends[order]
        last = np.searchsorted(ends, step.starts, side="right")
        first = np.zeros_like(last) if gap_s is None else np.searchsorted(ends, step.starts - gap_s, side="left")
        best = find_range_maxima(totals[order], first, last)
        is_placed = (best >= 0) & _is_inside(step, earliest_s, latest_s)
        chosen = order[np.maximum(best, 0)] if len(order) else np.zeros(len(best), np.int64)
        reached = totals[chosen] if len(order) else np.full(len(best), -np.inf)
        totals = np.where(is_placed, reached + step.scores, -np.inf)
        before.append(chosen)
    return totals, before


def trace_placement(
    steps: Sequence[StepSpans],
    before: Sequence[Int64[np.ndarray, " _span"]],
    totals: Float[np.ndarray, " span"],
    last: int,
) -> Placement:
    """Return the best placement that ends with a span of the last step, from what ``chain_steps`` returned."""
    indices = [last]
    for chosen in reversed(before):
        indices.append(int(chosen[indices[-1]]))
    indices.reverse()
    return Placement(
        indices=tuple(indices),
        score=float(totals[last]),
        start=float(steps[0].starts[indices[0]]),
        end=float(steps[-1].ends[last]),
    )


def iterate_placements(
    steps: Sequence[StepSpans], gaps_s: Sequence[float | None], *, overlapping: bool
) -> Iterator[Placement]:
    """Yield placements, best first.

    Without ``overlapping`` each is the best of those that overlap no better one. With it, they are the best that end
    with each span of the last step.
    """
    if overlapping:
        totals, before = chain_steps(steps, gaps_s)
        best = [int(index) for index in np.argsort(-totals, kind="stable") if np.isfinite(totals[index])]
        yield from (trace_placement(steps, before, totals, index) for index in best)
        return
    heap: list[tuple[float, int, float, float, Placement]] = []
    order = count()

    def push(earliest_s: float, latest_s: float) -> None:
        placement = place_in_order(steps, gaps_s, earliest_s=earliest_s, latest_s=latest_s)
        if placement is not None:
            heapq.heappush(heap, (-placement.score, next(order), earliest_s, latest_s, placement))

    push(-np.inf, np.inf)
    while heap:
        _, _, earliest_s, latest_s, placement = heapq.heappop(heap)
        yield placement
        push(earliest_s, placement.start)
        push(placement.end, latest_s)


def find_range_maxima(
    values: Float[np.ndarray, " value"], first: Int[np.ndarray, " range"], last: Int[np.ndarray, " range"]
) -> Int64[np.ndarray, " range"]:
    """Return the index of the largest value in each range from ``first`` up to but not including ``last``.

    Of equal values the first counts. The index is -1 for a range that is empty, or holds -inf only.
    """
    lengths = last - first
    result = np.full(len(first), -1, np.int64)
    nonempty = np.flatnonzero(lengths > 0)
    if not len(nonempty):
        return result
    table = [np.arange(len(values))]  # the best of each range of 1, 2, 4, ... values
    while 2 ** len(table) <= lengths.max():
        half = 2 ** (len(table) - 1)
        left, right = table[-1][:-half], table[-1][half:]
        table.append(np.where(values[right] > values[left], right, left))
    levels = np.log2(lengths[nonempty]).astype(np.int64)
    for level, row in enumerate(table):
        at = nonempty[levels == level]
        left, right = row[first[at]], row[last[at] - 2**level]
        best = np.where(values[right] > values[left], right, left)
        result[at] = np.where(np.isfinite(values[best]), best, -1)
    return result


def _is_inside(spans: StepSpans, earliest_s: float, latest_s: float) -> Bool[np.ndarray, " span"]:
    return (spans.starts >= earliest_s) & (spans.ends <= latest_s)
