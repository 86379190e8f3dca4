"""Is one better than the other, or was it luck: two results on the same queries, compared by resampling them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from vidret.errors import VidretError

CHUNK = 1 << 20  # drawn numbers at a time


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much higher the mean of a is than that of b, and how sure that is.

    Attributes:
        difference: mean(a) - mean(b).
        low: Lower end of the interval.
        high: Upper end.
        confidence: The share of resamples that the interval holds, as many outside on either side.
        share: Twice the share of resamples in which the difference is 0 or has the other sign, at most 1. It is read
            like a two-sided p-value: below 1 - confidence when the interval does not hold 0.
        num_queries: How many there are.
        num_resamples: How often they were drawn.
    """

    difference: float
    low: float
    high: float
    confidence: float
    share: float
    num_queries: int
    num_resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Give what goes into a report."""
        return asdict(self)


def compare(
    a: Shaped[np.ndarray, " query"],
    b: Shaped[np.ndarray, " query"],
    *,
    seed: int,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    groups: Int[np.ndarray, " query"] | None = None,
) -> Comparison:
    """Compare two results query by query with a paired bootstrap.

    Queries are drawn with replacement, as many as there are, and the means of both compared: what is hard for both
    cancels. The interval is that of percentiles.

    Args:
        a: One number or truth value for each query: hits at K, ranks, IoU.
        b: The same for the other result, in the same order.
        seed: Of the draws.
        num_resamples: How often to draw.
        confidence: Of the interval.
        groups: What queries are drawn together by, such as the video of each of many captions: they are alike, and
            drawn one by one would make the interval too narrow.

    Raises:
        VidretError: The two are not of the same queries, there are none, or a value is not finite.
        ValueError: A setting breaks its rule.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 13.3 and 15.
    """
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"num_resamples must be at least 1 and confidence in 0..1, got {num_resamples} and {confidence}"
        )
    first, second = (np.asarray(each, dtype=np.float64) for each in (a, b))
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise VidretError(f"a and b must be values of the same queries, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise VidretError("a and b must be finite, got NaN or infinity")
    gains = first - second
    means = _resample(gains, groups, num_resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    share = 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Comparison(
        difference=float(gains.mean()),
        low=float(low),
        high=float(high),
        confidence=confidence,
        share=min(share, 1.0),
        num_queries=len(gains),
        num_resamples=num_resamples,
    )


def _resample(gains: Any, groups: Any, num_resamples: int, random: np.random.Generator) -> Any:
    """Give the mean gain of each resample of the groups, or of the queries where there are none."""
    sums, sizes = gains, np.ones(len(gains))
    if groups is not None:
        if np.shape(groups) != gains.shape:
            raise ValueError(f"groups must be one for each of {len(gains)} queries, got {np.shape(groups)}")
        members = np.unique(groups, return_inverse=True)[1]
        sums, sizes = np.bincount(members, weights=gains), np.bincount(members).astype(np.float64)
    rows = max(1, CHUNK // len(sums))
    means = []
    for done in range(0, num_resamples, rows):
        drawn = random.integers(len(sums), size=(min(rows, num_resamples - done), len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)
