"""Found spans against true ones: how much they share, and how precise a ranked list of them is."""

import numpy as np
from jaxtyping import Bool, Float, Int

# Written out: a threshold that is computed can lie a rounding error above an overlap that should reach it.
PRECISION_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def find_overlaps(
    found: Float[np.ndarray, "query rank 2"], truths: Float[np.ndarray, "query truth 2"]
) -> Float[np.ndarray, "query rank truth"]:
    """Give the intersection over union of the spans of each query; an empty span shares nothing, so pad with [0, 0].

    The union is taken from the first start to the last end, which differs from the true union only for spans that are
    apart, and they share nothing.
    """
    starts, ends = found[:, :, None, 0], found[:, :, None, 1]
    true_starts, true_ends = truths[:, None, :, 0], truths[:, None, :, 1]
    shared = np.maximum(np.minimum(ends, true_ends) - np.maximum(starts, true_starts), 0)
    joined = np.maximum(ends, true_ends) - np.minimum(starts, true_starts)
    ratio: Float[np.ndarray, "query rank truth"] = np.divide(
        shared, joined, out=np.zeros_like(shared), where=joined > 0
    )
    return ratio


def average_precision(
    overlaps: Float[np.ndarray, "query rank truth"],
    num_truths: Int[np.ndarray, " query"],
    thresholds: tuple[float, ...] = PRECISION_THRESHOLDS,
) -> Float[np.ndarray, "query threshold"]:
    """Give the area under each query's curve of precision over recall, precision made to fall only, in 0..1.

    From the best rank down, a span takes the true span that is still free and that it shares most with; of equals the
    last. It is right if they share at least the threshold, else wrong, and so is a second one for the same true span.

    Args:
        overlaps: Spans in the order of their scores, best first; 0 where the span (after all real ones) or the true
            span is padding.
        num_truths: How many true spans each query has; with none it is 0.
        thresholds: Above 0.

    Reference:
        Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 4.2; Lei et al., QVHighlights
        (2021), section 5.
    """
    num_queries, num_ranks, num_all = overlaps.shape
    levels = np.array(thresholds)
    right = np.zeros((num_queries, len(levels), num_ranks), dtype=bool)
    if overlaps.size == 0:
        return np.zeros((num_queries, len(levels)))
    free = np.ones((num_queries, len(levels), num_all), dtype=bool)
    for rank in range(num_ranks):
        left = np.where(free, overlaps[:, None, rank, :], -1.0)
        best = num_all - 1 - left[:, :, ::-1].argmax(axis=2)[:, :, None]
        right[:, :, rank] = np.take_along_axis(left, best, axis=2)[:, :, 0] >= levels
        np.put_along_axis(free, best, np.take_along_axis(free, best, axis=2) & ~right[:, :, rank, None], axis=2)
    precision = right.cumsum(axis=2) / np.arange(1, num_ranks + 1)  # padding is last and never right: no matter
    falling = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    area: Float[np.ndarray, "query threshold"] = (falling * right).sum(axis=2) / np.maximum(num_truths, 1)[:, None]
    return area


def pad_spans(
    spans: list[Float[np.ndarray, "span 2"]], size: int
) -> tuple[Float[np.ndarray, "query size 2"], Bool[np.ndarray, "query size"]]:
    """Stack lists of spans, each cut or filled up with [0, 0] to one size, and say which are real."""
    stacked = np.zeros((len(spans), size, 2))
    real = np.zeros((len(spans), size), dtype=bool)
    for row, each in enumerate(spans):
        num = min(len(each), size)
        stacked[row, :num], real[row, :num] = each[:num], True
    return stacked, real
