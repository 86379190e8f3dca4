"""The paired bootstrap: equality with a naive version, invariances, and the coverage of its intervals."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from vidret.errors import VidretError
from vidret.evaluate import comparing as module
from vidret.evaluate.comparing import Comparison, compare


def naive_compare(a: list[float], b: list[float], seed: int, num_resamples: int, groups: list[int]) -> Comparison:
    """Draw groups one by one, each with all its queries, and interpolate quantiles of the sorted means."""
    random = np.random.default_rng(seed)
    names, means = sorted(set(groups)), []
    for _ in range(num_resamples):
        first, second = [], []
        for drawn in random.integers(len(names), size=len(names)):
            for query, group in enumerate(groups):
                if group == names[drawn]:
                    first.append(a[query])
                    second.append(b[query])
        means.append(sum(first) / len(first) - sum(second) / len(second))
    ordered = sorted(means)

    def quantile(share: float) -> float:
        position = share * (num_resamples - 1)
        below = int(position)
        above = min(below + 1, num_resamples - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    low, high = quantile(0.025), quantile(0.975)
    smaller_tail = min(sum(mean <= 1e-12 for mean in means), sum(mean >= -1e-12 for mean in means))
    difference = sum(a) / len(a) - sum(b) / len(b)
    return Comparison(difference, low, high, 0.95, min(1.0, 2 * smaller_tail / num_resamples), len(a), num_resamples)


def check_same(found: Comparison, expected: Comparison) -> None:
    assert asdict(found) == pytest.approx(asdict(expected), abs=1e-12)


def sample(count: int, seed: int, gain: float = 0.0) -> tuple[Any, Any]:
    """Return results of two systems for which the same queries are difficult."""
    random = np.random.default_rng(seed)
    difficulty = random.standard_normal(count)
    return difficulty + gain + random.standard_normal(count), difficulty + random.standard_normal(count)


@pytest.mark.parametrize("num_resamples", [1, 40, 101])
@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_equals_naive_bootstrap(count: int, num_resamples: int) -> None:
    a, b = sample(count, seed=count)
    found = compare(a, b, seed=3, num_resamples=num_resamples)
    check_same(found, naive_compare(a.tolist(), b.tolist(), 3, num_resamples, list(range(count))))


def test_groups_and_bools_equal_naive_bootstrap() -> None:
    a, b = (each > 0.3 for each in sample(24, seed=1))
    groups = np.random.default_rng(0).integers(0, 7, 24) * 10
    found = compare(a, b, seed=5, num_resamples=60, groups=groups)
    check_same(found, naive_compare(a.tolist(), b.tolist(), 5, 60, groups.tolist()))


def test_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sample(31, seed=2)
    expected = compare(a, b, seed=0, num_resamples=257)
    for chunk in (1, 100, 31 * 256):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert compare(a, b, seed=0, num_resamples=257) == expected


def test_swapping_results_negates_the_difference() -> None:
    a, b = sample(50, seed=4)
    found, turned = compare(a, b, seed=0), compare(b, a, seed=0)
    check_same(replace(turned, difference=-turned.difference, low=-turned.high, high=-turned.low), found)


def test_equal_results_do_not_differ_and_a_constant_gain_is_certain() -> None:
    a, _ = sample(40, seed=6)
    same = compare(a, a, seed=0)
    assert (same.difference, same.low, same.high, same.share) == (0, 0, 0, 1)
    certain = compare(a + 2, a, seed=0)
    assert (certain.difference, certain.low, certain.high) == pytest.approx((2, 2, 2))
    assert certain.share == 0


def test_captions_of_one_video_are_not_independent() -> None:
    """Intervals of 95 % hold the truth about as often if videos are drawn, and far too rarely if captions are."""
    groups, coverage = np.repeat(np.arange(40), 10), []
    for drawn in (groups, None):
        found = []
        for seed in range(300):
            a, b = (values[groups] for values in sample(40, seed))
            found.append(compare(a, b, seed=seed, num_resamples=400, groups=drawn))
        coverage.append(np.mean([result.low <= 0 <= result.high for result in found]))
    assert 0.9 < coverage[0] < 0.98
    assert coverage[1] < 0.6


def test_values_that_are_not_finite_are_rejected() -> None:
    a, b = sample(5, seed=8)
    with pytest.raises(VidretError, match="a and b must be finite"):
        compare(a, np.append(b[:4], np.nan), seed=0)
