"""Calibration of scores by unrelated queries: equality with counting, properties, and the list of queries."""

import numpy as np
import pytest

from vidret.align.baseline import UNRELATED, WEAK, unrelated_share


def naive_share(best_scores: list[float], score: float) -> float:
    """Return the share of scores that are at least as high."""
    count = 0
    for best in best_scores:
        if best >= score:
            count += 1
    return count / len(best_scores)


def test_share_equals_naive_count() -> None:
    best_scores = np.random.default_rng(0).uniform(size=64).tolist()
    for score in [0.0, 0.3, best_scores[7], 0.9, 2.0]:
        assert unrelated_share(best_scores, score) == naive_share(best_scores, score)


@pytest.mark.parametrize(("score", "share"), [(-1.0, 1.0), (1.0, 1.0), (1.5, 0.75), (2.0, 0.75), (4.0, 0.25), (5.0, 0)])
def test_ties_count_as_higher(score: float, share: float) -> None:
    assert unrelated_share([1.0, 2.0, 3.0, 4.0], score) == share


def test_share_falls_as_the_score_rises() -> None:
    best_scores = np.random.default_rng(1).normal(size=50).tolist()
    shares = [unrelated_share(best_scores, score) for score in np.linspace(-4, 4, 40)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)


def test_no_hit_is_weak_without_unrelated_scores() -> None:
    assert unrelated_share([], 0.1) == 0.0 < WEAK


def test_unrelated_queries_are_64_distinct_phrases() -> None:
    assert len(UNRELATED) == 64
    assert len({query.casefold().strip() for query in UNRELATED}) == 64
    assert all(len(query.split()) >= 3 for query in UNRELATED)
