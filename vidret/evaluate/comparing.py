"""Comparison of two reports on the same data, query by query."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from vidret.errors import VidretError
from vidret.metrics.compare import compare
from vidret.metrics.retrieval import hits

Values = Shaped[np.ndarray, " query"]
SIGNIFICANCE = 0.05  # two-sided share of resamples below which a difference counts as significant
COMPARED_FIELDS = ("text", "video", "true")  # fields that must be equal in both reports' rows of a query


class Metric(NamedTuple):
    """A function of each query's rank, overlap or precision, whose mean is the metric."""

    measure: Callable[[Values], Values]
    less_is_better: bool = False


# By task, the field of a query's row and the metrics computed from it.
METRICS: Mapping[str, tuple[str, Mapping[str, Metric]]] = {
    "retrieval": (
        "rank",
        {
            "R@1": Metric(lambda ranks: 100.0 * hits(ranks, 1)),
            "R@5": Metric(lambda ranks: 100.0 * hits(ranks, 5)),
            "R@10": Metric(lambda ranks: 100.0 * hits(ranks, 10)),
            "MnR": Metric(lambda ranks: ranks, less_is_better=True),
        },
    ),
    "moments": (
        "overlap",
        {
            "R1@0.3": Metric(lambda overlaps: 100.0 * (overlaps >= 0.3)),
            "R1@0.5": Metric(lambda overlaps: 100.0 * (overlaps >= 0.5)),
            "R1@0.7": Metric(lambda overlaps: 100.0 * (overlaps >= 0.7)),
            "mIoU": Metric(lambda overlaps: 100.0 * overlaps),
        },
    ),
    "highlights": ("precision", {"mAP": Metric(lambda precision: 100.0 * precision)}),
}


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any], *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare two reports query by query with paired bootstrap intervals of 95 %.

    Captions of the same video are drawn together, since they are not independent. For highlights, mAP is the mean over
    all queries here, not over domains.

    Returns:
        One row per metric: its name, both means, the fields of ``vidret.metrics.compare.Comparison``, and which report
        is better: ``first``, ``second``, ``neither`` if the difference may be due to chance, or ``identical`` if every
        query has the same value.

    Raises:
        VidretError: The reports have different tasks, queries or videos.
    """
    if first["task"] != second["task"]:
        raise VidretError(f"reports must have the same task, got {first['task']} and {second['task']}")
    if first["task"] not in METRICS:
        raise VidretError(f"reports to compare must be of {', '.join(METRICS)}, got {first['task']}")
    rows, others = ({row["id"]: row for row in report["per_query"]} for report in (first, second))
    check_same_queries(rows, others)
    check_same_videos(first["data"], second["data"])
    key, metrics = METRICS[first["task"]]
    if without := [query_id for query_id in rows if key not in rows[query_id] or key not in others[query_id]]:
        raise VidretError(f"reports must have the {key} of each query, got none for {without[0]}")
    query_ids = sorted(rows)
    values = [np.array([report[each][key] for each in query_ids], dtype=np.float64) for report in (rows, others)]
    groups = np.unique([rows[query_id]["video"] for query_id in query_ids], return_inverse=True)[1]
    comparisons = []
    for name, metric in metrics.items():
        a, b = (metric.measure(each) for each in values)
        result = compare(a, b, seed=seed, groups=groups)
        first_wins = (result.difference < 0) == metric.less_is_better
        better = ("first" if first_wins else "second") if result.share < SIGNIFICANCE else "neither"
        if np.array_equal(a, b):
            better = "identical"
        means = {"first": float(a.mean()), "second": float(b.mean())}
        comparisons.append({"metric": name, **means, **result.to_dict(), "better": better})
    return comparisons


def check_same_queries(rows: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that both reports have the same queries, with the same text, video and ground truth.

    Raises:
        VidretError: They have not.
    """
    if unmatched := sorted(rows.keys() ^ others.keys()):
        count = len(unmatched)
        raise VidretError(f"reports must have the same queries, got {count} in one report only, such as {unmatched[0]}")
    for query_id, row in rows.items():
        for field in COMPARED_FIELDS:
            value, other = row.get(field), others[query_id].get(field)
            if value != other:
                raise VidretError(
                    f"reports must have the same queries, got different {field} of {query_id}: {value} and {other}"
                )


def check_same_videos(data: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Check that both reports have the same gallery, since a smaller one is easier.

    Raises:
        VidretError: They have not.
    """
    absent = [{*each["missing"], *each["failed"]} for each in (data, other)]
    if data["num_videos"] != other["num_videos"] or absent[0] != absent[1]:
        counts = [each["num_found"] for each in (data, other)]
        raise VidretError(f"reports must have the same videos, got {counts[0]} and {counts[1]}")
