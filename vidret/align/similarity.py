"""Similarity of a query and the frames of videos."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

TOP_FRAMES = 4


def score_top_frames(
    sentence: Float[np.ndarray, " dim"], frames: Sequence[Float[np.ndarray, "_frame dim"]], *, top: int = TOP_FRAMES
) -> tuple[Float[np.ndarray, " segment"], list[int]]:
    """Score segments by the mean similarity of the ``top`` frames that are most similar to a query.

    A video may show the query's content in a few frames only, and the single best frame may be accidental.

    Returns:
        The score of each segment, and the index of its best frame.
    """
    if not frames:
        return np.zeros(0, dtype=np.float32), []
    similarities = np.concatenate(frames) @ sentence
    lengths = np.array([len(segment) for segment in frames])
    starts = np.cumsum(lengths) - lengths
    scores, best = np.empty(len(frames), np.float32), np.empty(len(frames), np.int64)
    for length in np.unique(lengths):  # segments of as many frames together
        own = np.flatnonzero(lengths == length)
        rows = similarities[starts[own][:, None] + np.arange(length)]
        kept = np.partition(rows, -top, axis=1)[:, -top:] if length > top else rows
        scores[own], best[own] = kept.mean(axis=1), rows.argmax(axis=1)
    return scores, best.tolist()
