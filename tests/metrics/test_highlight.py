"""Highlight metrics: equality with loops written from the protocols, properties, and goldens."""

import json
from dataclasses import replace
from statistics import median_low
from typing import Any

import numpy as np
import pytest

from tests.metrics.submissions import DATA, GOLDENS, find_files, needs_data, rated, read_rows
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.highlight import LEVELS, score_highlights, score_tvsum, score_youtube, stepwise_precision
from vidret.metrics.predictions import Prediction


# Naive versions.
def naive_stepwise(positive: list[bool], scores: list[float]) -> float:
    curve = []  # recall and precision of the clips at or above each threshold
    for threshold in set(scores):
        selected = [label for label, score in zip(positive, scores, strict=True) if score >= threshold]
        if any(selected):
            curve.append((sum(selected) / sum(positive), sum(selected) / len(selected)))
    steps = {recall: max(p for r, p in curve if r >= recall) for recall, _ in curve}
    return sum(steps.values()) / len(steps) if steps else 0.0


def naive_trapezoid(ranked: list[bool]) -> float:
    area, hits, previous_recall, previous_precision = 0.0, 0, 0.0, 1.0
    for rank, positive in enumerate(ranked, start=1):
        hits += positive
        recall, precision = hits / max(sum(ranked), 1), hits / rank
        area += (recall - previous_recall) * (previous_precision + precision) / 2
        previous_recall, previous_precision = recall, precision
    return area


def naive_highlights(query: LabelledQuery, scores: list[float]) -> tuple[list[list[float]], list[bool]]:
    assert query.duration is not None
    num_clips = int(query.duration / 2)
    ratings = dict(zip(query.clips, query.saliency, strict=True))
    grid = [ratings.get(clip, (0, 0, 0)) for clip in range(num_clips)]
    full = (scores + [0.0] * num_clips)[:num_clips]
    best = scores.index(max(scores))
    levels = (2, 3, 4)
    precision = [[naive_stepwise([row[a] >= level for row in grid], full) for a in range(3)] for level in levels]
    return precision, [best < num_clips and max(grid[best]) >= level for level in levels]


def rank(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda clip: -scores[clip])


def naive_tvsum(query: LabelledQuery, scores: list[float]) -> float:
    columns = list(zip(*query.saliency, strict=True))
    return sum(
        naive_trapezoid([column[clip] > median_low(column) for clip in rank(scores)[:5]]) for column in columns
    ) / len(columns)


def naive_youtube(query: LabelledQuery, scores: list[float]) -> float:
    return naive_trapezoid([query.saliency[clip][0] == 1 for clip in rank(scores)])


def sample(seed: int, num: int = 30, *, ties: bool = True) -> tuple[list[LabelledQuery], list[Prediction]]:
    """Return rated queries and saliency with ties, and sometimes one score too few or too many."""
    rng = np.random.default_rng(seed)
    queries, predictions = [], []
    for name in map(str, range(num)):
        num_clips = int(rng.integers(3, 20))
        clips = np.flatnonzero(rng.random(num_clips) < 0.6).tolist() or [0]
        ratings = tuple(tuple(map(float, row)) for row in rng.integers(0, 5, size=(len(clips), 3)))
        queries.append(LabelledQuery(name, "v", "", 2.0 * num_clips + 1, (), tuple(clips), ratings))
        scores = rng.integers(-4, 5, size=num_clips + rng.integers(-1, 2)) if ties else rng.normal(size=num_clips)
        predictions.append(Prediction(name, saliency=scores.astype(np.float64)))
    return queries, predictions


def listed(prediction: Prediction) -> list[float]:
    assert prediction.saliency is not None
    return [float(score) for score in prediction.saliency]


@pytest.mark.parametrize("seed", range(4))
def test_qvhighlights_equals_loops(seed: int) -> None:
    queries, predictions = sample(seed)
    report = score_highlights(queries, predictions[::-1])
    expected = [naive_highlights(q, listed(p)) for q, p in zip(queries, predictions, strict=True)]
    np.testing.assert_allclose(report.average_precision, [precision for precision, _ in expected], atol=1e-12, rtol=0)
    np.testing.assert_array_equal(report.hits, [hit for _, hit in expected])
    facts = report.to_dict()
    for index, level in enumerate(LEVELS):
        assert facts[level]["mAP"] == pytest.approx(100 * np.mean([e[index] for e, _ in expected]))
        assert facts[level]["Hit1"] == pytest.approx(100 * np.mean([h[index] for _, h in expected]))


@pytest.mark.parametrize("seed", range(4))
def test_domain_metrics_equal_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tvsum, youtube, predictions = [], [], []
    for name in map(str, range(12)):
        num_clips, domain = int(rng.integers(2, 15)), "abc"[rng.integers(3)]
        tvsum.append(rated(name, rng.integers(1, 6, size=(num_clips, 4)).tolist(), domain))
        youtube.append(rated(name, rng.integers(-1, 2, size=num_clips).tolist(), domain))
        predictions.append(Prediction(name, saliency=rng.integers(0, 6, size=num_clips).astype(np.float64)))
    for queries, scored, naive in (
        (tvsum, score_tvsum(tvsum, predictions), naive_tvsum),
        (youtube, score_youtube(youtube, predictions), naive_youtube),
    ):
        expected = [naive(query, listed(prediction)) for query, prediction in zip(queries, predictions, strict=True)]
        np.testing.assert_allclose(scored.average_precision, expected, atol=1e-12, rtol=0)
        for domain, value in scored.by_domain.items():
            assert value == pytest.approx(
                100 * np.mean([x for x, query in zip(expected, queries, strict=True) if query.domain == domain])
            )
        assert scored.mean == pytest.approx(sum(scored.by_domain.values()) / len(scored.by_domain))


def test_missing_scores_are_0_excess_scores_are_no_hits_and_both_are_reported() -> None:
    # As officially, since published files have such rows: a missing score of 0 ranks above negative scores.
    query = LabelledQuery("1", "v", "", 6.0, (), (0, 2), ((4.0, 1.0), (4.0, 1.0)))
    short, long = [-1.0, -2.0], [-1.0, -2.0, -3.0, 5.0]
    few = score_highlights([query], [Prediction("1", saliency=np.array(short))])
    assert few.average_precision[0].tolist() == [[1, 0]] * 3  # ranked 2, 0, 1
    assert (few.padded, few.cut) == (("1",), ())
    many = score_highlights([query], [Prediction("1", saliency=np.array(long))])
    assert not many.hits.any()  # the highest score belongs to no clip
    assert many.average_precision[0, 0, 0] == pytest.approx(naive_stepwise([True, False, True], long[:3]))
    assert (many.padded, many.cut) == ((), ("1",))


def test_ceiling_is_the_score_of_a_perfect_ranking() -> None:
    queries, _ = sample(7)
    level = list(LEVELS).index("VeryGood")
    for annotator in range(3):
        found = []
        for query in queries:
            assert query.duration is not None
            scores = np.zeros(int(query.duration / 2))
            scores[list(query.clips)] = [row[annotator] for row in query.saliency]
            found.append(Prediction(query.id, saliency=scores))
        report = score_highlights(queries, found)
        np.testing.assert_allclose(report.average_precision[:, level, annotator], report.reachable[:, level, annotator])
    facts = report.to_dict()["VeryGood"]
    assert 0 < facts["mAP"] <= facts["mAP_ceiling"] < 100


def test_invalid_queries_and_predictions_are_rejected() -> None:
    query = LabelledQuery("1", "v", "", 6.0, (), (1,), ((2.0, 4.0),))
    found = [Prediction("1", saliency=np.ones(3))]
    cases: list[tuple[Any, list[LabelledQuery], list[Prediction], str]] = [
        (
            score_highlights,
            [query],
            [Prediction("1", np.ones((1, 3)))],
            "query 1 must have saliency scores, got windows",
        ),
        (score_highlights, [replace(query, duration=None)], found, "query 1 must have the duration of its video"),
        (score_highlights, [replace(query, clips=(3,))], found, r"query 1 must be among its 3, got 3\.\.3"),
        (score_highlights, [replace(query, clips=(-1, 2), saliency=((2.0,), (1.0,)))], found, r"its 3, got -1\.\.2"),
        (score_highlights, [replace(query, clips=(), saliency=())], found, "query 1 must have ratings"),
        (score_highlights, [replace(query, clips=(0, 1))], found, "query 1 must have ratings"),
        (
            score_highlights,
            [query, replace(query, id="2", saliency=((1.0,),))],
            [*found, Prediction("2", saliency=np.ones(3))],
            "equally many annotators",
        ),
        (score_tvsum, [rated("1", [1, 2])], found, "a rating and a score for each clip, got 2 and 3"),
        (score_youtube, [replace(rated("1", [1, 0, 1]), clips=(0, 2, 1))], found, "a rating and a score for each clip"),
        (score_youtube, [], [], "queries must be at least one"),
    ]
    for score, queries, predictions, reason in cases:
        with pytest.raises(VidretError, match=reason):
            score(queries, predictions)


# Goldens. Whole files of QVHighlights are checked in test_grounding.py, together with their moments.
def test_precision_equals_published_code() -> None:
    for path in find_files("eval/qvh_edge/primitives.json"):
        cases = json.loads(path.read_text("utf-8"))["saliency_ap"]
        assert len(cases) >= 60
        for case in cases:
            found = stepwise_precision(np.array(case["y"])[:, None] > 0, np.array(case["s"]))
            np.testing.assert_allclose(found, [case["ap"]], atol=1e-12, rtol=0)


def test_domain_metrics_equal_published_code() -> None:
    for path in find_files("r2tuning/metrics/highlight_domain.json"):
        golden = json.loads(path.read_text("utf-8"))
        samples = golden["samples"]
        predictions = [Prediction(str(n), saliency=np.array(sample["saliency"])) for n, sample in enumerate(samples)]
        tvsum = score_tvsum([rated(str(n), sample["anno"]) for n, sample in enumerate(samples)], predictions)
        youtube = score_youtube([rated(str(n), sample["match"]) for n, sample in enumerate(samples)], predictions)
        # The published code rounds each video, and then the mean, to five decimals.
        assert tvsum.mean / 100 == pytest.approx(golden["tvsum_top5_mAP"], abs=1.1e-5)
        assert youtube.mean / 100 == pytest.approx(golden["youtube_mAP"], abs=1.1e-5)


@needs_data
@pytest.mark.parametrize(
    ("name", "score", "label", "result"),
    [("tvsum", score_tvsum, "anno", "tvsum_top5_mAP"), ("youtube", score_youtube, "match", "mAP")],
)
def test_whole_benchmarks_equal_published_code(name: str, score: Any, label: str, result: str) -> None:
    golden = json.loads((GOLDENS / "highlight" / "metrics.json").read_text("utf-8"))
    assert len(golden[f"{name}_small"]) >= 30
    for case in golden[f"{name}_small"]:
        alone = score([rated("1", case[label])], [Prediction("1", saliency=np.array(case["saliency"]))])
        assert alone.mean / 100 == pytest.approx(case[result], abs=0.51e-5)
    folder = "tvsum" if name == "tvsum" else "youtube_highlights"
    (path,) = (DATA / folder).glob("*val_release.jsonl")
    rows = read_rows(path)
    queries = [rated(row["vid"], row["label" if name == "tvsum" else "match"], row["domain"]) for row in rows]
    with np.load(GOLDENS / "highlight" / "preds.npz") as stored:
        for kind in ("random", "oracle_noise"):  # the others have ties, whose order is arbitrary in the published code
            keys = [f"{name}|{kind}|{query.domain}|{query.id}" for query in queries]
            found = [
                Prediction(q.id, saliency=stored[key].astype(np.float64)) for q, key in zip(queries, keys, strict=True)
            ]
            expected = dict(golden["domain_mAP"][f"{name}|{kind}"])
            report = score(queries, found)
            assert report.mean / 100 == pytest.approx(expected.pop("avg"), abs=0.51e-5)
            assert {domain: value / 100 for domain, value in report.by_domain.items()} == pytest.approx(
                expected, abs=0.51e-5
            )
