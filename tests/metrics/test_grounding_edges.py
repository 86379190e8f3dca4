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


def take_moments(case: Case, folder: Path) -> MomentReport:
    moments, _ = score(case, folder)
    assert moments is not None
    return moments


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
    "no saliency scores": (
        "one per clip",
        lambda case: any(r.get("pred_saliency_scores") == [] for r in case["pred"]),
    ),
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


def check_rejected(name: str, folder: Path, reason: str) -> None:
    with pytest.raises(VidretError, match=reason):
        score(read_cases()[name], folder)


def numbers(moments: MomentReport) -> tuple[float, float]:
    return moments.full.recall(0.5), moments.full.mean_average_precision


def vary(row: dict[str, Any]) -> Case:
    """Return the case without defects plus a fourth query with a true span of 0-6 s, predicted as ``row`` says."""
    perfect = read_cases()["perfect"]
    answer = {**perfect["pred"][0], "qid": 4, **row}
    return {"pred": [*perfect["pred"], answer], "gt": [*perfect["gt"], {**perfect["gt"][0], "qid": 4}], "kwargs": {}}


def test_empty_list_of_windows_is_a_miss(tmp_path: Path) -> None:
    # The official evaluator crashes. A method may find nothing, which is a valid but wrong prediction.
    moments = take_moments(read_cases()["empty_windows_one_query"], tmp_path)
    assert numbers(moments) == (75, 75)


def test_nan_window_is_rejected(tmp_path: Path) -> None:
    # Officially it counts neither as correct nor as wrong, which hides a wrong first span: mAP stays 100.
    assert read_cases()["nan_window"]["result"]["brief"]["MR-full-mAP"] == 100
    check_rejected(
        "nan_window",
        tmp_path,
        r"submission\.jsonl:4: windows of query 4 must have finite times and no NaN score, got \[nan, 6.0, 0.9\]",
    )


def test_nan_score_is_rejected(tmp_path: Path) -> None:
    # NaN has no order: its position after sorting depends on the input order.
    with pytest.raises(
        VidretError, match=r":4: windows of query 4 must have finite times and no NaN score, got \[0.0, 6.0, nan\]"
    ):
        score(vary({"pred_relevant_windows": [[0, 6, math.nan]]}), tmp_path)


def test_infinite_score_is_allowed(tmp_path: Path) -> None:
    check_as_published(*score(read_cases()["inf_score"], tmp_path), read_cases()["inf_score"]["result"])


def test_reversed_window_is_rejected(tmp_path: Path) -> None:
    # Officially its negative length shrinks the union, which allows an overlap of any size.
    with pytest.raises(
        VidretError, match=r":4: windows of query 4 must not end before they start, got \[6.0, 0.0, 0.9\]"
    ):
        score(vary({"pred_relevant_windows": [[6, 0, 0.9]]}), tmp_path)


def test_window_outside_the_video_is_not_clipped(tmp_path: Path) -> None:
    # It is well defined and already loses overlap; clipping it to the video would favour the method.
    check_as_published(*score(read_cases()["out_of_range"], tmp_path), read_cases()["out_of_range"]["result"])
    moments = take_moments(vary({"pred_relevant_windows": [[-6, 6, 0.9]]}), tmp_path)
    assert moments.full.best_overlaps[3, 0] == 0.5


@pytest.mark.wrong_shapes
def test_window_without_score_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=":4: windows of query 4 must be rows of start, end and score"):
        score(vary({"pred_relevant_windows": [[0, 6]]}), tmp_path)


def test_missing_prediction_is_rejected(tmp_path: Path) -> None:
    # As officially. To score a subset, pass its queries only: the report then states how many there are.
    check_rejected("missing_query", tmp_path, "predictions must include every query, but lack 1 of 3, first 3")
    moments = take_moments(read_cases()["missing_query_nomatch_all_buckets"], tmp_path)
    assert len(moments.full.ids) == 3


def test_prediction_without_query_is_rejected(tmp_path: Path) -> None:
    # As officially: the file is most likely that of another split.
    case = {**read_cases()["extra_query_nomatch"], "kwargs": {}}
    with pytest.raises(VidretError, match="predictions must be for the queries only, got 1 others, first 9"):
        score(case, tmp_path)


def test_two_predictions_for_a_query_are_rejected(tmp_path: Path) -> None:
    # Officially mAP pools the windows of both lines, and all other metrics use the last line.
    case = vary({})
    with pytest.raises(VidretError, match=r"submission\.jsonl:5: query 4 must be unique, but is already at .*:4"):
        score({**case, "pred": [*case["pred"], case["pred"][3]]}, tmp_path)


def test_ids_may_be_numbers_or_strings(tmp_path: Path) -> None:
    # The official evaluator crashes.
    check_as_published(*score(read_cases()["string_qids"], tmp_path), read_cases()["perfect"]["result"])


def test_windows_without_saliency_are_scored(tmp_path: Path) -> None:
    moments, highlights = score(read_cases()["only_windows"], tmp_path)
    assert moments is not None
    assert numbers(moments) == (100, 100)
    assert highlights is None


def test_saliency_in_some_rows_only_is_rejected(tmp_path: Path) -> None:
    # The official evaluator crashes too, without naming the row.
    check_rejected("saliency_missing_in_later_row", tmp_path, "query 4 must have saliency scores, got windows only")


def test_query_without_true_span_is_rejected(tmp_path: Path) -> None:
    # The official evaluator crashes. Correctness is undefined, so the annotations must be fixed.
    check_rejected("gt_empty_windows", tmp_path, "query 4 must have at least one true span, got none")


def test_length_range_without_queries_is_none(tmp_path: Path) -> None:
    # The official evaluator crashes; R2-Tuning's reports the result of all queries instead.
    moments = take_moments(read_cases()["empty_bucket"], tmp_path)
    assert moments.by_length["long"] is None
    assert numbers(moments) == (100, 100)


def test_true_span_above_150_s_is_in_no_length_range(tmp_path: Path) -> None:
    moments = take_moments(read_cases()["gt_longer_than_150"], tmp_path)
    assert len(moments.full.ids) == 4
    assert sum(len(each.ids) for each in moments.by_length.values() if each) == 3
