"""Accuracies of probes, their intervals, and calibration."""

import numpy as np
import pytest
from scipy.stats import binomtest

from vidret.corpus.significance import MIN_TRIALS, find_wilson_interval, measure_accuracy, measure_reliability
from vidret.errors import VidretError


@pytest.mark.parametrize(("right", "total"), [(0, 5), (7, 10), (40, 40), (123, 200)])
def test_intervals_are_wilsons(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(method="wilson")
    assert find_wilson_interval(right / total, total) == pytest.approx((expected.low, expected.high))


def test_verdicts_need_the_whole_interval() -> None:
    def verdict(right: int, wrong: int) -> str:
        return measure_accuracy(np.array([1.0] * right + [-1.0] * wrong)).verdict

    assert verdict(MIN_TRIALS - 1, 0) == "too few"
    found = [verdict(*counts) for counts in ((95, 5), (70, 30), (52, 48), (20, 80))]
    assert found == ["trusted", "better than chance", "chance", "misled"]


def test_ties_count_half_and_groups_widen_the_interval() -> None:
    margins = np.array([1.0, -1.0, 0.0, 2.0] * 10)
    alone, grouped = measure_accuracy(margins), measure_accuracy(margins, np.repeat(np.arange(20), 2))
    assert alone.percent == grouped.percent == 62.5
    assert grouped.low < alone.low < alone.high < grouped.high
    with pytest.raises(VidretError, match="margins must be finite and at least 1, got 0"):
        measure_accuracy(np.zeros(0))
    with pytest.raises(VidretError, match="margins must be finite"):
        measure_accuracy(np.array([1.0, np.nan]))


def test_reliability_is_that_of_each_bin() -> None:
    confidences = np.array([0.05, 0.15, 0.95, 1.0, 1.0])
    bins, error = measure_reliability(confidences, np.array([False, True, True, True, False]))
    assert [(group.num_answers, group.share) for group in bins] == [(2, 0.5), (3, pytest.approx(2 / 3))]
    assert bins[0].confidence == pytest.approx(0.1)
    assert error == pytest.approx((2 * 0.4 + 3 * (2.95 / 3 - 2 / 3)) / 5)
    with pytest.raises(VidretError, match=r"confidences must be in 0\.\.1"):
        measure_reliability(np.array([1.2]), np.array([True]))
