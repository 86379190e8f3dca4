"""Overlap and non-maximum suppression of spans, against loops and their properties."""

import numpy as np
import pytest

from vidret.ground.spans import Span, keep_best, overlap


def naive_overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the intersection over union of two spans."""
    shared = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return shared / ((first[1] - first[0]) + (second[1] - second[0]) - shared)


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


def test_overlap_equals_loops() -> None:
    starts, ends, _ = sample(60, seed=0)
    for start, end in zip(starts, ends, strict=True):
        expected = [naive_overlap((a, b), (start, end)) for a, b in zip(starts, ends, strict=True)]
        np.testing.assert_allclose(overlap(starts, ends, start, end), expected, rtol=1e-12)


def test_overlap_is_symmetric_reflexive_and_scale_invariant() -> None:
    starts, ends, _ = sample(20, seed=1)
    table = np.stack([overlap(starts, ends, start, end) for start, end in zip(starts, ends, strict=True)])
    np.testing.assert_allclose(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1)
    moved = overlap(3 * starts + 7, 3 * ends + 7, 3 * starts[0] + 7, 3 * ends[0] + 7)
    np.testing.assert_allclose(moved, table[0], atol=1e-12)


@pytest.mark.parametrize(
    ("other", "iou"), [((0, 4), 1.0), ((0, 2), 0.5), ((1, 2), 0.25), ((2, 6), 1 / 3), ((4, 5), 0), ((9, 10), 0)]
)
def test_overlap_by_hand(other: tuple[float, float], iou: float) -> None:
    assert overlap(np.array([0.0]), np.array([4.0]), *other)[0] == pytest.approx(iou)


@pytest.mark.parametrize("limit", [1, 5, 100])
@pytest.mark.parametrize("max_overlap", [0.0, 0.3, 0.5, 1.0])
def test_kept_spans_equal_loops(limit: int, max_overlap: float) -> None:
    for seed in range(10):
        starts, ends, scores = sample(30, seed)
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        kept = keep_best(starts, ends, scores, limit=limit, max_overlap=max_overlap)
        assert kept.tolist() == naive_keep(spans, scores.tolist(), limit, max_overlap)


def test_ties_keep_their_order_and_the_limit_is_inclusive() -> None:
    starts, ends = np.array([0.0, 10.0, 0.0, 20.0]), np.array([4.0, 14.0, 2.0, 24.0])
    assert keep_best(starts, ends, np.ones(4), limit=9, max_overlap=0.5).tolist() == [0, 1, 2, 3]
    assert keep_best(starts, ends, np.ones(4), limit=9, max_overlap=0.49).tolist() == [0, 1, 3]


def test_empty_input_gives_empty_output() -> None:
    none = np.zeros(0)
    assert keep_best(none, none, none, limit=3, max_overlap=0.5).tolist() == []
    assert keep_best(np.zeros(1), np.ones(1), np.ones(1), limit=0, max_overlap=0.5).tolist() == []


def test_a_span_is_start_end_score() -> None:
    assert Span(1.0, 2.0, 0.5) == (1.0, 2.0, 0.5)
