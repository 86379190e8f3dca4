"""Matching of predicted and true spans: intersection over union, and average precision of a ranked list."""

import numpy as np
from jaxtyping import Bool, Float, Int

# Literals, since a computed threshold may be a rounding error above an overlap that should reach it.
PRECISION_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def temporal_iou(
    predicted: Float[np.ndarray, "query rank 2"], truths: Float[np.ndarray, "query truth 2"]
) -> Float[np.ndarray, "query rank truth"]:
    """Return the intersection over union of predicted and true spans; 0 for empty spans, so pad with [0, 0].

    The union is measured from the first start to the last end, which differs only for disjoint spans, where the
    intersection is 0.
    """
    starts, ends = predicted[:, :, None, 0], predicted[:, :, None, 1]
    true_starts, true_ends = truths[:, None, :, 0], truths[:, None, :, 1]
    intersection = np.maximum(np.minimum(ends, true_ends) - np.maximum(starts, true_starts), 0)
    union = np.maximum(ends, true_ends) - np.minimum(starts, true_starts)
    ratio: Float[np.ndarray, "query rank truth"] = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return ratio


def average_precision(
    overlaps: Float[np.ndarray, "query rank truth"],
    num_truths: Int[np.ndarray, " query"],
    thresholds: tuple[float, ...] = PRECISION_THRESHOLDS,
) -> Float[np.ndarray, "query threshold"]:
    """Return the interpolated average precision of each query at each threshold, in 0..1.

    From the best rank down, each span is matched with the unmatched true span that it overlaps most; of equal ones, the
    last. It is a true positive if the overlap reaches the threshold, and else a false positive, like a second span for
    the same true span.

    Args:
        overlaps: Overlaps of spans sorted by score, best first; 0 where a span (after all real ones) or a true span is
            padding.
        num_truths: Number of true spans per query; without any the result is 0.
        thresholds: Minimum overlaps, positive.

    Reference:
        Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 4.2; Lei et al., QVHighlights
        (2021), section 5.
    """
    num_queries, num_ranks, max_truths = overlaps.shape
    minimums = np.array(thresholds)
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
