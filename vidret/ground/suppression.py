"""Suppression of near-copies, and the clamping and rounding that each benchmark asks of spans before it.

To leave near-copies out altogether (Moment-DETR's way), take :func:`vidret.ground.spans.keep_best`. Here they stay in
the list with a lower score (R2-Tuning's way): hard, linear or Gaussian, by the decay that is passed in.

==================================  ==================================================  =============================
benchmark                           ``clip_and_round``                                    decay
==================================  ==================================================  =============================
QVHighlights, DETR family           duration=150, unit=2                                none
Charades-STA, DETR family           duration=150, unit=1                                none
TACoS, DETR family                  unit=2                                              none
QVHighlights, R2-Tuning             duration=its own, unit=2, spare_overrun=True        ``hard(0.7)``
Charades-STA, R2-Tuning             duration=its own, unit=0.1, spare_overrun=True      ``linear``
Ego4D-NLQ and TACoS, R2-Tuning      duration=its own                                    ``linear``
==================================  ==================================================  =============================
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from vidret.ground.spans import overlap

Decay = Callable[[Float[np.ndarray, " span"]], Float[np.ndarray, " span"]]
"""From a span's overlap with a better one, in 0..1, to the factor that its score is left with."""


def hard(threshold: float) -> Decay:
    """Leave nothing of a span that overlaps a better one by ``threshold`` or more, and all of any other."""
    return lambda ratios: (ratios < threshold).astype(ratios.dtype)


def linear(ratios: Float[np.ndarray, " span"]) -> Float[np.ndarray, " span"]:
    """Leave the share that does not overlap."""
    return 1 - ratios


def gaussian(sigma: float = 0.5) -> Decay:
    """Leave exp(-overlap ** 2 / sigma): nearly all of a slight overlap, never nothing."""
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    return lambda ratios: np.exp(-(ratios**2) / sigma)


def soft_nms(
    starts: Float[np.ndarray, " span"],
    ends: Float[np.ndarray, " span"],
    scores: Float[np.ndarray, " span"],
    decay: Decay,
) -> tuple[Int[np.ndarray, " span"], Float[np.ndarray, " span"]]:
    """Lower the score of every span that overlaps a better one; each in turn, the best of those left first.

    Computed in the type of the scores. Two empty spans share nothing, whatever they are: the published R2-Tuning gives
    them the score NaN, and with it the first place.

    Args:
        starts: In seconds.
        ends: In seconds, at or after their starts.
        scores: At least 0, since a factor of 0 must be the lowest there is.
        decay: What an overlap leaves of a score: ``hard(threshold)``, ``linear`` or ``gaussian(sigma)``.

    Returns:
        Indices of all spans, best first by their new score, and the new scores in that order. Equal scores (the zeros
        of ``hard``, above all) come in the order in which swapping each best to the front leaves them, as published.

    Raises:
        ValueError: The three differ in length, or a score is below 0 or NaN.

    Reference:
        Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code (2017), section 3.
    """
    if not len(starts) == len(ends) == len(scores):
        raise ValueError(f"spans must have a score each, got {len(starts)}, {len(ends)} and {len(scores)}")
    if not (scores >= 0).all():
        raise ValueError(f"scores must be at least 0, got {scores[~(scores >= 0)][0]}")
    order, lowered = np.arange(len(scores)), scores.copy()
    for place in range(len(scores)):
        best = place + int(np.argmax(lowered[order[place:]]))
        order[[place, best]] = order[[best, place]]
        top, rest = order[place], order[place + 1 :]
        lowered[rest] *= decay(overlap(starts[rest], ends[rest], starts[top], ends[top]))
    return order, lowered[order]


def clip_and_round(
    starts: Float[np.ndarray, " span"],
    ends: Float[np.ndarray, " span"],
    *,
    duration: float | None = None,
    unit: float | None = None,
    spare_overrun: bool = False,
) -> tuple[Float[np.ndarray, " span"], Float[np.ndarray, " span"]]:
    """Clamp spans to the video, then round their boundaries to whole units, halves to the even one.

    Args:
        starts: In seconds.
        ends: In seconds.
        duration: Boundaries come to lie in 0..duration; no clamping unless given.
        unit: Boundaries become multiples of it, in seconds; no rounding unless given.
        spare_overrun: Do not round a span that reached the duration before clamping: its end is the video's, which is
            seldom a whole unit.

    Returns:
        Starts and ends, in the type they came in. A span may have become empty.
    """
    if spare_overrun and duration is None:
        raise ValueError("spare_overrun must come with a duration, got None")
    if unit is not None and not unit > 0:
        raise ValueError(f"unit must be above 0, got {unit}")
    new_starts, new_ends = starts, ends
    if duration is not None:
        new_starts, new_ends = np.clip(starts, 0, duration), np.clip(ends, 0, duration)
    if unit is not None:
        rounded = np.ones(len(ends), dtype=bool)
        if spare_overrun:
            rounded = ends < duration
        new_starts = np.where(rounded, np.round(new_starts / unit) * unit, new_starts)
        new_ends = np.where(rounded, np.round(new_ends / unit) * unit, new_ends)
    return new_starts, new_ends


def round_spans(
    starts: Float[np.ndarray, " span"], ends: Float[np.ndarray, " span"], scores: Float[np.ndarray, " span"]
) -> list[list[float]]:
    """Give [start, end, score] for each span, to four decimals as submissions of the DETR family have them."""
    return [[float(f"{value:.4f}") for value in row] for row in zip(starts, ends, scores, strict=True)]
