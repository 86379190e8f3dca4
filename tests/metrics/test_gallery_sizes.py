"""Recall in random parts of a gallery."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidret.errors import VidretError
from vidret.metrics import retrieval
from vidret.metrics.retrieval import choose_sizes, evaluate, measure_by_size


def expect_recall(scores: np.ndarray, size: int, k: int) -> float:
    """Return the mean over all parts of the gallery, in closed form.

    Of the videos better than the right one, a part with it has a number with a hypergeometric distribution.
    """
    num_videos = scores.shape[1]
    total = 0.0
    for text, row in enumerate(scores):
        num_better = int((row > row[text]).sum())
        ways = sum(comb(num_better, i) * comb(num_videos - 1 - num_better, size - 1 - i) for i in range(min(k, size)))
        total += ways / comb(num_videos - 1, size - 1)
    return 100 * total / len(scores)


@settings(max_examples=12)
@given(seed=st.integers(0, 50), size=st.integers(2, 20))
def test_means_equal_the_closed_form(seed: int, size: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((20, 20)) + 1.5 * np.eye(20)
    for found in measure_by_size(scores, np.arange(20), [size], num_draws=1500):
        assert found.mean == pytest.approx(expect_recall(scores, size, found.k), abs=3.5)
        assert 0 <= found.low <= found.high <= 100
        # The mean may lie outside of the interval, but not far: 97 % of the galleries are on one side of each end.
        assert 0.97 * found.low <= found.mean <= 0.97 * found.high + 3


def test_the_full_gallery_has_the_plain_recall_and_no_interval() -> None:
    scores = np.random.default_rng(0).standard_normal((60, 30)).round(1)  # with ties
    truth = np.repeat(np.arange(30), 2)
    summary = evaluate(scores, truth)[0].summary
    for found in measure_by_size(scores, truth, [30]):
        assert (found.low, found.high) == pytest.approx((found.mean, found.mean))
        assert found.mean == pytest.approx(summary[f"R@{found.k}"])


def test_sizes_and_scores_that_cannot_be_are_refused() -> None:
    assert choose_sizes(15) == [10, 15]
    assert choose_sizes(3) == [3]
    scores = np.eye(4)
    for sizes in ([1], [5]):
        with pytest.raises(VidretError, match="sizes must be between 2 and the 4 videos"):
            measure_by_size(scores, np.arange(4), sizes)
    with pytest.raises(VidretError, match="scores must be finite"):
        measure_by_size(np.where(scores > 0, np.nan, scores), np.arange(4), [4])
    with pytest.raises(VidretError, match="of 2 of 900 videos must hold one with a text, got none in 3 draws"):
        measure_by_size(np.eye(1, 900), np.arange(1), [2], num_draws=3)


def test_interval_holds_95_percent_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_draw", lambda *_: {1: np.arange(101.0)})
    (found,) = measure_by_size(np.eye(3, dtype=np.float32), np.arange(3), [2])
    assert (found.mean, found.low, found.high) == pytest.approx((50.0, 2.5, 97.5))
