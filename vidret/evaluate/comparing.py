"""Comparison of two reports on the same data by a paired bootstrap over queries, and of encoders by one protocol."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from vidret.encode.encoder import Encoder, EncodingSpeed
from vidret.encode.names import drop_sampling
from vidret.errors import VidretError
from vidret.evaluate.published import CLASSIC
from vidret.metrics.corpus_moments import CORPUS_RANKS, GAIN_OVERLAPS, GAIN_RANKS, PRVR, VCMR
from vidret.metrics.retrieval import PLAIN, discount

CHUNK = 1 << 20  # maximum number of indices drawn at a time
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two means and its confidence interval.

    Attributes:
        difference: mean(a) - mean(b).
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Share of the resamples inside the interval; the others are split equally between its two sides.
        share: Twice the share of resamples in which the difference is 0 or has the other sign, at most 1. Read it as a
            two-sided p-value: it is below 1 - confidence if the interval does not contain 0.
        num_queries: Number of queries.
        num_resamples: Number of resamples.
    """

    difference: float
    low: float
    high: float
    confidence: float
    share: float
    num_queries: int
    num_resamples: int


def compare(
    a: Shaped[np.ndarray, " query"],
    b: Shaped[np.ndarray, " query"],
    *,
    seed: int,
    num_resamples: int = 10_000,
    groups: Int[np.ndarray, " query"] | None = None,
) -> Comparison:
    """Compare two results query by query with a paired bootstrap.

    Each resample draws queries with replacement and compares the means of both results on them, so that the difficulty
    of queries cancels. The interval is the percentile interval.

    Args:
        a: One number or bool per query, such as hits at K, ranks or IoU.
        b: The same for the other result, in the same order.
        seed: Seed of the resampling.
        num_resamples: Number of resamples.
        groups: Group of each query, such as its video. Groups are drawn as a whole: captions of a video are similar,
            and drawing them one by one would make the interval too narrow.

    Raises:
        VidretError: A value is not finite.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 13.3 and 15.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise VidretError("a and b must be finite, got NaN or infinity")
    gains = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    means = _resample(gains, groups, num_resamples, np.random.default_rng(seed))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    share = 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Comparison(
        difference=float(gains.mean()),
        low=float(low),
        high=float(high),
        confidence=CONFIDENCE,
        share=min(share, 1.0),
        num_queries=len(gains),
        num_resamples=num_resamples,
    )


def _resample(gains: Any, groups: Any, num_resamples: int, random: np.random.Generator) -> Any:
    """Return the mean gain of each resample, of groups if given, else of queries."""
    sums, sizes = gains, np.ones(len(gains))
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1]
        sums, sizes = np.bincount(members, weights=gains), np.bincount(members).astype(np.float64)
    chunk_size = max(1, CHUNK // len(sums))
    means = []
    for done in range(0, num_resamples, chunk_size):
        drawn = random.integers(len(sums), size=(min(chunk_size, num_resamples - done), len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)


SIGNIFICANCE = 0.05  # two-sided share of resamples below which a difference counts as significant
COMPARED_FIELDS = ("text", "video", "true")  # fields that must be equal in both reports' rows of a query
Row = Mapping[str, Any]


class Metric(NamedTuple):
    """A number of each query's row, whose mean is the metric; NaN for a query that it is not about."""

    measure: Callable[..., float]
    less_is_better: bool = False


NDCG = "nDCG@10"  # compared if it is the main score of the protocol
RECALLS = {f"R@{k}": Metric(lambda row, k=k: 100.0 * (row["rank"] <= k)) for k in (1, 5, 10)}
METRICS: Mapping[str, Mapping[str, Metric]] = {  # by task
    "retrieval": {**RECALLS, "MnR": Metric(lambda row: row["rank"], less_is_better=True)},
    "composed": RECALLS,
    "moments": {
        **{
            f"R1@{least}": Metric(lambda row, least=least: 100.0 * (row["overlap"] >= least))
            for least in (0.3, 0.5, 0.7)
        },
        "mIoU": Metric(lambda row: 100.0 * row["overlap"]),
        **{
            f"R@{k}, {task}": Metric(
                lambda row, task=task, k=k: 100.0 * (0 < row["corpus"][task] <= k) if "corpus" in row else math.nan
            )
            for task in (*VCMR, PRVR)
            for k in CORPUS_RANKS
        },
    },
    "highlights": {"mAP": Metric(lambda row: 100.0 * row["precision"])},
    "queries": {
        **{
            name: Metric(lambda row, name=name: math.nan if row["video"] is None else 100.0 * row["correct"][name])
            for name in ("R@1", "R@10", "R1@0.5", "hit@1")
        },
        "nothing, if absent": Metric(lambda row: 100.0 * row["nothing"] if row["video"] is None else math.nan),
    },
    "rated": {
        f"nDCG@{k}, IoU {least}": Metric(lambda row, least=least, k=k: row[str(least)][f"nDCG@{k}"])
        for least in GAIN_OVERLAPS
        for k in GAIN_RANKS
    },
    "known-item": {
        "found": Metric(lambda row: 100.0 * (row["found"] is not None)),
        "points": Metric(lambda row: row["points"]),
    },
}


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any], *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare two reports query by query with paired bootstrap intervals of 95 %.

    Captions of the same video are drawn together, since they are not independent. For highlights, mAP is the mean over
    all queries here, not over domains.

    Returns:
        One row per metric: its name, both means, the fields of ``Comparison``, and which report
        is better: ``first``, ``second``, ``neither`` if the difference may be due to chance, or ``identical`` if every
        query has the same value.

    Raises:
        VidretError: The reports have different tasks, protocols, queries or videos.
    """
    if first["task"] != second["task"]:
        raise VidretError(f"reports must have the same task, got {first['task']} and {second['task']}")
    if first["task"] not in METRICS:
        raise VidretError(f"reports to compare must be of {', '.join(METRICS)}, got {first['task']}")
    protocols = [report.get("settings", {}).get("protocol", CLASSIC) for report in (first, second)]
    if protocols[0] != protocols[1]:
        got = " and ".join(protocols)
        raise VidretError(
            f"reports must be by one protocol, since others count other rows, frames and scores, got {got}"
        )
    rows, others = ({row["id"]: row for row in report["per_query"]} for report in (first, second))
    names = [report["data"]["name"] for report in (first, second)]
    if rows.keys() != others.keys() and names[0] != names[1]:
        raise VidretError(f"reports must be on the same data, got {names[0]} and {names[1]}")
    check_same_queries(rows, others)
    check_same_videos(first["data"], second["data"])
    sizes = [report.get("results", {}).get("corpus", {}).get("num_videos") for report in (first, second)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise VidretError(f"reports must be of indexes with equally many videos, got {sizes[0]} and {sizes[1]}")
    metrics = METRICS[first["task"]]
    if first.get("settings", {}).get("metric") == NDCG:
        metrics = {NDCG: Metric(lambda row: 100.0 * float(discount(np.array(row["rank"], np.float64)))), **metrics}
    query_ids = sorted(rows)
    groups = np.unique([rows[query_id].get("video") or query_id for query_id in query_ids], return_inverse=True)[1]
    comparisons = []
    for name, metric in metrics.items():
        a, b = (_measure(metric, [report[query_id] for query_id in query_ids]) for report in (rows, others))
        if not (asked := ~(np.isnan(a) | np.isnan(b))).any():
            continue
        a, b = a[asked], b[asked]
        result = compare(a, b, seed=seed, groups=groups[asked])
        first_wins = (result.difference < 0) == metric.less_is_better
        better = ("first" if first_wins else "second") if result.share < SIGNIFICANCE else "neither"
        if np.array_equal(a, b):
            better = "identical"
        means = {"first": float(a.mean()), "second": float(b.mean())}
        comparisons.append({"metric": name, **means, **asdict(result), "better": better})
    return comparisons


def _measure(metric: Metric, rows: Sequence[Row]) -> Float[np.ndarray, " query"]:
    values = []
    for row in rows:
        try:
            values.append(metric.measure(row))
        except KeyError as error:
            raise VidretError(
                f"reports must have the {error.args[0]} of each query, got none for {row['id']}"
            ) from error
    return np.array(values, np.float64)


def check_same_queries(rows: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that both reports have the same queries, with the same text, video and ground truth."""
    if not rows:
        raise VidretError("reports must have at least one query, got none")
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
    """Check that both reports have the same gallery, since a smaller one is easier."""
    absent = [{*facts["missing"], *facts["failed"]} for facts in (data, other)]
    if data["num_videos"] != other["num_videos"] or absent[0] != absent[1]:
        counts = f"{data['num_found']} and {other['num_found']}"
        differing = sorted(absent[0] ^ absent[1])[:3]
        named = f", missing in one only: {', '.join(differing)}" if differing else ""
        raise VidretError(f"reports must have the same videos, got {counts}{named}")


# The same for all models. The frames, their size, and the prompts are stated per model.
PROTOCOL = (
    "Each video is one segment. Its frames are the closest to the start of each second, reduced evenly to the model's "
    "number, unless its file records another rule, by which it was trained; each is resized as the model was trained. "
    "A video's vector is the mean of its frames' vectors, or the model's own for videos. Captions are encoded as they "
    "are, besides the model's own prompts. A score is a cosine; nothing is reranked, and no hubness is corrected. Of "
    "ties, the mean rank counts. "
    "From video to text, the best caption of a video counts."
)
MAIN = "R@1"


def rate_encoder(encoder: Encoder, speed: EncodingSpeed, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's entry in rating.json: its frames, its speed, and the plain rows of its report."""
    return {
        "name": drop_sampling(encoder.name),
        "frames": encoder.sampling.num_frames,
        "side": encoder.resize.crop,
        "prompts": dict(getattr(encoder, "prompts", {})),
        **asdict(speed),
        "results": {row["direction"]: row for row in report["results"]["rows"] if row["label"] == PLAIN},
    }


def compare_models(rated: Sequence[tuple[str, Mapping[str, Any]]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the comparison of each pair of models by text-to-video R@1, with a paired interval of 95 %.

    Args:
        rated: Name and report of each model.
        seed: Seed of the bootstrap.

    Raises:
        VidretError: The models were not rated on the same videos.
    """
    rows = []
    for (first, report), (second, other) in combinations(rated, 2):
        compared = compare_reports(report, other, seed=seed)
        row = next(comparison for comparison in compared if comparison["metric"] == MAIN)
        rows.append({"models": [first, second], **row})
    return rows
