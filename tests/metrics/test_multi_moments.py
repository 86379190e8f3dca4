"""Several moments of one query: equality with loops, and what counts."""

import numpy as np
import pytest

from tests.metrics.naive import naive_overlap
from vidret.data.records import LabelledQuery
from vidret.evaluate.tables import make_tables
from vidret.metrics.grounding import score_moments, score_multi_moments
from vidret.metrics.predictions import Prediction

Spans = list[tuple[float, float]]


def sample(seed: int, num: int = 30) -> tuple[list[LabelledQuery], list[Prediction]]:
    rng = np.random.default_rng(seed)
    queries, predictions = [], []
    for name in map(str, range(num)):
        starts = rng.integers(0, 10, size=rng.integers(1, 5)) * 10.0
        truths = tuple((start, start + 2 + 2 * rng.integers(0, 5)) for start in starts)
        queries.append(LabelledQuery(name, "v", "", 200.0, truths))
        begins = rng.integers(0, 50, size=rng.integers(0, 6)) * 2.0
        spans = np.array([(begin, begin + 2 + 2 * rng.integers(0, 5), rng.random()) for begin in begins])
        predictions.append(Prediction(name, spans.reshape(-1, 3), None))
    return queries, predictions


def match_naively(spans: Spans, truths: Spans, least: float) -> list[float]:
    left, found = list(truths), []
    for span in spans:
        if not left:
            break
        overlaps = [naive_overlap(span, truth) for truth in left]
        best = overlaps.index(max(overlaps))
        if overlaps[best] >= least:
            found.append(overlaps[best])
            left.pop(best)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_loops(seed: int) -> None:
    queries, predictions = sample(seed)
    scores = score_multi_moments(queries, predictions)
    thresholds = [0.3 + 0.05 * step for step in range(14)]
    for k in (1, 2, 3):
        counted: list[tuple[Spans, Spans]] = []
        for query, prediction in zip(queries, predictions, strict=True):
            assert prediction.spans is not None
            if len(query.spans) >= k and len(prediction.spans) >= k:
                counted.append(([(row[0], row[1]) for row in prediction.spans[:k]], list(query.spans)))
        recalls = [
            sum(len(match_naively(*pair, least - 1e-9)) for pair in counted) / (k * len(counted))
            for least in thresholds
        ]
        assert scores[f"mR@{k}"] == pytest.approx(100 * sum(recalls) / 14)
        overlaps = [overlap for pair in counted for overlap in match_naively(*pair, -1.0)]
        assert scores[f"mIoU@{k}"] == pytest.approx(100 * sum(overlaps) / len(overlaps))
    groups: dict[int, list[float]] = {}
    for row, query in zip(score_moments(queries, predictions).full.average_precision, queries, strict=True):
        groups.setdefault(len(query.spans), []).append(100 * row.mean())
    means = {count: sum(own) / len(own) for count, own in groups.items()}
    several = [mean for count, mean in means.items() if count >= 3]
    assert scores["mAP"] == pytest.approx({"1": means[1], "2": means[2], "3+": sum(several) / len(several)})
    assert scores["G-mAP"] == pytest.approx(sum(sum(own) for own in groups.values()) / len(queries))


def test_queries_with_one_moment_have_no_score_of_two() -> None:
    queries, predictions = (
        [LabelledQuery("1", "v", "", 9.0, ((0.0, 4.0),))],
        [Prediction("1", np.array([[0.0, 4.0, 1.0]]), None)],
    )
    scores = score_multi_moments(queries, predictions)
    assert (scores["mR@1"], scores["mR@2"], scores["mAP"]["2"], scores["G-mAP"]) == (100.0, None, None, 100.0)
    (title, (columns, lines)) = next(make_tables({"results": {"multi_moments": scores}}))
    assert title == "several moments of a query"
    assert dict(zip(columns, lines[0], strict=True))["mR@2"] == "-"
