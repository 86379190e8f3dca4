"""Moment retrieval: how well the spans that were found in a query's own video agree with the true ones.

One report serves QVHighlights (several true spans a query) and Charades-STA, TACoS, ActivityNet Captions and Ego4D-NLQ
(one). Spans are scored as they are offered: cutting them to the video, rounding and suppression belong to the method.
UMT's numbers for Charades-STA are those of the same spans after Gaussian soft suppression: R@5 differs, for a list that
repeats itself less reaches further. Hand over suppressed spans to get them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.matching import PRECISION_THRESHOLDS, average_precision, find_overlaps, pad_spans
from vidret.metrics.predictions import Prediction, pair

RECALL_THRESHOLDS = (0.3, 0.35, 0.4, 0.45, *PRECISION_THRESHOLDS)
NUM_RECALLED = 5
NUM_RANKED = 10

# Lengths of true spans in seconds, above the first and at most the second number.
Lengths = Mapping[str, tuple[float, float]]
QVHIGHLIGHTS_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
OPEN_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, math.inf)}

_BLOCK = 512  # queries at a time: memory stays flat and one query with many true spans does not pad all others


@dataclass(frozen=True, slots=True, eq=False)
class MomentMetrics:
    """The spans of some queries against their true ones; what the methods give are percentages.

    Attributes:
        ids: The queries.
        average_precision: At each of ``PRECISION_THRESHOLDS``, in 0..1.
        best_overlaps: Column k-1 is the best intersection over union that one of the first k spans has with any true
            span, k up to ``NUM_RECALLED``.
    """

    ids: tuple[str, ...]
    average_precision: Float[np.ndarray, "query threshold"]
    best_overlaps: Float[np.ndarray, "query recalled"]

    def recall(self, threshold: float, num_spans: int = 1) -> float:
        """Give the share of queries of whose first spans one reaches the threshold: R@num_spans."""
        if not 1 <= num_spans <= NUM_RECALLED:
            raise ValueError(f"num_spans must be 1 to {NUM_RECALLED}, got {num_spans}")
        return 100 * float(np.mean(self.best_overlaps[:, num_spans - 1] >= threshold))

    @property
    def mean_overlap(self) -> float:
        """Give the mean intersection over union of the first spans: mIoU."""
        return 100 * float(np.mean(self.best_overlaps[:, 0]))

    @property
    def mean_average_precision(self) -> float:
        """Give the mean over queries and thresholds: MR-mAP."""
        return 100 * float(np.mean(self.average_precision))

    def to_dict(self) -> dict[str, object]:
        """Give the numbers, those at a threshold under its own name."""
        precisions = 100 * self.average_precision.mean(axis=0)
        at = {str(threshold): float(value) for threshold, value in zip(PRECISION_THRESHOLDS, precisions, strict=True)}
        return {
            "num_queries": len(self.ids),
            "mAP": {**at, "average": self.mean_average_precision},
            "R1": {str(threshold): self.recall(threshold) for threshold in RECALL_THRESHOLDS},
            "R5": {str(threshold): self.recall(threshold, NUM_RECALLED) for threshold in RECALL_THRESHOLDS},
            "mIoU": self.mean_overlap,
        }


@dataclass(frozen=True, slots=True, eq=False)
class MomentReport:
    """The metrics of all queries, and of those with true spans of each length, against these true spans alone.

    A length that no true span has is None: absent, neither 0 nor (as in one published evaluator) the number of all.
    """

    full: MomentMetrics
    by_length: Mapping[str, MomentMetrics | None]
    lengths: Lengths

    def to_dict(self) -> dict[str, object]:
        """Give everything for a report, each query's own values too."""
        return {
            "full": self.full.to_dict(),
            **{name: each and each.to_dict() for name, each in self.by_length.items()},
            "lengths": {name: [low, high if high < math.inf else None] for name, (low, high) in self.lengths.items()},
            "per_query": {
                "id": list(self.full.ids),
                "average_precision": self.full.average_precision.tolist(),
                "best_overlaps": self.full.best_overlaps.tolist(),
            },
        }


def score_moments(
    queries: Sequence[LabelledQuery],
    predictions: Sequence[Prediction],
    *,
    lengths: Lengths = QVHIGHLIGHTS_LENGTHS,
) -> MomentReport:
    """Score the spans found for each query in its own video.

    R@k looks at the first k spans as they are listed, whatever their scores; average precision takes the first
    ``NUM_RANKED`` as they are listed and then orders them by score, equals as they are listed. A query for which
    nothing was found is missed.

    Args:
        queries: With their true spans.
        predictions: One for each query, in any order.
        lengths: ``QVHIGHLIGHTS_LENGTHS`` as in the official evaluator, where a span above 150 s is in none;
            ``OPEN_LENGTHS`` as in R2-Tuning's and UniVTG's.

    Raises:
        VidretError: The predictions are not one for each query, one has no spans, or a query has no true span or an
            impossible one.

    Reference:
        Lei et al., QVHighlights (2021), section 5; Lin et al., UniVTG (2023), section 5.1.
    """
    paired = pair(queries, predictions)
    found = [_take_spans(each) for each in paired]
    truths = [take_truths(query) for query in queries]
    groups: Lengths = {"full": (-1, math.inf), **lengths}  # empty true spans too
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {name: [] for name in groups}
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        for name, part in _score_block(found[block], truths[block], groups).items():
            parts[name].append(part)
    scored = {name: _join(queries, part) for name, part in parts.items()}
    full = scored.pop("full")
    assert full is not None  # every query has a true span
    return MomentReport(full, scored, lengths)


def _take_spans(prediction: Prediction) -> Float[np.ndarray, "span 3"]:
    if prediction.spans is None:
        raise VidretError(f"query {prediction.id} must have windows, got saliency scores only")
    return prediction.spans


def take_truths(query: LabelledQuery) -> Float[np.ndarray, "truth 2"]:
    """Give the true spans of a query; there must be one. Benchmarks have a few that are empty, and nobody hits them."""
    truths = np.array(query.spans, dtype=np.float64).reshape(-1, 2)
    if len(truths) == 0:
        raise VidretError(f"query {query.id} must have a true span to be scored against, got none")
    wrong = ~np.isfinite(truths).all(axis=1) | ~(truths[:, 0] <= truths[:, 1])
    if wrong.any():
        raise VidretError(f"true spans of query {query.id} must start before they end, got {truths[wrong][0].tolist()}")
    return truths


def _score_block(
    found: list[Float[np.ndarray, "span 3"]], truths: list[Float[np.ndarray, "truth 2"]], groups: Lengths
) -> dict[str, tuple[Bool[np.ndarray, " query"], Float[np.ndarray, "query threshold"], Float[np.ndarray, "query 5"]]]:
    """Score a few queries for each group: which of them have a true span in it, their precisions and overlaps."""
    true, real = pad_spans(truths, max(map(len, truths)))
    listed, _ = pad_spans([each[:, :2] for each in found], NUM_RECALLED)
    first = [each[:NUM_RANKED] for each in found]
    ranked, _ = pad_spans([each[np.argsort(-each[:, 2], kind="stable"), :2] for each in first], NUM_RANKED)
    listed_overlaps, ranked_overlaps = find_overlaps(listed, true), find_overlaps(ranked, true)
    durations = true[:, :, 1] - true[:, :, 0]
    scored = {}
    for name, (low, high) in groups.items():
        inside = real & (low < durations) & (durations <= high)
        precision = average_precision(ranked_overlaps * inside[:, None], inside.sum(axis=1))
        best = np.maximum.accumulate((listed_overlaps * inside[:, None]).max(axis=2), axis=1)
        scored[name] = inside.any(axis=1), precision, best
    return scored


def _join(
    queries: Sequence[LabelledQuery], parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> MomentMetrics | None:
    kept, precision, best = (np.concatenate(each) for each in zip(*parts, strict=True))
    if not kept.any():
        return None
    ids = tuple(query.id for query, keep in zip(queries, kept, strict=True) if keep)
    return MomentMetrics(ids, precision[kept], best[kept])
