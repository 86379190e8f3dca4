"""Recall against the size of the gallery, so that results on galleries of different sizes can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vidret.errors import VidretError
from vidret.metrics.ranks import check_scores

CONFIDENCE = 0.95
MIN_GALLERY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRecall:
    """Recall at one cut in random galleries of one size.

    Attributes:
        size: Number of videos in the gallery.
        k: The K of R@K.
        mean: Mean recall over the galleries, in percent.
        low: Recall below which 2.5 % of the galleries are.
        high: Recall above which 2.5 % of the galleries are.
    """

    size: int
    k: int
    mean: float
    low: float
    high: float


def measure_by_size(
    scores: Float[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"],
    sizes: Sequence[int],
    *,
    cuts: Sequence[int] = (1, 5, 10),
    num_draws: int = 200,
    seed: int = 0,
) -> list[SizeRecall]:
    """Return the text-to-video recall in random parts of the gallery, by size and cut.

    A part is drawn without replacement, and asked for the texts of its videos only. The interval holds 95 % of the
    parts. It says what one gallery of this size may give, and shrinks to nothing at the full size, where there is one.

    Args:
        scores: Scores of texts for videos, higher is better.
        truth: Video index of each text.
        sizes: Sizes of the parts.
        cuts: The K of R@K.
        num_draws: Number of parts of each size.
        seed: Seed of the draws.

    Raises:
        VidretError: A size is below 2 or above that of the gallery, a score is not finite, there is no text, or so few
            that no part of a size has one.
    """
    num_texts, num_videos = scores.shape
    check_scores(scores, range(num_texts))
    if not num_texts:
        raise VidretError("scores must be of at least one text, got none")
    if wrong := [size for size in sizes if not MIN_GALLERY <= size <= num_videos]:
        raise VidretError(f"sizes must be between {MIN_GALLERY} and the {num_videos} videos, got {wrong[0]}")
    own = scores[np.arange(num_texts), truth][:, None]
    better = (scores > own) + np.float32(0.5) * (scores == own)  # equal scores share their mean rank
    better[np.arange(num_texts), truth] = 0
    random = np.random.default_rng(seed)
    found = []
    for size in sizes:
        recalls = _draw(better, truth, size, cuts, num_draws, random)
        if any(not len(values) for values in recalls.values()):
            rule = f"galleries of {size} of {num_videos} videos must hold one with a text"
            raise VidretError(f"{rule}, got none in {num_draws} draws")
        for k, values in recalls.items():
            low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            found.append(SizeRecall(size=size, k=k, mean=float(values.mean()), low=float(low), high=float(high)))
    return found


def choose_sizes(num_videos: int) -> list[int]:
    """Return round sizes up to that of a gallery, which is the last.

    >>> choose_sizes(1000)
    [10, 20, 50, 100, 200, 500, 1000]
    """
    sizes = (factor * 10**power for power in range(1, len(str(num_videos))) for factor in (1, 2, 5))
    return [size for size in sizes if size < num_videos] + [num_videos]


def _draw(
    better: np.ndarray, truth: np.ndarray, size: int, cuts: Sequence[int], num_draws: int, random: np.random.Generator
) -> dict[int, Float[np.ndarray, " draw"]]:
    """Return the recalls of each draw in percent, by cut; draws whose videos have no text are left out."""
    num_videos = better.shape[1]
    members = np.zeros((num_videos, num_draws), np.float32)
    for draw in range(num_draws):
        members[random.choice(num_videos, size, replace=False), draw] = 1
    ranks = 1 + better @ members
    asked = members[truth] > 0
    ranks, asked = ranks[:, asked.any(axis=0)], asked[:, asked.any(axis=0)]
    return {k: 100 * ((ranks <= k) & asked).sum(axis=0) / asked.sum(axis=0) for k in cuts}
