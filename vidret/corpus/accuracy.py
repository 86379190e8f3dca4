"""Numbers of probes: accuracies with intervals, and how well a confidence is calibrated.

References:
    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vidret.errors import VidretError

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
    """Return the share of positive margins; zeros count half.

    Args:
        margins: The score of each right answer less that of the wrong one.
        groups: What each trial belongs to, such as its pair of videos: trials of a group are not independent, so that
            the interval is that of as many trials as there are groups. None if all are independent.

    Raises:
        VidretError: There is no trial, or a margin is not finite.
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
    confidences: Float[np.ndarray, " answer"], is_right: Bool[np.ndarray, " answer"], num_bins: int = 5
) -> tuple[tuple[ReliabilityBin, ...], float]:
    """Return the bins of confidence that have answers, and the expected calibration error.

    Raises:
        VidretError: A confidence is not in 0..1, or there is none.
    """
    if not len(confidences) or not ((confidences >= 0) & (confidences <= 1)).all():
        raise VidretError(f"confidences must be in 0..1 and at least 1, got {len(confidences)}")
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    found = tuple(
        ReliabilityBin(
            num_answers=int((bins == bin_index).sum()),
            confidence=float(confidences[bins == bin_index].mean()),
            share=float(is_right[bins == bin_index].mean()),
        )
        for bin_index in np.unique(bins)
    )
    error = sum(bin_.num_answers * abs(bin_.confidence - bin_.share) for bin_ in found) / len(confidences)
    return found, error
