"""Post-processing of a head's results: spans clamped, rounded, suppressed and weighed, and spans of highlights.

Soft-NMS lowers the scores of spans that overlap better ones by a decay: hard, linear or Gaussian. R2-Tuning has
``hard(0.7)`` for QVHighlights, and ``linear`` for Charades-STA, Ego4D-NLQ and TACoS.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from vidret.ground.curve import find_spans, mean_inside
from vidret.ground.spans import Span, overlap
from vidret.types import Curve

if TYPE_CHECKING:
    from vidret.ground.checkpoint import HeadCard
    from vidret.ground.head import GroundingResult

Decay = Callable[[Float[np.ndarray, " span"]], Float[np.ndarray, " span"]]
"""A function from a span's overlap with a better one, in 0..1, to the factor of its score."""


def hard(threshold: float) -> Decay:
    """Return a decay that is 0 from an overlap of ``threshold`` on, and 1 below."""
    return lambda ratios: (ratios < threshold).astype(ratios.dtype)


def linear(ratios: Float[np.ndarray, " span"]) -> Float[np.ndarray, " span"]:
    """Decay linearly: 1 - overlap."""
    return 1 - ratios


def gaussian(sigma: float = 0.5) -> Decay:
    """Return the Gaussian decay exp(-overlap ** 2 / sigma)."""
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    return lambda ratios: np.exp(-(ratios**2) / sigma)


def soft_nms(
    starts: Float[np.ndarray, " span"],
    ends: Float[np.ndarray, " span"],
    scores: Float[np.ndarray, " span"],
    decay: Decay,
) -> tuple[Int[np.ndarray, " span"], Float[np.ndarray, " span"]]:
    """Lower the scores of spans that overlap better ones, from the best remaining span down (soft-NMS).

    Scores keep their dtype. Empty spans have no overlap; the published R2-Tuning gives them the score NaN, which ranks
    first.

    Returns:
        Indices of all spans by lowered score, best first, and the lowered scores in that order. Ties (mostly zeros of
        ``hard``) are in the order that swapping each best span to the front produces, as published.

    Raises:
        ValueError: The arrays differ in length, or a score is negative or NaN.

    Reference:
        Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code (2017), section 3.
    """
    if not len(starts) == len(ends) == len(scores):
        raise ValueError(
            f"starts, ends and scores must have equal length, got {len(starts)}, {len(ends)} and {len(scores)}"
        )
    if not (scores >= 0).all():
        raise ValueError(f"scores must be at least 0, got {scores[~(scores >= 0)][0]}")
    order, lowered = np.arange(len(scores)), scores.copy()
    for rank in range(len(scores)):
        best = rank + int(np.argmax(lowered[order[rank:]]))
        order[[rank, best]] = order[[best, rank]]
        top, rest = order[rank], order[rank + 1 :]
        lowered[rest] *= decay(overlap(starts[rest], ends[rest], starts[top], ends[top]))
    return order, lowered[order]


def clip_and_round(
    starts: Float[np.ndarray, " span"], ends: Float[np.ndarray, " span"], *, duration: float, unit: float | None
) -> tuple[Float[np.ndarray, " span"], Float[np.ndarray, " span"]]:
    """Clamp spans to a video, then round their boundaries to multiples of a unit, half to even; None for no rounding.

    Spans that reach the end of the video are not rounded: it is rarely a multiple of the unit.

    Returns:
        Starts and ends in their dtype; spans may become empty.

    Raises:
        ValueError: ``unit`` is not positive.
    """
    clamped = np.clip(starts, 0, duration), np.clip(ends, 0, duration)
    if unit is None:
        return clamped
    if not unit > 0:
        raise ValueError(f"unit must be positive, got {unit}")
    new_starts, new_ends = (np.where(ends < duration, np.round(times / unit) * unit, times) for times in clamped)
    return new_starts, new_ends


def find_highlights(saliency: Float[np.ndarray, " frame"], *, fps: float, duration: float, limit: int) -> list[Span]:
    """Return the spans where saliency stands out, best first.

    A span's score is the mean saliency inside, lowered linearly by its overlap with better spans (soft-NMS). It is at
    least 0: saliency is negative where frames are unlike the query.
    """
    times = (np.arange(len(saliency)) + 0.5) / fps
    edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])
    spans = find_spans(saliency, times, start=0.0, end=duration, k=limit)
    starts, ends = np.array([span.start for span in spans]), np.array([span.end for span in spans])
    means = [saliency[(edges[:-1] >= span.start) & (edges[1:] <= span.end)].mean() for span in spans]
    order, scores = soft_nms(starts, ends, np.maximum(means, 0.0, dtype=np.float64), linear)
    return [
        Span(spans[index].start, spans[index].end, float(score)) for index, score in zip(order, scores, strict=True)
    ]


def postprocess_spans(result: "GroundingResult", card: "HeadCard", *, duration: float) -> list[Span]:
    """Return a head's spans clamped to ``duration`` seconds, rounded and suppressed as its card says, best first.

    Empty spans and spans with score 0 are dropped.
    """
    starts, ends, scores = result.spans.T
    starts, ends = clip_and_round(starts, ends, duration=duration, unit=card.unit or None)
    real = ends > starts
    starts, ends, scores = starts[real], ends[real], scores[real]
    decay = choose_decay(card)
    order = np.arange(len(scores))
    if decay is not None:
        order, scores = soft_nms(starts, ends, scores, decay)
    return [
        Span(float(starts[index]), float(ends[index]), float(score))
        for index, score in zip(order, scores, strict=True)
        if score > 0
    ]


def weigh_by_similarity(spans: Sequence[Span], curve: Curve, weight: float) -> list[Span]:
    """Return spans whose scores also depend on how similar to the query their frames are, best first.

    A score is multiplied by exp(weight * similarity). The similarity is the mean of the curve inside the span, in
    standard deviations of the curve over the video. All scores are then divided by one factor, with which the best
    span keeps its own score.

    A head trained on few videos may find the right boundaries and yet confuse an action with its opposite, which an
    encoder trained on many can tell apart.
    """
    deviation = float(curve.scores.std())
    if not spans or deviation == 0:
        return list(spans)
    similarities = np.array([mean_inside(curve, span) for span in spans]) / deviation
    logits = np.log([span.score for span in spans]) + weight * similarities
    order = np.argsort(-logits, kind="stable")
    scores = spans[order[0]].score * np.exp(logits - logits[order[0]])
    return [Span(spans[index].start, spans[index].end, float(scores[index])) for index in order]


def choose_decay(card: "HeadCard") -> Decay | None:
    """Return the decay of soft-NMS that a card names, or None for no suppression.

    Raises:
        ValueError: The suppression is unknown, or its threshold is invalid.
    """
    match card.suppression:
        case None:
            return None
        case "hard":
            return hard(0.7 if card.threshold is None else card.threshold)
        case "linear":
            return linear
        case "gaussian":
            return gaussian(0.5 if card.threshold is None else card.threshold)
    raise ValueError(f"suppression must be hard, linear or gaussian, got {card.suppression}")
