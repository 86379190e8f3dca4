"""Overlapping windows for videos longer than a head was trained on, and joining their results.

    windows = cut_windows(num_frames, length=75, overlap=25)
    result = join_results(windows, (ground(window) for window in windows), fps=0.5)

One window's tokens are needed at a time, so memory does not grow with the video.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vidret.ground.head import GroundingResult


class Window(NamedTuple):
    """The frames of a video from index ``first`` to ``last`` (excluded)."""

    first: int
    last: int


def cut_windows(num_frames: int, *, length: int = 75, overlap: int = 25) -> list[Window]:
    """Return the fewest windows of ``length`` frames of which neighbours overlap by at least ``overlap`` frames.

    A video of at most ``length`` frames is one window. A moment of at most ``overlap`` + 1 frames lies within one
    window. The published head was trained on up to 75 frames (150 s).

    Raises:
        ValueError: ``num_frames`` is not positive, or ``overlap`` is not in 0..``length`` (excluded).
    """
    if num_frames < 1 or not 0 <= overlap < length:
        raise ValueError(
            f"num_frames must be at least 1 and overlap in 0..length (excluded), got {num_frames}, {overlap}, {length}"
        )
    if num_frames <= length:
        return [Window(0, num_frames)]
    num_steps = -(-(num_frames - length) // (length - overlap))
    starts = [step * (num_frames - length) // num_steps for step in range(num_steps + 1)]
    return [Window(start, start + length) for start in starts]


def join_results(windows: Sequence[Window], results: Iterable[GroundingResult], *, fps: float) -> GroundingResult:
    """Join the results of windows into one result of the whole video.

    Spans are shifted by the start of their window and all kept, best first; suppressing duplicates is up to the caller.
    Where windows overlap, saliency is averaged: a maximum would favour frames that are in two windows.

    Args:
        windows: The windows, as ``cut_windows`` returns them.
        results: The result of each window, in order; consumed one at a time.
        fps: Frames per second.

    Raises:
        ValueError: A result's saliency does not match its window, or a frame is in no window.
    """
    num_frames = max(window.last for window in windows)
    total, counts, spans = np.zeros(num_frames), np.zeros(num_frames), []
    for window, result in zip(windows, results, strict=True):
        if len(result.saliency) != window.last - window.first:
            raise ValueError(f"saliency must have {window.last - window.first} frames, got {len(result.saliency)}")
        total[window.first : window.last] += result.saliency
        counts[window.first : window.last] += 1
        offset = window.first / fps
        spans.append(result.spans + np.array([offset, offset, 0], dtype=result.spans.dtype))
    if not counts.all():
        raise ValueError(f"windows must cover every frame, got none with frame {int(np.argmin(counts))}")
    pooled = np.concatenate(spans)
    best_first = np.argsort(-pooled[:, 2], kind="stable")
    return GroundingResult(pooled[best_first], (total / counts).astype(np.float32))
