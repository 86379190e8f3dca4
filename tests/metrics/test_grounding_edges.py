"""Equality with the official evaluator on unusual files, and the deliberate differences, case by case."""

import json
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.metrics.submissions import check_as_published, find_files, submit, to_query
from vidret.errors import VidretError
from vidret.metrics.grounding import MomentReport, score_moments
from vidret.metrics.highlight import HighlightReport, score_highlights

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


def answers_every_query(case: Case) -> bool:
    predicted, labelled = ({str(row["qid"]) for row in case[side]} for side in ("pred", "gt"))
    return case["kwargs"].get("match_number") is False or predicted == labelled


DEFECTS: dict[str, tuple[str, Callable[[Case], bool]]] = {
    "ragged": (
        "rows of start, end and score|rows of equal length",
        lambda case: any(len(span) != 3 for row in case["pred"] for span in row.get("pred_relevant_windows") or ()),
    ),
    "nan or endless": (
        "must have finite times and no NaN score",
        lambda case: any(
            not all(map(is_number, span[:2])) or math.isnan(span[-1])
            for row in case["pred"]
            for span in row.get("pred_relevant_windows") or ()
        ),
    ),
    "reversed": (
        "must not end before they start",
        lambda case: any(s[1] < s[0] for row in case["pred"] for s in row.get("pred_relevant_windows") or ()),
    ),
    "saliency not finite": (
        "must be finite",
        lambda case: not all(is_number(x) for row in case["pred"] for x in row.get("pred_saliency_scores") or ()),
    ),
    "no saliency scores": ("one per clip", lambda case: any(r.get("pred_saliency_scores") == [] for r in case["pred"])),
    "saliency in some rows": (
        "must have saliency scores, got windows only",
        lambda case: len({"pred_saliency_scores" in row for row in case["pred"]}) == 2,
    ),
    "windows in some rows": (
        "must have windows, got saliency scores only",
        lambda case: len({"pred_relevant_windows" in row for row in case["pred"]}) == 2,
    ),
    "answered twice": ("already", lambda case: max(Counter(str(r["qid"]) for r in case["pred"]).values()) > 1),
    "asked twice": (
        "queries must have unique ids",
        lambda case: max(Counter(row["qid"] for row in case["gt"]).values()) > 1,
    ),
    "nothing in common": (
        "queries must be at least one",
        lambda case: not {str(row["qid"]) for row in case["pred"]} & {str(row["qid"]) for row in case["gt"]},
    ),
    "not for the queries": ("must include every query|must be for the queries", lambda c: not answers_every_query(c)),
    "no true span": (
        "must have at least one true span",
        lambda case: any(not row["relevant_windows"] for row in case["gt"]),
    ),
    "true span reversed": (
        "must start before they end",
        lambda case: any(end < start for row in case["gt"] for start, end in row["relevant_windows"]),
    ),
    "clips beyond the video": (
        "must be among its",
        lambda case: (
            any("pred_saliency_scores" in row for row in case["pred"])
            and any(max(row["relevant_clip_ids"], default=0) >= int(row["duration"] / 2) for row in case["gt"])
        ),
    ),
}


@pytest.mark.parametrize("name", read_cases())
def test_unusual_files_are_scored_as_published_or_rejected_for_their_defect(name: str, tmp_path: Path) -> None:
    case = read_cases()[name]
    if reasons := [reason for reason, is_present in DEFECTS.values() if is_present(case)]:
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
    assert tuple(each and len(each.ids) for each in (moments.full, *moments.by_length.values())) == counts
