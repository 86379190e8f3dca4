"""Measures of answered queries, compared with counting query by query and pair by pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.metrics.corpus_moments import QueryOutcome, score_kinds, separate_scores

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
    for each in group:
        if each.nothing:
            counts["nothing"] += 1
            continue
        if each.rank == 1:
            counts["R@1"] += 1
        if each.rank in range(1, 11):
            counts["R@10"] += 1
        if each.overlap >= 0.5:
            counts["R1@0.5"] += 1
            if each.is_first:
                counts["hit@1"] += 1
    wins = 0.0
    for one in group:
        for other in absent:
            wins += 1 if one.score > other.score else 0.5 if one.score == other.score else 0
    auc = wins / (len(group) * len(absent)) if absent else None
    return {**{name: 100 * count / len(group) for name, count in counts.items()}, "AUC": auc}


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
