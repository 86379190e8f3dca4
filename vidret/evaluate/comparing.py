"""Two reports of the same data, held against each other query by query."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from vidret.errors import VidretError
from vidret.metrics.compare import compare
from vidret.metrics.retrieval import hits

Values = Shaped[np.ndarray, " query"]
SURE = 0.05  # the share of resamples below which a difference is no luck
SAME = ("text", "video", "true")  # what must be equal for a query to be the same


class Metric(NamedTuple):
    """What makes of each query's rank or overlap the number that is averaged."""

    measure: Callable[[Values], Values]
    less_is_better: bool = False


# What a task's queries each have, and the metrics of it.
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
    """Compare what two reports say of each query, with paired bootstrap intervals of 95 %.

    Captions of one video are drawn together: they are not independent. The mAP of highlights is here that of all
    queries alike, not of domains.

    Returns:
        A row a metric: its name, both means, what ``vidret.metrics.compare.Comparison`` holds, and which one is better:
        ``first``, ``second``, or ``neither`` where it may be luck.

    Raises:
        VidretError: The reports are not of the same task, queries and videos.
    """
    if first["task"] != second["task"] or first["task"] not in METRICS:
        raise VidretError(f"reports must be of the same task, got {first['task']} and {second['task']}")
    rows, others = ({row["id"]: row for row in report["per_query"]} for report in (first, second))
    check_same(rows, others)
    check_same_videos(first["data"], second["data"])
    key, metrics = METRICS[first["task"]]
    if unlike := [name for name in rows if key not in rows[name] or key not in others[name]]:
        raise VidretError(f"reports must have the {key} of each query, got none for {unlike[0]}")
    ids = sorted(rows)
    values = [np.array([part[name][key] for name in ids], dtype=np.float64) for part in (rows, others)]
    groups = np.unique([rows[name]["video"] for name in ids], return_inverse=True)[1]
    found = []
    for name, metric in metrics.items():
        a, b = (metric.measure(each) for each in values)
        result = compare(a, b, seed=seed, groups=groups)
        first_wins = (result.difference < 0) == metric.less_is_better
        better = ("first" if first_wins else "second") if result.share < SURE else "neither"
        means = {"first": float(a.mean()), "second": float(b.mean())}
        found.append({"metric": name, **means, **result.to_dict(), "better": better})
    return found


def check_same(rows: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse other queries, and queries of the same name that ask something else or have another answer."""
    if alone := sorted(rows.keys() ^ others.keys()):
        raise VidretError(f"reports must be of the same queries, got {len(alone)} in one alone, such as {alone[0]}")
    for name, row in rows.items():
        for fact in SAME:
            if row.get(fact) != others[name].get(fact):
                raise VidretError(
                    f"reports must be of the same queries, got another {fact} of {name}: {row.get(fact)} and "
                    f"{others[name].get(fact)}"
                )


def check_same_videos(data: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse ranks among other videos: the fewer there are, the easier it is."""
    absent = [{*each["missing"], *each["failed"]} for each in (data, other)]
    if data["num_videos"] != other["num_videos"] or absent[0] != absent[1]:
        counts = [each["num_found"] for each in (data, other)]
        raise VidretError(f"reports must be over the same videos, got {counts[0]} and {counts[1]}")
