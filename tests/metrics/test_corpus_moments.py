"""Moments of many videos: ranks, gains and measures of answered queries, compared with loops from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.naive import naive_overlap
from vidret.data.records import LabelledQuery, RatedMoment, RatedQuery
from vidret.metrics.corpus_moments import (
    QueryOutcome,
    RetrievedMoment,
    score_corpus,
    score_kinds,
    score_partially_relevant,
    score_rated,
    separate_scores,
)

SCORES = st.sampled_from((-np.inf, -1.0, 0.0, 0.5, 0.5000001, 2.0))
OUTCOMES = st.lists(
    st.builds(
        QueryOutcome,
        kind=st.sampled_from(("speech", "screen", "absent")),
        answerable=st.booleans(),
        nothing=st.booleans(),
        score=SCORES,
        rank=st.integers(0, 12),
        overlap=st.sampled_from((0.0, 0.4999, 0.5, 1.0)),
        is_first=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def count_naively(group: list[QueryOutcome], absent: list[QueryOutcome]) -> dict[str, float | None]:
    """Count in loops, from the definitions."""
    counts = dict.fromkeys(("R@1", "R@10", "R1@0.5", "hit@1", "nothing"), 0)
    for outcome in group:
        if outcome.nothing:
            counts["nothing"] += 1
            continue
        if outcome.rank == 1:
            counts["R@1"] += 1
        if outcome.rank in range(1, 11):
            counts["R@10"] += 1
        if outcome.overlap >= 0.5:
            counts["R1@0.5"] += 1
            if outcome.is_first:
                counts["hit@1"] += 1
    wins = 0.0
    for one in group:
        for other in absent:
            wins += 1 if one.score > other.score else 0.5 if one.score == other.score else 0
    auc = wins / (len(group) * len(absent)) if absent else None
    return {**{name: 100 * count / len(group) for name, count in counts.items()}, "AUC": auc}


@pytest.mark.parametrize(("rank", "is_counted"), [(0, 0), (1, 1), (10, 1), (11, 0)])
def test_ten_results_count_for_recall_at_10(rank: int, is_counted: int) -> None:
    outcome = QueryOutcome(kind="speech", answerable=True, nothing=False, score=1.0, rank=rank)
    assert outcome.measure()["R@10"] == is_counted


@given(OUTCOMES)
def test_rows_equal_counts_by_hand(outcomes: list[QueryOutcome]) -> None:
    absent = [outcome for outcome in outcomes if not outcome.answerable]
    rows = score_kinds(outcomes)
    for row in rows:
        group = [
            outcome
            for outcome in outcomes
            if outcome.answerable == row["answerable"] and (row["kind"] is None or outcome.kind == row["kind"])
        ]
        assert row["num_queries"] == len(group)
        expected = count_naively(group, absent)
        names = expected if row["answerable"] else ("nothing",)
        assert {name: row[name] for name in names} == pytest.approx({name: expected[name] for name in names})
        assert set(row) == {"kind", "answerable", "num_queries", *names}
    kinds = [(row["answerable"], row["kind"]) for row in rows if row["kind"] is not None]
    assert sorted(kinds) == sorted({(outcome.answerable, outcome.kind) for outcome in outcomes})
    assert sum(row["kind"] is None for row in rows) == any(outcome.answerable for outcome in outcomes)


@given(st.lists(SCORES, min_size=1), st.lists(SCORES, min_size=1))
def test_auc_of_swapped_scores_is_the_rest(present: list[float], absent: list[float]) -> None:
    one, other = np.array(present), np.array(absent)
    assert separate_scores(one, other) + separate_scores(other, one) == pytest.approx(1)
    assert 0 <= separate_scores(one, other) <= 1


# Video corpus moment retrieval


def naive_corpus_ranks(query: LabelledQuery, moments: list[RetrievedMoment], threshold: float) -> tuple[int, int, int]:
    moment_rank = span_rank = video_rank = 0
    num_inside, seen = 0, []
    for rank, moment in enumerate(moments, start=1):
        if moment.video not in seen:
            seen.append(moment.video)
        if moment.video != query.video:
            continue
        num_inside += 1
        video_rank = video_rank or len(seen)
        if any(naive_overlap((moment.start, moment.end), truth) >= threshold for truth in query.spans):
            moment_rank, span_rank = moment_rank or rank, span_rank or num_inside
    return moment_rank, span_rank, video_rank


def draw_moments(seed: int, num: int = 40) -> tuple[list[LabelledQuery], dict[str, list[RetrievedMoment]]]:
    rng = np.random.default_rng(seed)
    queries: list[LabelledQuery] = []
    found: dict[str, list[RetrievedMoment]] = {}
    for name in map(str, range(num)):
        starts = rng.integers(0, 10, size=rng.integers(1, 4)) * 10.0
        truths = tuple((start, start + 10.0 + 2 * rng.integers(0, 5)) for start in starts)
        queries.append(LabelledQuery(name, f"v{rng.integers(8)}", "", 200.0, truths))
        found[name] = []
        for _ in range(rng.integers(0, 150)):
            start = rng.integers(0, 100) * 1.0
            found[name].append(RetrievedMoment(f"v{rng.integers(8)}", start, start + rng.integers(0, 25)))
    return queries, found


@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_loops(seed: int) -> None:
    queries, found = draw_moments(seed)
    report = score_corpus(queries, {**found, "not asked": []})
    for row, query in enumerate(queries):
        for column, threshold in enumerate((0.5, 0.7)):
            ranks = report.moments[row, column], report.spans[row, column], report.videos[row]
            assert ranks == naive_corpus_ranks(query, found[query.id], threshold)


def test_partially_relevant_retrieval_sums_recalls() -> None:
    ranks = np.random.default_rng(0).integers(0, 150, 200)
    expected = {f"R{k}": 100 * sum(0 < rank <= k for rank in ranks) / 200 for k in (1, 5, 10, 100)}
    assert score_partially_relevant(ranks) == pytest.approx({**expected, "SumR": sum(expected.values())})


# Rated moments


def draw_rated(seed: int, num: int = 20) -> tuple[list[RatedQuery], dict[str, list[RetrievedMoment]]]:
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
    remaining = sorted(query.moments, key=lambda moment: -moment.relevance)
    total = 0.0
    for rank, moment in enumerate(found[:k], start=1):
        pick, most = None, -1.0
        for rated in remaining:
            overlap = naive_overlap((moment.start, moment.end), (rated.start, rated.end))
            if rated.video == moment.video and overlap > most:
                pick, most = rated, overlap
        if pick is not None and most > least:
            remaining.remove(pick)
            total += (2**pick.relevance - 1) / math.log2(rank + 1)
    best = sorted((moment.relevance for moment in query.moments), reverse=True)[:k]
    ideal = sum((2**relevance - 1) / math.log2(rank + 1) for rank, relevance in enumerate(best, start=1))
    return total / ideal if ideal > 0 else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_gains_equal_loops(seed: int) -> None:
    queries, found = draw_rated(seed)
    scores = score_rated(queries, found)
    assert scores["num_queries"] == len(queries)
    for least in (0.3, 0.5, 0.7):
        for k in (10, 20, 40):
            expected = 100 * sum(gain_naively(query, found[query.id], least, k) for query in queries) / len(queries)
            assert scores["nDCG"][str(least)][f"nDCG@{k}"] == pytest.approx(expected)
