"""The placement of steps in order: against brute force, and what holds for any spans."""

from collections.abc import Sequence
from itertools import islice, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidret.search.placement import Placement, StepSpans, find_range_maxima, iterate_placements, place_in_order

SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(-9, 9)).map(
        lambda row: (row[0] / 2, (row[0] + row[1]) / 2, float(row[2]))
    ),
    max_size=6,
)
STEPS = st.lists(SPANS, min_size=1, max_size=4)
GAPS = st.lists(st.one_of(st.none(), st.floats(0, 4)), min_size=4, max_size=4)

Rows = Sequence[tuple[float, float, float]]


def make_spans(rows: Rows) -> StepSpans:
    starts, ends, scores = np.array(rows, np.float64).reshape(-1, 3).T
    return StepSpans(starts=starts, ends=ends, scores=scores)


def place_naively(steps: Sequence[Rows], gaps: Sequence[float | None]) -> float | None:
    """Try every combination."""
    best = None
    for chosen in product(*steps):
        pairs = list(zip(chosen, chosen[1:], gaps[1:], strict=False))
        if all(a[1] <= b[0] and (gap is None or b[0] - gap <= a[1]) for a, b, gap in pairs):
            total = sum(span[2] for span in chosen)
            best = total if best is None else max(best, total)
    return best


def check(placement: Placement, steps: Sequence[Rows], gaps: Sequence[float | None]) -> None:
    """Check the order, the gaps and the sum of one placement."""
    chosen = [rows[index] for rows, index in zip(steps, placement.indices, strict=True)]
    for before, after, gap in zip(chosen, chosen[1:], gaps[1:], strict=False):
        assert before[1] <= after[0]
        assert gap is None or after[0] - gap <= before[1]
    assert placement.score == sum(span[2] for span in chosen)
    assert (placement.start, placement.end) == (chosen[0][0], chosen[-1][1])


@given(STEPS, GAPS)
def test_best_placement_agrees_with_brute_force(steps: Sequence[Rows], gaps: Sequence[float | None]) -> None:
    placement = place_in_order([make_spans(rows) for rows in steps], gaps)
    expected = place_naively(steps, gaps)
    assert (placement is None) == (expected is None)
    if placement is not None:
        assert placement.score == expected
        check(placement, steps, gaps)


@given(STEPS, GAPS, st.booleans())
def test_placements_are_valid_and_best_first(
    steps: Sequence[Rows], gaps: Sequence[float | None], overlapping: bool
) -> None:
    found = list(iterate_placements([make_spans(rows) for rows in steps], gaps, overlapping=overlapping))
    assert bool(found) == (place_naively(steps, gaps) is not None)
    assert [placed.score for placed in found] == sorted((placed.score for placed in found), reverse=True)
    for index, placement in enumerate(found):
        check(placement, steps, gaps)
        for other in found[:index]:
            assert overlapping or placement.start >= other.end or placement.end <= other.start


@given(STEPS, GAPS)
def test_overlapping_placements_are_the_best_that_end_with_each_last_span(
    steps: Sequence[Rows], gaps: Sequence[float | None]
) -> None:
    found = iterate_placements([make_spans(rows) for rows in steps], gaps, overlapping=True)
    scores = [place_naively([*steps[:-1], [row]], gaps) for row in steps[-1]]
    assert sorted(placement.score for placement in found) == sorted(score for score in scores if score is not None)


@given(STEPS)
def test_next_placement_is_the_best_beside_the_first(steps: Sequence[Rows]) -> None:
    gaps = [None] * len(steps)
    found = [*islice(iterate_placements([make_spans(rows) for rows in steps], gaps, overlapping=False), 2)]
    if found:
        best = found[0]
        left = [[row for row in rows if row[1] <= best.start] for rows in steps]
        right = [[row for row in rows if row[0] >= best.end] for rows in steps]
        rest = [score for score in (place_naively(left, gaps), place_naively(right, gaps)) if score is not None]
        assert [placement.score for placement in found[1:]] == ([max(rest)] if rest else [])


@given(st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(-np.inf)), max_size=9), st.data())
def test_maxima_of_ranges(values: list[float], data: st.DataObject) -> None:
    ends = st.integers(0, len(values))
    ranges = data.draw(st.lists(st.tuples(ends, ends), max_size=9))
    first, last = np.array(ranges, np.int64).reshape(-1, 2).T
    found = find_range_maxima(np.array(values, np.float64), first, last)
    for (start, end), index in zip(ranges, found.tolist(), strict=True):
        inside = values[start:end]
        assert index == (start + inside.index(max(inside)) if inside and max(inside) > -np.inf else -1)
