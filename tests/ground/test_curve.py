"""Training-free grounding: against loops, edges at cuts, and the choice of moments to show."""

import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ground.samples import make_curve, naive_overlap
from vidret.ground.curve import (
    CONTRAST,
    CUT_BONUS,
    FLANK,
    MAX_OVERLAP,
    RELIABILITY,
    SHARES,
    SHOT_WEIGHT,
    find_moments,
    find_spans,
    grow_peaks,
    lengthen_in_shot,
    mean_inside,
    widen_in_shot,
)
from vidret.ground.spans import Span, drop_overlapping
from vidret.types import Curve


def naive_weight(scores: list[float], first: int, last: int, highest: float) -> float:
    """Score one span by the definition: height, and contrast with its flanks."""
    inside = scores[first:last]
    length = len(inside)
    reach = FLANK * length
    flanks = [scores[i] for i in range(len(scores)) if first - reach <= i < first or last <= i < last + reach]
    level = sum(inside) / length
    height = (highest + level) / 2
    if not flanks:
        return height
    weight: float = (length * len(flanks) / (length + len(flanks))) ** RELIABILITY
    return height + CONTRAST * (level - sum(flanks) / len(flanks)) * weight


def naive_growth(scores: list[float], peak: int, limit: float, step: int) -> int:
    """Walk from a peak, over one lower frame at a time, to the last frame that is not lower; never to a higher one."""
    last = here = peak
    while 0 <= here + step < len(scores) and scores[here + step] <= scores[peak]:
        here += step
        if scores[here] >= limit:
            last = here
        elif abs(here - last) == 2:
            break
    return last


def naive_spans(scores: list[float], edges: list[float], k: int, cuts: Iterable[int] = ()) -> list[Span]:
    """Grow every peak by every share, add the shots, and select the best that do not overlap better ones too much."""
    bounds = sorted({0, *cuts, len(scores)}) if cuts else []
    shots = list(pairwise(bounds))
    means = [statistics.fmean(scores[first:last]) for first, last in shots for _ in range(first, last)] or scores
    scores = [(1 - SHOT_WEIGHT) * score + SHOT_WEIGHT * mean for score, mean in zip(scores, means, strict=True)]
    median, found = statistics.median(scores), [(first, last, max(scores[first:last])) for first, last in shots]
    for share in SHARES:
        for peak, score in enumerate(scores):
            if score < max(scores[max(peak - 1, 0) : peak + 2]):
                continue
            base = median if score >= median else min(scores)
            limit = base + share * (score - base)
            first, last = (naive_growth(scores, peak, limit, step) for step in (-1, 1))
            found.append((first, last + 1, score))
    ranked = []
    for first, last, highest in found:
        bonus = CUT_BONUS * statistics.pstdev(scores) * ((first in bounds) + (last in bounds))
        ranked.append(Span(edges[first], edges[last], naive_weight(scores, first, last, highest) + bonus))
    ranked.sort(key=lambda span: -span.score)
    kept: list[Span] = []
    for span in ranked:
        if len(kept) < k and all(naive_overlap(span, other) <= MAX_OVERLAP for other in kept):
            kept.append(span)
    return kept


def sample(num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=num_frames), np.cumsum(rng.uniform(0.2, 2, num_frames))


def spans_of(scores: np.ndarray, times: np.ndarray, k: int = 5, cuts: Sequence[float] = ()) -> list[Span]:
    return find_spans(scores, times, start=float(times[0]) - 0.5, end=float(times[-1]) + 0.5, k=k, cuts=cuts)


def assert_same(actual: list[Span], expected: list[Span]) -> None:
    np.testing.assert_allclose(np.array(actual), np.array(expected), rtol=1e-9, atol=1e-9)


@given(num_frames=st.integers(1, 40), seed=st.integers(0, 999), cuts=st.sets(st.integers(1, 39), max_size=6))
def test_spans_equal_loops(num_frames: int, seed: int, cuts: set[int]) -> None:
    scores, times = sample(num_frames, seed=seed)
    edges = [times[0] - 0.5, *((a + b) / 2 for a, b in pairwise(times)), times[-1] + 0.5]
    cuts = {cut for cut in cuts if cut < num_frames}
    found = spans_of(scores, times, k=6, cuts=[edges[cut] for cut in cuts])
    assert_same(found, naive_spans(scores.tolist(), edges, k=6, cuts=cuts))


def test_spans_of_a_long_curve_equal_loops() -> None:
    scores = np.convolve(sample(800, seed=3)[0], np.ones(40), "same")  # waves over many frames
    edges = np.arange(801.0).tolist()
    assert_same(spans_of(scores, np.arange(800) + 0.5, k=9), naive_spans(scores.tolist(), edges, k=9))


@pytest.mark.parametrize(
    ("scores", "span"),
    [
        ([0, 0, 4, 1, 4, 0, 0, 4], (2, 5)),
        ([0, 0, 4, 4, 1, 1, 4, 0], (2, 4)),
        ([5, 5, 4, 4, 4], (2, 5)),
        ([1, 1, 1], (0, 3)),
        ([5], (0, 1)),
    ],
)
def test_a_span_ends_before_two_lower_frames_or_a_higher_one(scores: list[float], span: tuple[int, int]) -> None:
    _, first, last = grow_peaks(np.array(scores, np.float64))
    assert span in zip(first, last, strict=True)


def test_half_precision_scores_are_computed_in_full_precision() -> None:
    scores, times = sample(50, seed=7)
    halves = scores.astype(np.float16)
    assert spans_of(halves, times) == spans_of(halves.astype(np.float64), times)


def test_edges_snap_to_the_cuts_between_frames_unless_told_not_to() -> None:
    scores, times = np.repeat([0.0, 1.0, 0.0], 5), np.arange(15) + 0.5
    cuts = (5.3, 9.6)  # between the frames that differ
    spans = {
        snap: find_spans(scores, times, start=0.0, end=15.0, k=1, cuts=cuts, snap=snap)[0] for snap in (True, False)
    }
    assert spans[True][:2] == cuts
    assert spans[False][:2] == (5.0, 10.0)
    (first,) = find_spans(scores[6:], times[6:], start=6.0, end=15.0, k=1, cuts=(6.5, 9.6))
    assert first.start == 6.0, "no shot ends at the first frame"
    curve = Curve(scores, times, 0.0, 15.0, best=1.0, cuts=cuts)
    assert [find_moments(curve, k=1, overlapping=False, weak=True, snap=snap)[0][:2] for snap in (True, False)] == [
        cuts,
        (5.0, 10.0),
    ]


@pytest.mark.wrong_shapes
def test_invalid_input_is_rejected() -> None:
    with pytest.raises(ValueError, match="scores and times must be of one length above 0, got 0 and 0"):
        find_spans(np.zeros(0), np.zeros(0), start=0, end=1)
    with pytest.raises(ValueError, match="got 3 and 2"):
        find_spans(np.zeros(3), np.zeros(2), start=0, end=1)


def shown(curve: Curve, *, k: int = 5, overlapping: bool = False, weak: bool = False) -> list[Span]:
    return find_moments(curve, k=k, overlapping=overlapping, weak=weak)


def test_shown_moments_never_overlap() -> None:
    for seed in range(20):
        scores, _ = sample(60, seed)
        curve = make_curve(scores)
        apart, all_of_them = shown(curve, k=9, weak=True), shown(curve, k=9, overlapping=True, weak=True)
        assert all_of_them == find_spans(scores, curve.times, start=0, end=60, k=9)
        assert apart[0] == all_of_them[0], "the best span is the same"
        in_time = sorted(apart)
        assert all(one.end <= other.start for one, other in pairwise(in_time))
        assert drop_overlapping(apart) == apart
        assert sum(span.end - span.start for span in apart) <= 60


def test_overlapping_spans_are_dropped_best_first() -> None:
    spans = [Span(22, 24, 0.9), Span(0, 24, 0.8), Span(0, 4, 0.7), Span(4, 9, 0.6), Span(3, 5, 0.5)]
    assert drop_overlapping(spans) == [Span(22, 24, 0.9), Span(0, 4, 0.7), Span(4, 9, 0.6)]
    assert drop_overlapping([]) == []


def test_a_high_curve_is_one_moment() -> None:
    scores = 0.3 + 0.02 * np.random.default_rng(3).standard_normal(24)
    assert len(shown(make_curve(scores), weak=True)) == 5
    lowest = float(scores.min())
    whole = shown(make_curve(scores, typical=lowest))
    assert [(span.start, span.end) for span in whole] == [(0, 24)]
    assert whole[0].score == find_spans(scores, np.arange(24) + 0.5, start=0, end=24)[0].score, "ordered by its best"
    assert len(shown(make_curve(scores, typical=lowest + 1e-6), weak=True)) == 5
    assert len(shown(make_curve(scores, typical=lowest), overlapping=True, weak=True)) == 5


def test_weak_moments_are_shown_only_on_request() -> None:
    scores = np.full(100, 0.2)
    scores[10:20], scores[40:50], scores[70:80] = 0.4, 0.32, 0.24
    strong, weak = shown(make_curve(scores)), shown(make_curve(scores), weak=True)
    assert [(span.start, span.end) for span in strong] == [(10, 20), (40, 50)]
    assert (70, 80) in [(span.start, span.end) for span in weak]


def test_mean_inside_averages_the_frames_of_a_span() -> None:
    curve = make_curve(np.array([0.1, 0.2, 0.4, 0.6]))
    assert mean_inside(curve, Span(1, 3, 9.0)) == pytest.approx(0.3)
    assert mean_inside(curve, Span(2.6, 2.9, 9.0)) == pytest.approx(0.4), "the nearest frame where there is none inside"
    cut = Curve(curve.scores, curve.times, 0.0, 4.0, 0.6, cuts=(2.5,))
    assert mean_inside(cut, Span(0, 2.5, 9.0)) == pytest.approx(0.15), "the frame at a cut is after it"
    best = shown(curve)[0]
    assert best.score > mean_inside(curve, best) <= curve.scores.max()


def test_a_high_part_between_gaps_is_one_moment() -> None:
    scores, times = np.concatenate([np.full(10, 0.4), np.full(10, 0.1)]), np.arange(20) + 0.5
    times[10:] += 100
    curve = Curve(scores, times, 0.0, 120.0, 0.4, typical=0.3, gaps=((10.0, 110.0),))
    first, *others = shown(curve, weak=True)
    assert (first.start, first.end) == (0, 10)
    assert all(110 <= span.start < span.end <= 120 for span in others)
    assert shown(curve) == [first]


def test_a_span_widens_within_its_shot_over_frames_that_match_as_well() -> None:
    scores = np.array([5.0, 5, 0, 4.8, 5, 5, 4.6, 4.8, 2, 2, 5, 5])
    curve = make_curve(scores)
    assert widen_in_shot(curve, Span(4, 6, 1.0), 0.5) == Span(3, 8, 1.0)
    cut = Curve(scores, curve.times, 0.0, 12.0, 5.0, cuts=(3.3,), gaps=((6.7, 6.9),))
    assert widen_in_shot(cut, Span(4, 6, 1.0), 0.5) == Span(3.3, 6.7, 1.0)
    at_a_frame = Curve(scores, curve.times, 0.0, 12.0, 5.0, cuts=(6.5,))
    assert widen_in_shot(at_a_frame, Span(4, 6.5, 1.0), 0.5) == Span(3, 6.5, 1.0), "the frame at a cut is after it"
    assert widen_in_shot(curve, Span(4.6, 5.4, 1.0), 0.5) == Span(4.6, 5.4, 1.0), "no frame inside"
    short = Curve(scores, curve.times, 0.0, float(curve.times[-1]), 5.0)  # as of imported vectors of frames
    assert widen_in_shot(short, Span(11.0, 11.5, 1.0), 0.5) == Span(10.0, 11.5, 1.0)
    assert widen_in_shot(short, Span(10.0, 11.0, 1.0), 0.5) == Span(10.0, 11.5, 1.0)
    assert widen_in_shot(Curve(scores[:1], np.zeros(1), 0.0, 0.0, 5.0), Span(0, 0, 1.0), 0.5) == Span(0, 0, 1.0)


def test_a_span_is_lengthened_within_its_shot_and_beside_others() -> None:
    curve = make_curve(np.zeros(12))
    assert lengthen_in_shot(curve, Span(5, 6, 1.0), 3.0) == Span(4.0, 7.0, 1.0)
    assert lengthen_in_shot(curve, Span(5, 8, 1.0), 3.0) == Span(5, 8, 1.0), "long enough"
    assert lengthen_in_shot(curve, Span(11, 12, 1.0), 3.0) == Span(9.0, 12.0, 1.0), "up to the end"
    cut = Curve(curve.scores, curve.times, 0.0, 12.0, 5.0, cuts=(3.3,), gaps=((6.7, 6.9),))
    assert lengthen_in_shot(cut, Span(5, 6, 1.0), 5.0) == Span(3.3, 6.7, 1.0), "not over a cut"
    others = [Span(6, 9, 2.0), Span(1, 2, 3.0)]
    assert lengthen_in_shot(curve, Span(5, 6, 1.0), 3.0, others) == Span(3.0, 6.0, 1.0), "not over another span"
    assert lengthen_in_shot(curve, Span(-1.0, 12.5, 1.0), 20.0) == Span(-1.0, 12.5, 1.0), "out of the curve"
