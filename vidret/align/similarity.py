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
    ends = np.cumsum([len(segment) for segment in frames])
    by_segment = np.split(similarities, ends[:-1])
    scores = [np.partition(values, -top)[-top:].mean() if len(values) > top else values.mean() for values in by_segment]
    return np.array(scores, dtype=np.float32), [int(values.argmax()) for values in by_segment]
