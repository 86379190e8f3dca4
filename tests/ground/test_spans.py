"""Overlap and non-maximum suppression of spans, against loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.ground.samples import naive_overlap
from vidret.ground.spans import keep_best, overlap


def naive_keep(spans: list[tuple[float, float]], scores: list[float], limit: int, max_overlap: float) -> list[int]:
    """Select spans by score, skipping those that overlap a selected one too much."""
    kept: list[int] = []
    for index in sorted(range(len(spans)), key=lambda index: -scores[index]):
        if len(kept) < limit and all(naive_overlap(spans[index], spans[other]) <= max_overlap for other in kept):
            kept.append(index)
    return kept


def sample(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 10, num)
    return starts, starts + rng.uniform(0.1, 5, num), rng.normal(size=num)


@given(st.integers(0, 30), st.integers(0, 999), st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_overlap_and_kept_spans_equal_loops(num: int, seed: int, limit: int, max_overlap: float) -> None:
    starts, ends, scores = sample(num, seed)
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    for span in spans[:5]:
        np.testing.assert_allclose(overlap(starts, ends, *span), [naive_overlap(span, other) for other in spans])
    kept = keep_best(starts, ends, scores, limit=limit, max_overlap=max_overlap)
    assert kept.tolist() == naive_keep(spans, scores.tolist(), limit, max_overlap)


def test_ties_keep_their_order_and_the_limit_is_inclusive() -> None:
    starts, ends = np.array([0.0, 10.0, 0.0, 20.0]), np.array([4.0, 14.0, 2.0, 24.0])
    assert keep_best(starts, ends, np.ones(4), limit=9, max_overlap=0.5).tolist() == [0, 1, 2, 3]
    assert keep_best(starts, ends, np.ones(4), limit=9, max_overlap=0.49).tolist() == [0, 1, 3]


def test_an_empty_span_is_kept_once() -> None:
    times = np.array([3.0, 3.0, 4.0, 3.0])  # as of a single picture, and its shot
    assert keep_best(times, times, np.array([1.0, 2.0, 0.0, 1.0]), limit=9, max_overlap=0.0).tolist() == [1, 2]
