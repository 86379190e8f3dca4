"""From what a head says of a video to spans that are ready to be read: clamped, rounded, suppressed."""

import numpy as np
from jaxtyping import Float

from vidret.ground import curve
from vidret.ground.checkpoint import HeadCard
from vidret.ground.head import Answer
from vidret.ground.spans import Span
from vidret.ground.suppression import Fade, gaussian, hard, linear, lower_scores, settle_spans

FADES: dict[str | None, Fade | None] = {"linear": linear, None: None}


def find_highlights(saliency: Float[np.ndarray, " frame"], *, fps: float, duration: float, limit: int) -> list[Span]:
    """Give spans where frames' probabilities stand out, best first.

    The score is the mean of those inside, lowered by the share that a better span has of it.
    """
    times = (np.arange(len(saliency)) + 0.5) / fps
    edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])
    found = curve.find_spans(saliency, times, start=0.0, end=duration, k=limit)
    starts, ends = np.array([span.start for span in found]), np.array([span.end for span in found])
    means = [saliency[(edges[:-1] >= span.start) & (edges[1:] <= span.end)].mean() for span in found]
    order, scores = lower_scores(starts, ends, np.array(means, np.float64), linear)
    return [
        Span(found[place].start, found[place].end, float(score)) for place, score in zip(order, scores, strict=True)
    ]


def settle(answer: Answer, card: HeadCard, *, duration: float) -> list[Span]:
    """Clamp, round and suppress a head's spans as its card says; empty and fully suppressed ones are left out."""
    starts, ends, scores = answer.spans.T
    starts, ends = settle_spans(
        starts, ends, duration=duration, unit=card.unit or None, spare_overrun=card.unit is not None
    )
    real = ends > starts
    starts, ends, scores = starts[real], ends[real], scores[real]
    fade = choose_fade(card)
    order = np.arange(len(scores))
    if fade is not None:
        order, scores = lower_scores(starts, ends, scores, fade)
    return [
        Span(float(starts[place]), float(ends[place]), float(score))
        for place, score in zip(order, scores, strict=True)
        if score > 0
    ]


def choose_fade(card: HeadCard) -> Fade | None:
    """Give the suppression that a head's card names.

    Raises:
        ValueError: It names an unknown one, or a wrong threshold.
    """
    if card.suppression == "hard":
        return hard(0.7 if card.threshold is None else card.threshold)
    if card.suppression == "gaussian":
        return gaussian(0.5 if card.threshold is None else card.threshold)
    if card.suppression not in FADES:
        raise ValueError(f"suppression must be hard, linear or gaussian, got {card.suppression}")
    return FADES[card.suppression]
