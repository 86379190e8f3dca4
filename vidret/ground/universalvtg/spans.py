"""From the predictions of UniversalVTG to spans in seconds: the best points, soft-NMS, and a vote of what agrees."""

from collections.abc import Sequence

import numpy as np

from vidret.ground.postprocess import gaussian, soft_nms
from vidret.ground.spans import Span, overlap
from vidret.ground.universalvtg.network import Level

FPS = 2.0  # frames per second that the head reads
LEAST_SCORE, LEAST_FRAMES = 1e-3, 0.1
MOST_POINTS, NUM_SPANS = 2000, 5
SIGMA, AGREEING = 0.9, 0.95


def decode_levels(levels: Sequence[Level], *, duration: float) -> list[Span]:
    """Return up to five spans in seconds, best first, clamped to a video of ``duration`` seconds.

    Each span is the mean, weighted by score, of all predictions whose intersection over union with it is at least .95.
    """
    found = np.concatenate([_list_points(level) for level in levels])
    found = found[(found[:, 2] >= LEAST_SCORE) & (found[:, 1] - found[:, 0] >= LEAST_FRAMES)]
    found = found[np.argsort(-found[:, 2], kind="stable")[:MOST_POINTS]]
    starts, ends, scores = found.T
    order, lowered = soft_nms(starts, ends, scores, gaussian(SIGMA))
    spans = []
    for index, score in zip(order[:NUM_SPANS], lowered[:NUM_SPANS], strict=True):
        if score < LEAST_SCORE:
            break
        votes = scores * (overlap(starts, ends, starts[index], ends[index]) >= AGREEING)
        edges = (votes @ starts, votes @ ends) / votes.sum()
        start, end = ((edges + 0.5) / FPS).clip(0, duration).tolist()
        if end > start:
            spans.append(Span(start, end, float(score)))
    return spans


def _list_points(level: Level) -> np.ndarray:
    """Return the start, end (in frames) and score of each row of a level."""
    offsets = level.offsets.double().cpu().numpy()
    points = np.arange(len(offsets)) * level.stride
    scores = level.logits.double().sigmoid().cpu().numpy()
    return np.stack([points - offsets[:, 0] * level.stride, points + offsets[:, 1] * level.stride, scores], axis=1)
