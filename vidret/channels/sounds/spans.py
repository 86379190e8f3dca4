"""Runs of frames in which a sound is heard, as spans in time."""

import numpy as np
from jaxtyping import Float

IndexSpan = tuple[int, int]  # first frame, and the one after the last


def find_runs(
    scores: Float[np.ndarray, " frame"], *, threshold: float, close_gaps: float, min_length: float
) -> list[IndexSpan]:
    """Return the maximal runs of frames above a threshold.

    Args:
        scores: One score a frame.
        threshold: Scores must be strictly greater, as in PE-A-Frame.
        close_gaps: Runs with fewer frames between them become one.
        min_length: Runs of fewer frames are dropped, after gaps are closed.
    """
    is_heard = np.concatenate([[False], scores > threshold, [False]])
    starts, ends = (np.flatnonzero(is_heard[1:] & ~is_heard[:-1]), np.flatnonzero(is_heard[:-1] & ~is_heard[1:]))
    runs: list[IndexSpan] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if runs and start - runs[-1][1] < close_gaps:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return [(start, end) for start, end in runs if end - start >= min_length]
