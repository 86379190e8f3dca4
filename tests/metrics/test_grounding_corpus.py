"""Moment retrieval from a corpus: equality with loops, and properties."""

import json

import numpy as np
import pytest

from tests.metrics.naive import naive_overlap
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.corpus_moments import (
    RetrievedMoment,
    recall_at,
    score_corpus,
    score_partially_relevant,
)


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


def sample(seed: int, num: int = 40) -> tuple[list[LabelledQuery], dict[str, list[RetrievedMoment]]]:
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
def test_equals_loops(seed: int) -> None:
    queries, found = sample(seed)
    report = score_corpus(queries, {**found, "not asked": []})
    for row, query in enumerate(queries):
        for column, threshold in enumerate((0.5, 0.7)):
            own = report.moments[row, column], report.spans[row, column], report.videos[row]
            assert own == naive_corpus_ranks(query, found[query.id], threshold)


def test_report_has_recalls_and_is_json() -> None:
    query = LabelledQuery("1", "a", "", 50.0, ((10.0, 20.0),))
    near, far, other = RetrievedMoment("a", 10, 16), RetrievedMoment("a", 30, 40), RetrievedMoment("b", 10, 20)
    found = score_corpus([query], {"1": [other, other, far, near]})
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert report["VCMR"]["0.5"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert report["VCMR"]["0.7"] == {"R1": 0, "R5": 0, "R10": 0, "R100": 0}
    assert report["SVMR"]["0.5"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert report["VR"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert (found.moments.tolist(), found.spans.tolist(), found.videos.tolist()) == ([[4, 0]], [[2, 0]], [2])
    assert (recall_at(np.array([0, 1, 5, 6]), 5), recall_at(np.array([0, 0]), 100)) == (50, 0)


def test_query_without_a_true_span_is_rejected() -> None:
    with pytest.raises(VidretError, match="query 1 must have at least one true span"):
        score_corpus([LabelledQuery("1", "v", "", 9.0)], {"1": []})


def test_partially_relevant_retrieval_sums_recalls() -> None:
    ranks = np.random.default_rng(0).integers(0, 150, 200)
    expected = {f"R{k}": 100 * sum(0 < rank <= k for rank in ranks) / 200 for k in (1, 5, 10, 100)}
    scores = score_partially_relevant(ranks)
    assert scores == pytest.approx({**expected, "SumR": sum(expected.values())})
