"""Proves vidret/metrics/corpus.py against loops, and by what must hold."""

import json
import math

import numpy as np
import pytest

from tests.metrics.test_grounding import naive_overlap
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.corpus import CorpusReport, FoundMoment, recall_at, score_corpus
from vidret.metrics.grounding import score_moments
from vidret.metrics.predictions import Prediction


def naive_places(query: LabelledQuery, found: list[FoundMoment], threshold: float) -> tuple[int, int, int]:
    moment = span = video = 0
    inside, seen = 0, []
    for place, each in enumerate(found, start=1):
        if each.video not in seen:
            seen.append(each.video)
        if each.video != query.video:
            continue
        inside += 1
        video = video or len(seen)
        if any(naive_overlap((each.start, each.end), truth) >= threshold for truth in query.spans):
            moment, span = moment or place, span or inside
    return moment, span, video


def sample(seed: int, num: int = 40) -> tuple[list[LabelledQuery], dict[str, list[FoundMoment]]]:
    rng = np.random.default_rng(seed)
    queries: list[LabelledQuery] = []
    found: dict[str, list[FoundMoment]] = {}
    for name in map(str, range(num)):
        starts = rng.integers(0, 10, size=rng.integers(1, 4)) * 10.0
        truths = tuple((start, start + 10.0 + 2 * rng.integers(0, 5)) for start in starts)
        queries.append(LabelledQuery(name, f"v{rng.integers(8)}", "", 200.0, truths))
        found[name] = []
        for _ in range(rng.integers(0, 150)):
            start = rng.integers(0, 100) * 1.0
            found[name].append(FoundMoment(f"v{rng.integers(8)}", start, start + rng.integers(0, 25)))
    return queries, found


def check_same(one: CorpusReport, other: CorpusReport) -> None:
    for name in ("moments", "spans", "videos"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_loops(seed: int) -> None:
    queries, found = sample(seed)
    report = score_corpus(queries, found)
    for row, query in enumerate(queries):
        for column, threshold in enumerate((0.5, 0.7)):
            own = report.moments[row, column], report.spans[row, column], report.videos[row]
            assert own == naive_places(query, found[query.id], threshold)


def test_a_report_counts_places_and_is_json() -> None:
    query = LabelledQuery("1", "a", "", 50.0, ((10.0, 20.0),))
    near, far, other = FoundMoment("a", 10, 16), FoundMoment("a", 30, 40), FoundMoment("b", 10, 20)
    report = json.loads(json.dumps(score_corpus([query], {"1": [other, other, far, near]}).to_dict(), allow_nan=False))
    assert report["VCMR"]["0.5"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert report["VCMR"]["0.7"] == {"R1": 0, "R5": 0, "R10": 0, "R100": 0}
    assert report["SVMR"]["0.5"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert report["VR"] == {"R1": 0, "R5": 100, "R10": 100, "R100": 100}
    assert report["per_query"] == {"id": ["1"], "moments": [[4, 0]], "spans": [[2, 0]], "videos": [2]}
    assert (recall_at(np.array([0, 1, 5, 6]), 5), recall_at(np.array([0, 0]), 100)) == (50, 0)


def test_what_must_hold() -> None:
    queries, found = sample(9)
    report = score_corpus(queries, found)
    right = report.moments > 0
    assert right.any()
    assert (report.spans[right] <= report.moments[right]).all()
    assert ((report.videos[:, None] <= report.moments) | ~right).all()  # nowhere right, or the video is seen before
    assert ((report.spans > 0) == right).all()
    loose, strict = report.moments.T
    assert ((loose > 0) & (loose <= strict))[strict > 0].all()
    turned = score_corpus(queries[::-1], found)
    np.testing.assert_array_equal(turned.moments[::-1], report.moments)
    check_same(score_corpus(queries, {**found, "not asked": []}), report)
    renamed = {name: [each._replace(video=f"x{each.video}") for each in each_list] for name, each_list in found.items()}
    nowhere = score_corpus(queries, renamed)
    assert not nowhere.moments.any()
    assert not nowhere.videos.any()


def test_in_an_index_of_one_video_all_three_agree_with_recall_in_that_video() -> None:
    queries, found = sample(10)
    queries = [LabelledQuery(each.id, "v", "", each.duration, each.spans) for each in queries]
    one = {name: [each._replace(video="v") for each in listed] for name, listed in found.items()}
    report = score_corpus(queries, one)
    np.testing.assert_array_equal(report.moments, report.spans)
    assert set(report.videos) <= {0, 1}
    predictions = [Prediction(n, np.array([(m.start, m.end, 0) for m in ms]).reshape(-1, 3)) for n, ms in one.items()]
    alone = score_moments(queries, predictions)
    for column, threshold in enumerate((0.5, 0.7)):
        for rank in (1, 5):
            assert recall_at(report.moments[:, column], rank) == alone.full.recall(threshold, rank)


def test_what_cannot_be_scored_is_refused() -> None:
    query = LabelledQuery("1", "v", "", 9.0, ((0.0, 3.0),))
    for queries, moments, reason in (
        ([], {}, "queries must have an id each and be at least one, got 0"),
        ([query, query], {"1": []}, "queries must have an id each and be at least one, got 2"),
        ([query], {}, "found must have a list for every query, got none for 1"),
        ([LabelledQuery("1", "v", "", 9.0)], {"1": []}, "query 1 must have a true span"),
        ([query], {"1": [FoundMoment("v", 3, 2)]}, r"moments of query 1 must start before they end, got \[3.0, 2.0\]"),
        ([query], {"1": [FoundMoment("v", 3, math.nan)]}, "must start before they end"),
        ([query], {"1": [FoundMoment("v", 3, math.inf)]}, "must start before they end"),
    ):
        with pytest.raises(VidretError, match=reason):
            score_corpus(queries, moments)
