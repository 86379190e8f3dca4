"""Significance of the difference between two results on the same queries, by a paired bootstrap."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from vidret.errors import VidretError

CHUNK = 1 << 20  # maximum number of indices drawn at a time


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two means and its confidence interval.

    Attributes:
        difference: mean(a) - mean(b).
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Share of the resamples inside the interval; those outside are split equally between its two sides.
        share: Twice the share of resamples in which the difference is 0 or has the other sign, at most 1. It reads like
            a two-sided p-value: below 1 - confidence when the interval does not contain 0.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for a report."""
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

    Each resample draws queries with replacement and compares the means of both results on them, so that the difficulty
    of queries cancels. The interval is the percentile interval.

    Args:
        a: One number or bool per query, such as hits at K, ranks or IoU.
        b: The same for the other result, in the same order.
        seed: Seed of the resampling.
        num_resamples: Number of resamples.
        confidence: Confidence level of the interval.
        groups: Group of each query. Groups are drawn as a whole, such as all captions of a video, which are similar:
            drawing them one by one would make the interval too narrow.

    Raises:
        VidretError: ``a`` and ``b`` differ in length or are empty, or a value is not finite.
        ValueError: A setting is invalid.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 13.3 and 15.
    """
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"num_resamples must be at least 1 and confidence in 0..1, got {num_resamples} and {confidence}"
        )
    gains = _subtract(a, b)
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


def _subtract(a: Any, b: Any) -> Any:
    """Return a - b for valid values of the same queries."""
    first, second = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise VidretError(f"a and b must have one value per query, equally many, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise VidretError("a and b must be finite, got NaN or infinity")
    return first - second


def _resample(gains: Any, groups: Any, num_resamples: int, random: np.random.Generator) -> Any:
    """Return the mean gain of each resample, of groups if there are any and else of queries."""
    sums, sizes = gains, np.ones(len(gains))
    if groups is not None:
        if np.shape(groups) != gains.shape:
            raise ValueError(f"groups must have one entry for each of {len(gains)} queries, got {np.shape(groups)}")
        members = np.unique(groups, return_inverse=True)[1]
        sums, sizes = np.bincount(members, weights=gains), np.bincount(members).astype(np.float64)
    chunk_size = max(1, CHUNK // len(sums))
    means = []
    for done in range(0, num_resamples, chunk_size):
        drawn = random.integers(len(sums), size=(min(chunk_size, num_resamples - done), len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)
