"""Rated moments: equality with loops, and what a rating is given to."""

import math

import numpy as np
import pytest

from tests.metrics.naive import naive_overlap
from vidret.data.records import RatedMoment, RatedQuery
from vidret.metrics.corpus_moments import RetrievedMoment, score_rated


def sample(seed: int, num: int = 20) -> tuple[list[RatedQuery], dict[str, list[RetrievedMoment]]]:
    rng = np.random.default_rng(seed)
    queries, found = list[RatedQuery](), dict[str, list[RetrievedMoment]]()
    for name in map(str, range(num)):
        rated = []
        for _ in range(rng.integers(1, 12)):
            start = float(rng.integers(0, 50))
            rated.append(
                RatedMoment(f"v{rng.integers(3)}", start, start + 3 + rng.integers(0, 6), rng.integers(0, 9) / 2)
            )
        queries.append(RatedQuery(name, "", tuple(rated)))
        found[name] = []
        for _ in range(rng.integers(0, 60)):
            start = float(rng.integers(0, 50))
            found[name].append(RetrievedMoment(f"v{rng.integers(4)}", start, start + 3 + rng.integers(0, 6)))
    return queries, found


def gain_naively(query: RatedQuery, found: list[RetrievedMoment], least: float, k: int) -> float:
    left = sorted(query.moments, key=lambda moment: -moment.relevance)
    total = 0.0
    for rank, moment in enumerate(found[:k], start=1):
        pick, most = None, -1.0
        for rated in left:
            overlap = naive_overlap((moment.start, moment.end), (rated.start, rated.end))
            if rated.video == moment.video and overlap > most:
                pick, most = rated, overlap
        if pick is not None and most > least:
            left.remove(pick)
            total += (2**pick.relevance - 1) / math.log2(rank + 1)
    best = sorted((moment.relevance for moment in query.moments), reverse=True)[:k]
    ideal = sum((2**relevance - 1) / math.log2(rank + 1) for rank, relevance in enumerate(best, start=1))
    return total / ideal if ideal > 0 else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_gains_equal_loops(seed: int) -> None:
    queries, found = sample(seed)
    scores = score_rated(queries, found)
    assert scores["num_queries"] == len(queries)
    for least in (0.3, 0.5, 0.7):
        for k in (10, 20, 40):
            expected = 100 * sum(gain_naively(query, found[query.id], least, k) for query in queries) / len(queries)
            assert scores["nDCG"][str(least)][f"nDCG@{k}"] == pytest.approx(expected)
