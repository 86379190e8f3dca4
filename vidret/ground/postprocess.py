"""From what a head says of a video to spans that are ready to be read: clamped, rounded, suppressed."""

import numpy as np
from jaxtyping import Float

from vidret.ground import curve
from vidret.ground.checkpoint import HeadCard
from vidret.ground.head import GroundingResult
from vidret.ground.spans import Span
from vidret.ground.suppression import Decay, clip_and_round, gaussian, hard, linear, soft_nms

DECAYS: dict[str | None, Decay | None] = {"linear": linear, None: None}


def find_highlights(saliency: Float[np.ndarray, " frame"], *, fps: float, duration: float, limit: int) -> list[Span]:
    """Give spans where frames' probabilities stand out, best first.

    The score is the mean of those inside, lowered by the share that a better span has of it.
    """
    times = (np.arange(len(saliency)) + 0.5) / fps
    edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])
    found = curve.find_spans(saliency, times, start=0.0, end=duration, k=limit)
    starts, ends = np.array([span.start for span in found]), np.array([span.end for span in found])
    means = [saliency[(edges[:-1] >= span.start) & (edges[1:] <= span.end)].mean() for span in found]
    order, scores = soft_nms(starts, ends, np.array(means, np.float64), linear)
    return [
        Span(found[place].start, found[place].end, float(score)) for place, score in zip(order, scores, strict=True)
    ]


def postprocess_spans(answer: GroundingResult, card: HeadCard, *, duration: float) -> list[Span]:
    """Clamp, round and suppress a head's spans as its card says; empty and fully suppressed ones are left out."""
    starts, ends, scores = answer.spans.T
    starts, ends = clip_and_round(
        starts, ends, duration=duration, unit=card.unit or None, spare_overrun=card.unit is not None
    )
    real = ends > starts
    starts, ends, scores = starts[real], ends[real], scores[real]
    decay = choose_decay(card)
    order = np.arange(len(scores))
    if decay is not None:
        order, scores = soft_nms(starts, ends, scores, decay)
    return [
        Span(float(starts[place]), float(ends[place]), float(score))
        for place, score in zip(order, scores, strict=True)
        if score > 0
    ]


def choose_decay(card: HeadCard) -> Decay | None:
    """Give the suppression that a head's card names.

    Raises:
        ValueError: It names an unknown one, or a wrong threshold.
    """
    if card.suppression == "hard":
        return hard(0.7 if card.threshold is None else card.threshold)
    if card.suppression == "gaussian":
        return gaussian(0.5 if card.threshold is None else card.threshold)
    if card.suppression not in DECAYS:
        raise ValueError(f"suppression must be hard, linear or gaussian, got {card.suppression}")
    return DECAYS[card.suppression]
