"""Statistical significance: the AUROC of phrases with a permutation test, accuracies with intervals, calibration.

References:
    Dunlap et al. 2024, "Describing Differences in Image Sets with Natural Language" (VisDiff), whose order of phrases
        this is. VisDiff reports Welch's t test of a single phrase; here the test fits the AUROC and counts phrases.
    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vidret.errors import VidretError
from vidret.types import Shown, show_property

ALPHA = 0.05
NUM_BINS = 5  # of confidence
MAX_EXACT = 100  # items of both sets up to which all permutations are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseDifference:
    """How well the phrase at an index sets the first set apart from the second, with its mean scores in both.

    ``auroc`` is the probability that it fits an item of the first set better than one of the second; ties count half.
    ``p_value`` is the two-sided one of the permutation test, ``adjusted_p`` that after Holm's correction for the number
    of phrases.
    """

    index: int
    auroc: float
    mean_a: float
    mean_b: float
    p_value: float
    adjusted_p: float


def rank_phrases(
    scores_a: Float[np.ndarray, "phrase item_a"], scores_b: Float[np.ndarray, "phrase item_b"]
) -> list[PhraseDifference]:
    """Rank phrases by how much better they fit the first set than the second; equal ones keep their order.

    Items must be independent for the p-values to hold: one per video, not one per segment. Raise VidretError if a set
    is empty, or a score is not finite.
    """
    aurocs, p_values = measure_separation(scores_a, scores_b)
    adjusted = correct_holm(p_values)
    mean_a, mean_b = scores_a.mean(axis=1, dtype=np.float64), scores_b.mean(axis=1, dtype=np.float64)
    return [
        PhraseDifference(
            index=int(index),
            auroc=float(aurocs[index]),
            mean_a=float(mean_a[index]),
            mean_b=float(mean_b[index]),
            p_value=float(p_values[index]),
            adjusted_p=float(adjusted[index]),
        )
        for index in np.argsort(-aurocs, kind="stable")
    ]


def measure_separation(
    scores_a: Float[np.ndarray, "phrase item_a"], scores_b: Float[np.ndarray, "phrase item_b"]
) -> tuple[Float[np.ndarray, " phrase"], Float[np.ndarray, " phrase"]]:
    """Return the AUROC of each phrase and the p-value of its permutation test.

    The AUROC is a sum of ranks. Up to 100 items its distribution over all permutations of the labels is counted, ties
    included, so that p-values have no noise and no floor; beyond, it is the normal limit with the variance of ties.
    Raise VidretError if a set is empty, or a score is not finite.
    """
    num_a, num_b = scores_a.shape[1], scores_b.shape[1]
    if not num_a or not num_b:
        raise VidretError(f"both sets must have items to be compared, got {num_a} and {num_b}")
    aurocs, p_values = np.empty(len(scores_a)), np.empty(len(scores_a))
    for row, (row_a, row_b) in enumerate(zip(scores_a, scores_b, strict=True)):
        scores = np.concatenate([row_a, row_b])
        if not np.isfinite(scores).all():
            raise VidretError(f"scores must be finite, got {np.count_nonzero(~np.isfinite(scores))} NaN or infinite")
        doubled, counts = _rank_doubled(scores)
        total = int(doubled[:num_a].sum())
        aurocs[row] = (total / 2 - num_a * (num_a + 1) / 2) / (num_a * num_b)
        if num_a + num_b <= MAX_EXACT:
            p_values[row] = _count_permutations(tuple(sorted(doubled.tolist())), num_a)[total]
        else:
            p_values[row] = _approximate(total, num_a, num_b, counts)
    return aurocs, p_values


def correct_holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return p-values after Holm's step-down correction, which bounds the chance of any false claim.

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def count_needed(num_phrases: int) -> int:
    """Return the least size of each set with which one phrase of ``num_phrases`` can be significant.

    A perfect separation of n from n items has the two-sided p-value 2 / C(2n, n), which Holm's correction multiplies by
    the number of phrases.
    """
    size = 1
    while not can_be_significant(size, size, num_phrases):
        size += 1
    return size


def can_be_significant(num_a: int, num_b: int, num_phrases: int) -> bool:
    """Return whether a perfect separation of sets of these sizes is significant after Holm's correction."""
    return 2 * num_phrases / ALPHA < math.comb(num_a + num_b, num_a)  # an int that may exceed all floats


def _rank_doubled(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return twice the mean rank of each score, which is an integer, and the size of each group of equal scores."""
    order = np.argsort(scores, kind="stable")
    is_first = np.concatenate([[True], np.diff(scores[order]) > 0])
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(scores)))
    doubled = np.empty(len(scores), np.int64)
    doubled[order] = np.repeat(2 * starts + counts + 1, counts)
    return doubled, counts


@lru_cache(maxsize=64)
def _count_permutations(doubled: Sequence[int], num_a: int) -> np.ndarray:
    """Return the two-sided p-value of every sum that ``num_a`` of these doubled ranks can have."""
    most = sum(doubled)
    ways = np.zeros((num_a + 1, most + 1))  # [how many ranks, their sum], as shares so that nothing overflows
    ways[0, 0] = 1.0
    for position, rank in enumerate(doubled):
        largest = min(num_a, position + 1)
        ways[1 : largest + 1, rank:] += ways[:largest, : most + 1 - rank].copy()
        ways *= 0.5
    shares = ways[num_a] / ways[num_a].sum()
    distances = np.abs(np.arange(most + 1) * len(doubled) - num_a * most)  # from the mean, in exact integers
    inverse = np.unique(distances, return_inverse=True)[1]
    tails: np.ndarray = np.cumsum(np.bincount(inverse, weights=shares)[::-1])[::-1]
    p_values: np.ndarray = np.minimum(tails[inverse], 1.0)
    return p_values


def _approximate(doubled_total: int, num_a: int, num_b: int, counts: np.ndarray) -> float:
    """Return the two-sided p-value of a rank sum by the normal distribution, with the continuity correction."""
    size = num_a + num_b
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = num_a * num_b / 12 * (size + 1 - ties / (size * (size - 1)))
    if variance <= 0:
        return 1.0
    distance = abs(doubled_total / 2 - num_a * (size + 1) / 2)
    return min(1.0, math.erfc(max(distance - 0.5, 0.0) / math.sqrt(2 * variance)))


CHANCE = 50.0
MIN_TRIALS = 20  # for a claim: with fewer the interval is wider than 40 points
TRUSTED = 75.0  # percent, that the whole interval is above
Z95 = 1.959963984540054
Verdict = Literal["too few", "trusted", "better than chance", "chance", "misled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The share of trials that were right, in percent, with its 95 % interval; ties count half."""

    num_trials: int
    percent: float
    low: float
    high: float

    @property
    @show_property(Shown())
    def verdict(self) -> Verdict:
        """Whether answers like these can be trusted."""
        if self.num_trials < MIN_TRIALS:
            return "too few"
        if self.low > TRUSTED:
            return "trusted"
        if self.low > CHANCE:
            return "better than chance"
        return "misled" if self.high < CHANCE else "chance"


def measure_accuracy(margins: Float[np.ndarray, " trial"], groups: np.ndarray | None = None) -> Accuracy:
    """Return the share of positive margins (the right answer's score less the wrong one's); zeros count half.

    ``groups`` has the group of each trial, such as its pair of videos. Trials of a group are not independent, so the
    interval is that of as many trials as there are groups. Raise VidretError if there is no trial, or a margin is not
    finite.
    """
    if not len(margins) or not np.isfinite(margins).all():
        raise VidretError(f"margins must be finite and at least 1, got {len(margins)}")
    share = float((margins > 0).mean() + (margins == 0).mean() / 2)
    low, high = find_wilson_interval(share, len(margins) if groups is None else len(np.unique(groups)))
    return Accuracy(num_trials=len(margins), percent=100 * share, low=100 * low, high=100 * high)


def find_wilson_interval(share: float, num_trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of independent trials."""
    width = Z95**2 / num_trials
    middle = (share + width / 2) / (1 + width)
    half = Z95 * math.sqrt(share * (1 - share) / num_trials + width / (4 * num_trials)) / (1 + width)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Answers of similar confidence: their number, their mean confidence, and the share that was right."""

    num_answers: int
    confidence: float
    share: float


def measure_reliability(
    confidences: Float[np.ndarray, " answer"], is_right: Bool[np.ndarray, " answer"]
) -> tuple[tuple[ReliabilityBin, ...], float]:
    """Return the fifths of the range of confidence that have answers, and the expected calibration error.

    Raise VidretError if a confidence is not in 0..1, or there is none.
    """
    if not len(confidences) or not ((confidences >= 0) & (confidences <= 1)).all():
        raise VidretError(f"confidences must be in 0..1 and at least 1, got {len(confidences)}")
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
    reliability_bins = tuple(
        ReliabilityBin(
            num_answers=int((bins == bin_index).sum()),
            confidence=float(confidences[bins == bin_index].mean()),
            share=float(is_right[bins == bin_index].mean()),
        )
        for bin_index in np.unique(bins)
    )
    error = sum(bin_.num_answers * abs(bin_.confidence - bin_.share) for bin_ in reliability_bins) / len(confidences)
    return reliability_bins, error
