"""Similarities of a query with a video's frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

TOP_FRAMES = 4


def score_top_frames(
    sentence: Float[np.ndarray, " dim"], frames: Sequence[Float[np.ndarray, "frame dim"]], *, top: int = TOP_FRAMES
) -> tuple[Float[np.ndarray, " segment"], list[int]]:
    """Score segments by the mean similarity of the ``top`` frames that fit a query best.

    A video may show what is asked for in a few frames only; the best one alone would reward accidents.

    Returns:
        The score of each segment, and the index of its best frame.
    """
    if not frames:
        return np.zeros(0, dtype=np.float32), []
    similarities = np.concatenate(frames) @ sentence
    ends = np.cumsum([len(each) for each in frames])
    parts = np.split(similarities, ends[:-1])
    scores = [np.partition(part, -top)[-top:].mean() if len(part) > top else part.mean() for part in parts]
    return np.array(scores, dtype=np.float32), [int(part.argmax()) for part in parts]
