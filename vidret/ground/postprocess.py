"""Post-processing of a head's results: spans clamped, rounded, suppressed and weighed, and spans of highlights."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vidret.ground.checkpoint import HeadCard
from vidret.ground.curve import find_spans, mean_inside
from vidret.ground.head import GroundingResult
from vidret.ground.spans import Span
from vidret.ground.suppression import Decay, clip_and_round, gaussian, hard, linear, soft_nms
from vidret.types import Curve

DECAYS: dict[str | None, Decay | None] = {"linear": linear, None: None}


def find_highlights(saliency: Float[np.ndarray, " frame"], *, fps: float, duration: float, limit: int) -> list[Span]:
    """Return the spans where saliency stands out, best first.

    A span's score is the mean saliency inside, lowered linearly by its overlap with better spans (soft-NMS).
    """
    times = (np.arange(len(saliency)) + 0.5) / fps
    edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])
    spans = find_spans(saliency, times, start=0.0, end=duration, k=limit)
    starts, ends = np.array([span.start for span in spans]), np.array([span.end for span in spans])
    means = [saliency[(edges[:-1] >= span.start) & (edges[1:] <= span.end)].mean() for span in spans]
    order, scores = soft_nms(starts, ends, np.array(means, np.float64), linear)
    return [
        Span(spans[index].start, spans[index].end, float(score)) for index, score in zip(order, scores, strict=True)
    ]


def postprocess_spans(result: GroundingResult, card: HeadCard, *, duration: float) -> list[Span]:
    """Return a head's spans clamped to ``duration`` seconds, rounded and suppressed as its card says, best first.

    Empty spans and spans with score 0 are dropped.
    """
    starts, ends, scores = result.spans.T
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


def choose_decay(card: HeadCard) -> Decay | None:
    """Return the decay of soft-NMS that a card names, or None for no suppression.

    Raises:
        ValueError: The suppression is unknown, or its threshold is invalid.
    """
    if card.suppression == "hard":
        return hard(0.7 if card.threshold is None else card.threshold)
    if card.suppression == "gaussian":
        return gaussian(0.5 if card.threshold is None else card.threshold)
    if card.suppression not in DECAYS:
        raise ValueError(f"suppression must be hard, linear or gaussian, got {card.suppression}")
    return DECAYS[card.suppression]
