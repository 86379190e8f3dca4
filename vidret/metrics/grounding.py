"""Moment retrieval: agreement of the spans predicted in a query's video with the true spans."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vidret.data.records import QVHIGHLIGHTS_LENGTHS, LabelledQuery, Lengths
from vidret.errors import VidretError
from vidret.metrics.predictions import Prediction, match_predictions

# Literals, since rounding may put a computed threshold above an overlap that should reach it.
PRECISION_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def temporal_iou(
    predicted: Float[np.ndarray, "*query rank 2"], truths: Float[np.ndarray, "*query truth 2"]
) -> Float[np.ndarray, "*query rank truth"]:
    """Return the intersection over union of predicted and true spans; 0 for empty spans, so pad with [0, 0].

    The union is measured from the first start to the last end, which differs only for disjoint spans, where the
    intersection is 0.
    """
    starts, ends = predicted[..., :, None, 0], predicted[..., :, None, 1]
    true_starts, true_ends = truths[..., None, :, 0], truths[..., None, :, 1]
    intersection = np.maximum(np.minimum(ends, true_ends) - np.maximum(starts, true_starts), 0)
    union = np.maximum(ends, true_ends) - np.minimum(starts, true_starts)
    ratio: Float[np.ndarray, "*query rank truth"] = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return ratio


def average_precision(
    overlaps: Float[np.ndarray, "query rank truth"], num_truths: Int[np.ndarray, " query"]
) -> Float[np.ndarray, "query threshold"]:
    """Return the interpolated average precision of each query at each of ``PRECISION_THRESHOLDS``, in 0..1.

    From the best rank down, each span is matched with the unmatched true span that it overlaps most, the last one in a
    tie. It is a true positive if the overlap reaches the threshold, else a false positive, as is a second span for the
    same true span.

    Args:
        overlaps: Overlaps of spans sorted by score, best first; 0 where a span (after all real ones) or a true span is
            padding.
        num_truths: Number of true spans per query; without any the result is 0.

    Reference:
        Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 4.2; Lei et al., QVHighlights
        (2021), section 5.
    """
    num_queries, num_ranks, max_truths = overlaps.shape
    minimums = np.array(PRECISION_THRESHOLDS)
    correct = np.zeros((num_queries, len(minimums), num_ranks), dtype=bool)
    if overlaps.size == 0:
        return np.zeros((num_queries, len(minimums)))
    unmatched = np.ones((num_queries, len(minimums), max_truths), dtype=bool)
    for rank in range(num_ranks):
        available = np.where(unmatched, overlaps[:, None, rank, :], -1.0)
        best = max_truths - 1 - available[:, :, ::-1].argmax(axis=2)[:, :, None]
        correct[:, :, rank] = np.take_along_axis(available, best, axis=2)[:, :, 0] >= minimums
        still_unmatched = np.take_along_axis(unmatched, best, axis=2) & ~correct[:, :, rank, None]
        np.put_along_axis(unmatched, best, still_unmatched, axis=2)
    precision = correct.cumsum(axis=2) / np.arange(1, num_ranks + 1)  # padding has no effect: last and never correct
    interpolated = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    total = (interpolated * correct).sum(axis=2)
    area: Float[np.ndarray, "query threshold"] = total / np.maximum(num_truths, 1)[:, None]
    return area


def pad_spans(
    spans: list[Float[np.ndarray, "_span 2"]], size: int
) -> tuple[Float[np.ndarray, "query {size} 2"], Bool[np.ndarray, "query {size}"]]:
    """Return spans, truncated or padded with [0, 0] to ``size`` per query, and True where they are real."""
    stacked = np.zeros((len(spans), size, 2))
    real = np.zeros((len(spans), size), dtype=bool)
    for row, query_spans in enumerate(spans):
        num_spans = min(len(query_spans), size)
        stacked[row, :num_spans], real[row, :num_spans] = query_spans[:num_spans], True
    return stacked, real


RECALL_THRESHOLDS = (0.3, 0.35, 0.4, 0.45, *PRECISION_THRESHOLDS)
NUM_RECALLED = 5
NUM_RANKED = 10


@dataclass(frozen=True, slots=True, eq=False)
class MomentMetrics:
    """Scores of queries with their predicted spans. The methods return percentages.

    Attributes:
        ids: Ids of the queries.
        average_precision: Average precision at each of ``PRECISION_THRESHOLDS``, in 0..1.
        best_overlaps: Column k-1 is the highest intersection over union of the first k spans with any true span, for k
            up to ``NUM_RECALLED``.
    """

    ids: tuple[str, ...]
    average_precision: Float[np.ndarray, "query threshold"]
    best_overlaps: Float[np.ndarray, "query recalled"]

    def recall(self, threshold: float, num_spans: int = 1) -> float:
        """Return R@num_spans, the percentage of queries for which one of the first spans reaches the threshold."""
        return 100 * float(np.mean(self.best_overlaps[:, num_spans - 1] >= threshold))

    @property
    def mean_overlap(self) -> float:
        """Return mIoU, the mean intersection over union of the first spans."""
        return 100 * float(np.mean(self.best_overlaps[:, 0]))

    @property
    def mean_average_precision(self) -> float:
        """Return MR-mAP, the mean over queries and thresholds."""
        return 100 * float(np.mean(self.average_precision))

    def to_dict(self) -> dict[str, object]:
        """Return all metrics; those at thresholds as dicts by threshold."""
        precisions = 100 * self.average_precision.mean(axis=0)
        by_threshold = {
            str(threshold): float(value) for threshold, value in zip(PRECISION_THRESHOLDS, precisions, strict=True)
        }
        return {
            "num_queries": len(self.ids),
            "mAP": {**by_threshold, "average": self.mean_average_precision},
            "R1": {str(threshold): self.recall(threshold) for threshold in RECALL_THRESHOLDS},
            "R5": {str(threshold): self.recall(threshold, NUM_RECALLED) for threshold in RECALL_THRESHOLDS},
            "mIoU": self.mean_overlap,
        }


@dataclass(frozen=True, slots=True, eq=False)
class MomentReport:
    """Metrics of all queries, and per range of lengths, where only true spans in the range and their queries count.

    A range without any true span is None, neither 0 nor (as in one published evaluator) the result of all queries.
    """

    full: MomentMetrics
    by_length: Mapping[str, MomentMetrics | None]
    lengths: Lengths

    def to_dict(self) -> dict[str, object]:
        """Return all metrics, for a report."""
        return {
            "full": self.full.to_dict(),
            **{name: metrics and metrics.to_dict() for name, metrics in self.by_length.items()},
            "lengths": {name: [low, high if high < math.inf else None] for name, (low, high) in self.lengths.items()},
        }


def score_moments(
    queries: Sequence[LabelledQuery], predictions: Sequence[Prediction], *, lengths: Lengths = QVHIGHLIGHTS_LENGTHS
) -> MomentReport:
    """Score the spans predicted for each query in its own video.

    R@k uses the first k spans in list order, not by score. Average precision takes the first ``NUM_RANKED``
    spans in list order and sorts them by score, stably. A query with an empty list of spans is a miss.

    Args:
        queries: Queries with their true spans.
        predictions: One prediction per query, in any order.
        lengths: Length ranges to report separately: ``QVHIGHLIGHTS_LENGTHS`` as in the official evaluator, where spans
            above 150 s are in no range, or ``OPEN_LENGTHS`` as in those of R2-Tuning and UniVTG.

    Raises:
        VidretError: There is not exactly one prediction with spans per query, or a query has no or an invalid true
            span.

    Reference:
        Lei et al., QVHighlights (2021), section 5; Lin et al., UniVTG (2023), section 5.1.
    """
    predicted = [_predicted_spans(prediction) for prediction in match_predictions(queries, predictions)]
    truths = [true_spans(query) for query in queries]
    true, real = pad_spans(truths, max(map(len, truths)))
    listed, _ = pad_spans([spans[:, :2] for spans in predicted], NUM_RECALLED)
    first = [spans[:NUM_RANKED] for spans in predicted]
    ranked, _ = pad_spans([spans[np.argsort(-spans[:, 2], kind="stable"), :2] for spans in first], NUM_RANKED)
    listed_overlaps, ranked_overlaps = temporal_iou(listed, true), temporal_iou(ranked, true)
    durations = true[:, :, 1] - true[:, :, 0]

    def score(low: float, high: float) -> MomentMetrics | None:
        """Score the queries that have true spans with lengths in the range, on these spans only."""
        inside = real & (low < durations) & (durations <= high)
        kept = inside.any(axis=1)
        if not kept.any():
            return None
        inside, query_ids = inside[kept], [query.id for query, keep in zip(queries, kept, strict=True) if keep]
        precision = average_precision(ranked_overlaps[kept] * inside[:, None], inside.sum(axis=1))
        best = np.maximum.accumulate((listed_overlaps[kept] * inside[:, None]).max(axis=2), axis=1)
        return MomentMetrics(tuple(query_ids), precision, best)

    full = score(-1, math.inf)  # empty true spans included
    assert full is not None  # every query has a true span
    return MomentReport(full, {name: score(*ends) for name, ends in lengths.items()}, lengths)


def _predicted_spans(prediction: Prediction) -> Float[np.ndarray, "span 3"]:
    if prediction.spans is None:
        raise VidretError(f"query {prediction.id} must have windows, got saliency scores only")
    return prediction.spans


def true_spans(query: LabelledQuery) -> Float[np.ndarray, "truth 2"]:
    """Return the true spans of a query. A few benchmarks have empty spans, which no prediction can match.

    Raises:
        VidretError: The query has no true span, or an invalid one.
    """
    truths = np.array(query.spans, dtype=np.float64).reshape(-1, 2)
    if len(truths) == 0:
        raise VidretError(f"query {query.id} must have at least one true span, got none")
    invalid = ~np.isfinite(truths).all(axis=1) | ~(truths[:, 0] <= truths[:, 1])
    if invalid.any():
        span = truths[invalid][0].tolist()
        raise VidretError(f"true spans of query {query.id} must start before they end, got {span}")
    return truths


MOST = 3  # the largest k of mR@k and mIoU@k
ANY = -1.0  # a minimum overlap that any span reaches


def score_multi_moments(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Score the spans predicted for queries that may have several true spans.

    ``mR@k`` is the share of the true spans, k for each query, that its first k predictions find, averaged over minimum
    overlaps of 0.3 to 0.95; ``mIoU@k`` the mean overlap of these pairs. Both count only queries with at least k true
    spans and k predictions. ``mAP`` has a value each for queries with one, two, and three or more true spans, and each
    number of true spans has equal weight in it; ``G-mAP`` is over all queries.

    Returns:
        Percentages, None if no query counts.

    Raises:
        VidretError: As in ``score_moments``.

    Reference:
        Cao et al., When One Moment Isn't Enough: Multi-Moment Retrieval with Cross-Moment Interactions (2025), and its
        evaluation code.
    """
    precisions = 100 * score_moments(queries, predictions).full.average_precision.mean(axis=1)
    truths = [true_spans(query) for query in queries]
    counts = np.array([len(spans) for spans in truths])
    matched = match_predictions(queries, predictions)
    first = [np.zeros((0, 2)) if one.spans is None else one.spans[:MOST, :2] for one in matched]
    pairs = [temporal_iou(spans, truth) for spans, truth in zip(first, truths, strict=True)]
    scores: dict[str, Any] = {"num_queries": len(queries)}
    for k in range(1, MOST + 1):
        counted = [overlaps[:k] for overlaps in pairs if overlaps.shape[0] >= k and overlaps.shape[1] >= k]
        recalls = [
            np.mean([len(match_spans(one, least)) / k for one in counted]) for least in RECALL_THRESHOLDS if counted
        ]
        scores[f"mR@{k}"] = 100 * float(np.mean(recalls)) if counted else None
        pair_overlaps = [overlap for one in counted for overlap in match_spans(one, ANY)]
        scores[f"mIoU@{k}"] = 100 * float(np.mean(pair_overlaps)) if counted else None
    scores["mAP"] = {
        name: float(np.mean([precisions[counts == count].mean() for count in group])) if len(group) else None
        for name, group in (
            ("1", np.unique(counts[counts == 1])),
            ("2", np.unique(counts[counts == 2])),
            ("3+", np.unique(counts[counts >= MOST])),
        )
    }
    return scores | {"G-mAP": float(precisions.mean())}


def match_spans(overlaps: Float[np.ndarray, "rank truth"], least: float) -> list[float]:
    """Return the overlap of each prediction with its true span; each true span is matched at most once.

    Best first, each prediction is matched with the unmatched true span that it overlaps most, if by ``least`` or more.
    """
    free, matched_overlaps = overlaps.copy(), []
    for rank in range(len(overlaps)):
        best = int(free[rank].argmax())
        if free[rank, best] >= max(least, 0.0):
            matched_overlaps.append(float(free[rank, best]))
            free[:, best] = -np.inf
    return matched_overlaps
