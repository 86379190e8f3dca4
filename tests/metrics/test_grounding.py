"""Moment metrics: loops written from the protocol, properties, and the published evaluators."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.metrics.naive import naive_overlap
from tests.metrics.submissions import (
    DATA,
    GOLDENS,
    check_as_published,
    find_files,
    needs_data,
    needs_goldens,
    read_rows,
    submit,
    to_query,
)
from vidret.data.records import OPEN_LENGTHS, QVHIGHLIGHTS_LENGTHS, LabelledQuery
from vidret.errors import VidretError
from vidret.evaluate.tables import make_tables
from vidret.metrics.grounding import (
    PRECISION_THRESHOLDS,
    MomentReport,
    average_precision,
    score_moments,
    score_multi_moments,
    temporal_iou,
)
from vidret.metrics.highlight import HighlightReport, score_highlights
from vidret.metrics.predictions import Prediction, read_predictions

Spans = list[tuple[float, float]]


def naive_precision(found: list[list[float]], truths: Spans, threshold: float) -> float:
    ranked = sorted(found[:10], key=lambda span: -span[2])
    unmatched = set(range(len(truths)))
    recalls, precisions, num_correct = [0.0], [0.0], 0
    for rank, (start, end, _) in enumerate(ranked, start=1):
        options = [(naive_overlap((start, end), truths[index]), index) for index in unmatched]
        best = max(options, default=(0.0, -1))
        if best[0] >= threshold:
            num_correct += 1
            unmatched.remove(best[1])
        recalls.append(num_correct / len(truths))
        precisions.append(num_correct / rank)
    for rank in range(len(precisions) - 2, -1, -1):
        precisions[rank] = max(precisions[rank], precisions[rank + 1])
    return sum((recalls[n] - recalls[n - 1]) * precisions[n] for n in range(1, len(recalls)))


def naive_metrics(found: list[list[list[float]]], truths: list[Spans], low: float, high: float) -> dict[str, object]:
    kept = [(f, [t for t in ts if low < t[1] - t[0] <= high]) for f, ts in zip(found, truths, strict=True)]
    kept = [(f, ts) for f, ts in kept if ts]
    mean_ap = [np.mean([naive_precision(f, ts, threshold) for f, ts in kept]) for threshold in PRECISION_THRESHOLDS]
    best = {
        k: [max((naive_overlap((s, e), t) for s, e, _ in f[:k] for t in ts), default=0.0) for f, ts in kept]
        for k in (1, 5)
    }
    return {
        "num_queries": len(kept),
        "mAP": 100 * float(np.mean(mean_ap)),
        "R1@0.3": 100 * sum(x >= 0.3 for x in best[1]) / len(kept),
        "R1@0.7": 100 * sum(x >= 0.7 for x in best[1]) / len(kept),
        "R5@0.5": 100 * sum(x >= 0.5 for x in best[5]) / len(kept),
        "mIoU": 100 * float(np.mean(best[1])),
    }


def sample(seed: int, num: int = 60) -> tuple[list[LabelledQuery], list[Prediction]]:
    """Return queries with 1..6 true and 0..13 predicted spans: near misses, duplicates, ties and empty spans."""
    rng = np.random.default_rng(seed)
    queries, predictions = [], []
    for name in range(num):
        starts = rng.integers(0, 50, size=rng.integers(1, 7)) * 2.0
        truths = [(start, start + 2.0 * rng.integers(1, 30)) for start in starts]
        found = []
        for _ in range(rng.integers(0, 14)):
            start, end = truths[rng.integers(len(truths))]
            moved = sorted((start + rng.integers(-3, 4), end + rng.integers(-3, 4)))
            found.append([*moved, rng.integers(0, 6) / 5])
        queries.append(LabelledQuery(str(name), "v", "", 200.0, tuple(truths)))
        predictions.append(Prediction(str(name), np.array(found, dtype=np.float64).reshape(-1, 3)))
    return queries, predictions


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lengths", [QVHIGHLIGHTS_LENGTHS, OPEN_LENGTHS])
def test_equals_loops(seed: int, lengths: dict[str, tuple[float, float]]) -> None:
    queries, predictions = sample(seed)
    report = score_moments(queries, predictions, lengths=lengths)
    found = [prediction.spans.tolist() for prediction in predictions if prediction.spans is not None]
    for name, (low, high) in {"full": (0.0, math.inf), **lengths}.items():
        metrics = report.full if name == "full" else report.by_length[name]
        assert metrics is not None
        expected = naive_metrics(found, [list(query.spans) for query in queries], low, high)
        actual = {
            "num_queries": len(metrics.ids),
            "mAP": metrics.mean_average_precision,
            "R1@0.3": metrics.recall(0.3),
            "R1@0.7": metrics.recall(0.7),
            "R5@0.5": metrics.recall(0.5, 5),
            "mIoU": metrics.mean_overlap,
        }
        assert actual == pytest.approx(expected, abs=1e-9)


def test_length_range_without_true_spans_is_none() -> None:
    query = LabelledQuery("1", "v", "", 200.0, ((0.0, 10.0), (0.0, 160.0)))
    predictions = [Prediction("1", np.array([[0.0, 160.0, 1.0]]))]
    report = score_moments([query], predictions)
    assert report.by_length["middle"] is None
    assert report.by_length["long"] is None  # 160 s is longer than the official evaluator's long
    assert report.by_length["short"] is not None
    assert report.by_length["short"].mean_average_precision == 0
    assert report.full.mean_overlap == 100
    above = score_moments([query], predictions, lengths=OPEN_LENGTHS)
    assert above.by_length["long"] is not None
    assert above.by_length["long"].mean_average_precision == 100
    assert above.to_dict()["lengths"] == {"short": [0, 10], "middle": [10, 30], "long": [30, None]}


def test_empty_spans_have_no_overlap() -> None:
    found = np.array([[[3.0, 3.0], [0.0, 0.0], [0.0, 6.0]]])
    truths = np.array([[[0.0, 6.0], [3.0, 3.0], [0.0, 0.0]]])
    assert temporal_iou(found, truths)[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    report = score_moments(
        [LabelledQuery("1", "v", "", 9.0, ((3.0, 3.0),))], [Prediction("1", np.array([[3.0, 3.0, 1.0]]))]
    )
    assert len(report.full.ids) == 1  # it counts as a miss
    assert report.full.recall(0.3) == report.full.mean_average_precision == 0


def test_invalid_queries_and_predictions_are_rejected() -> None:
    query = LabelledQuery("1", "v", "", 9.0, ((0.0, 3.0),))
    predictions = [Prediction("1", np.array([[0.0, 3.0, 1.0]]))]
    for asked, answered, reason in (
        (replace(query, spans=()), predictions, "query 1 must have at least one true span, got none"),
        (
            replace(query, spans=((3.0, 0.0),)),
            predictions,
            r"true spans of query 1 must start before they end, got \[3.0",
        ),
        (replace(query, spans=((1.0, 2.0), (0.0, math.nan))), predictions, r"before they end, got \[0.0, nan"),
        (query, [Prediction("1", saliency=np.ones(3))], "query 1 must have windows, got saliency scores only"),
        (query, [], "must include every query"),
    ):
        with pytest.raises(VidretError, match=reason):
            score_moments([asked], answered)


def test_precision_equals_published_code() -> None:
    for path in find_files("eval/qvh_edge/primitives.json"):
        cases = json.loads(path.read_text("utf-8"))["detection_ap"]
        assert len(cases) >= 60
        for case in cases:
            spans, truths = np.array(case["pred"]).reshape(-1, 3), np.array(case["gt"])
            overlaps = temporal_iou(spans[np.argsort(-spans[:, 2], kind="stable"), :2], truths)
            found = average_precision(overlaps[None], np.array([len(truths)]))
            np.testing.assert_allclose(found[0], case["ap"], atol=1e-12, rtol=0)


# Several moments of a query


def draw_several(seed: int, num: int = 30) -> tuple[list[LabelledQuery], list[Prediction]]:
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
    remaining, found = list(truths), []
    for span in spans:
        if not remaining:
            break
        overlaps = [naive_overlap(span, truth) for truth in remaining]
        best = overlaps.index(max(overlaps))
        if overlaps[best] >= least:
            found.append(overlaps[best])
            remaining.pop(best)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_several_moments_equal_loops(seed: int) -> None:
    queries, predictions = draw_several(seed)
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
    means = {count: sum(precisions) / len(precisions) for count, precisions in groups.items()}
    several = [mean for count, mean in means.items() if count >= 3]
    assert scores["mAP"] == pytest.approx({"1": means[1], "2": means[2], "3+": sum(several) / len(several)})
    assert scores["G-mAP"] == pytest.approx(sum(sum(precisions) for precisions in groups.values()) / len(queries))


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


Case = dict[str, Any]
Scored = tuple[MomentReport | None, HighlightReport | None]


@cache
def read_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for path in find_files("eval/qvh_edge/edge_cases.json"):
        cases.update((case["name"], case) for case in json.loads(path.read_text("utf-8")))
    assert len(cases) >= 25
    return cases


def score(case: Case, folder: Path) -> Scored:
    """Score a case as a user would: read its file and compute the metrics that it has predictions for."""
    queries, predictions = [to_query(row) for row in case["gt"]], submit(folder, case["pred"])
    if case["kwargs"].get("match_number") is False:  # the official evaluator then uses the queries that both sides have
        queries = [query for query in queries if query.id in {prediction.id for prediction in predictions}]
        predictions = [prediction for prediction in predictions if prediction.id in {query.id for query in queries}]
    has_spans = any(prediction.spans is not None for prediction in predictions)
    has_saliency = any(prediction.saliency is not None for prediction in predictions)
    moments = score_moments(queries, predictions) if has_spans or not has_saliency else None
    return moments, score_highlights(queries, predictions) if has_saliency else None


# Differences from the official evaluator: defects of a file, detected independently of the code under test.
def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def list_ids(case: Case, side: str) -> set[str]:
    return {str(row["qid"]) for row in case[side]}


def list_spans(case: Case) -> list[list[float]]:
    return [span for row in case["pred"] for span in row.get("pred_relevant_windows") or ()]


def has_only_some(case: Case, name: str) -> bool:
    return len({name in row for row in case["pred"]}) == 2


DEFECTS: dict[str, Callable[[Case], bool]] = {  # by what is said of them
    "rows of start, end and score|rows of equal length": lambda case: any(len(span) != 3 for span in list_spans(case)),
    "must have finite times and no NaN score": lambda case: any(
        not all(map(is_number, span[:2])) or math.isnan(span[-1]) for span in list_spans(case)
    ),
    "must not end before they start": lambda case: any(span[1] < span[0] for span in list_spans(case)),
    "must be finite": lambda case: (
        not all(is_number(x) for row in case["pred"] for x in row.get("pred_saliency_scores") or ())
    ),
    "one per clip": lambda case: any(row.get("pred_saliency_scores") == [] for row in case["pred"]),
    "must have saliency scores, got windows only": lambda case: has_only_some(case, "pred_saliency_scores"),
    "must have windows, got saliency scores only": lambda case: has_only_some(case, "pred_relevant_windows"),
    "already": lambda case: max(Counter(str(row["qid"]) for row in case["pred"]).values()) > 1,
    "queries must have unique ids": lambda case: max(Counter(row["qid"] for row in case["gt"]).values()) > 1,
    "queries must be at least one": lambda case: not list_ids(case, "pred") & list_ids(case, "gt"),
    "must include every query|must be for the queries": lambda case: (
        case["kwargs"].get("match_number") is not False and list_ids(case, "pred") != list_ids(case, "gt")
    ),
    "must have at least one true span": lambda case: any(not row["relevant_windows"] for row in case["gt"]),
    "must start before they end": lambda case: any(
        end < start for row in case["gt"] for start, end in row["relevant_windows"]
    ),
    "must be among its": lambda case: (
        any("pred_saliency_scores" in row for row in case["pred"])
        and any(max(row["relevant_clip_ids"], default=0) >= int(row["duration"] / 2) for row in case["gt"])
    ),
}


@pytest.mark.parametrize("name", read_cases())
def test_unusual_files_are_scored_as_published_or_rejected_for_their_defect(name: str, tmp_path: Path) -> None:
    case = read_cases()[name]
    if reasons := [reason for reason, is_present in DEFECTS.items() if is_present(case)]:
        with pytest.raises(VidretError, match="|".join(reasons)):
            score(case, tmp_path)
    elif "result" in case:
        check_as_published(*score(case, tmp_path), case["result"])
    else:
        score(case, tmp_path)  # the official evaluator crashes; the tests below check the result


@pytest.mark.parametrize(
    ("name", "expected", "counts"),
    [
        ("empty_windows_one_query", 75, (4, 2, 1, 1)),  # a method may find nothing, which is valid but wrong
        ("only_windows", 100, (3, 1, 1, 1)),
        ("string_qids", 100, (3, 1, 1, 1)),
        ("empty_bucket", 100, (2, 1, 1, None)),  # R2-Tuning's evaluator reports the result of all queries for None
        ("gt_longer_than_150", 100, (4, 1, 1, 1)),  # the fourth query is in no range
    ],
)
def test_files_that_the_official_evaluator_cannot_score_are_scored(
    name: str, expected: float, counts: tuple[int | None, ...], tmp_path: Path
) -> None:
    moments, _ = score(read_cases()[name], tmp_path)
    assert moments is not None
    assert moments.full.recall(0.5) == moments.full.mean_average_precision == expected
    assert tuple(metrics and len(metrics.ids) for metrics in (moments.full, *moments.by_length.values())) == counts


def test_r2_tuning_evaluator() -> None:
    for folder in (path.parent for path in find_files("r2tuning/metrics/expected.json")):
        queries = [to_query(row) for row in read_rows(folder / "gt.jsonl")]
        predictions = read_predictions(folder / "pred.jsonl")
        moments = score_moments(queries, predictions, lengths=OPEN_LENGTHS)
        highlights = score_highlights(queries, predictions)
        check_as_published(moments, highlights, json.loads((folder / "expected.json").read_text("utf-8")))


def unpack(path: Path, folder: Path) -> Path:
    """Return the path of a file, decompressed into ``folder`` if only its .gz exists."""
    if path.exists():
        return path
    unpacked = folder / path.name
    unpacked.write_bytes(gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()))
    return unpacked


@needs_goldens
def test_official_qvhighlights_evaluator(tmp_path: Path) -> None:
    folder = GOLDENS / "qvhighlights"
    queries = [to_query(row) for row in read_rows(folder / "gt_val.jsonl")]
    assert len(queries) == 1550
    names = [path.stem.removeprefix("metrics_") for path in sorted(folder.glob("metrics_*.json"))]
    names = [name for name in names if not name.startswith("test_")]
    assert len(names) >= 2
    for name in names:
        predictions = read_predictions(unpack(folder / f"pred_{name}.jsonl", tmp_path))
        moments, highlights = score_moments(queries, predictions), score_highlights(queries, predictions)
        check_as_published(moments, highlights, json.loads((folder / f"metrics_{name}.json").read_text("utf-8")))
        with np.load(folder / f"perquery_{name}.npz") as arrays:
            assert tuple(map(str, arrays["qid"])) == moments.full.ids == highlights.ids
            np.testing.assert_allclose(moments.full.average_precision, arrays["mr_ap"], atol=1e-12, rtol=0)
            np.testing.assert_allclose(moments.full.best_overlaps[:, 0], arrays["r1_iou"], atol=1e-12, rtol=0)
            np.testing.assert_allclose(highlights.average_precision, arrays["hl_ap"], atol=1e-12, rtol=0)
            np.testing.assert_array_equal(highlights.hits, arrays["hit1"])
        assert highlights.to_dict()["VeryGood"]["mAP_ceiling"] == pytest.approx(70.30, abs=0.005)


@needs_data
def test_two_published_tacos_evaluators(tmp_path: Path) -> None:
    queries = [to_query(row) for row in read_rows(DATA / "tacos" / "tacos_test_release.jsonl")]
    predictions = read_predictions(unpack(GOLDENS / "grounding" / "pred_tacos.jsonl", tmp_path))
    report = score_moments(queries, predictions, lengths=OPEN_LENGTHS)
    assert len(report.full.ids) == 4001
    for evaluator in ("r2tuning", "lighthouse"):
        expected = json.loads((GOLDENS / "grounding" / f"metrics_tacos_{evaluator}.json").read_text("utf-8"))
        check_as_published(report, None, expected)
    with np.load(GOLDENS / "grounding" / "top1_iou_tacos.npz") as top:
        np.testing.assert_allclose(report.full.best_overlaps[:, 0], top["iou"], atol=1e-12, rtol=0)
