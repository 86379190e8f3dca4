"""Videos longer than a head was trained on: window after window, each a video of its own, joined in absolute time.

    windows = cut_windows(num_frames, length=75, overlap=25)
    answer = join_results(windows, (ground(window) for window in windows), fps=0.5)

Only one window's tokens need to exist at a time: the memory does not grow with the video.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vidret.ground.head import GroundingResult


class Window(NamedTuple):
    """A stretch of a video's frames: from the one at index ``first`` to before ``last``."""

    first: int
    last: int


def cut_windows(num_frames: int, *, length: int = 75, overlap: int = 25) -> list[Window]:
    """Cut frames into the fewest windows of at most ``length`` frames that share at least ``overlap`` with the next.

    All are of one length, so that none at the end sees too little. A moment of at most ``overlap`` + 1 frames lies
    whole in one of them. The published head was trained on up to 75 frames (150 s).

    Raises:
        ValueError: A number breaks its rule.
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


def join_results(windows: Sequence[Window], answers: Iterable[GroundingResult], *, fps: float) -> GroundingResult:
    """Join the answers of windows to one of the whole video.

    Spans move to where their window is, and are all kept, best first: near-copies are the caller's to suppress, as in
    one window. Where windows overlap, a frame's saliency is the mean of what they say: the greatest would lift frames
    that are seen twice above those that are seen once.

    Args:
        windows: What ``cut_windows`` gives.
        answers: One for each window, in order; taken one at a time.
        fps: Frames a second.

    Raises:
        ValueError: An answer has not one saliency for each frame of its window, or a frame is in no window.
    """
    num_frames = max(window.last for window in windows)
    total, counts, spans = np.zeros(num_frames), np.zeros(num_frames), []
    for window, answer in zip(windows, answers, strict=True):
        if len(answer.saliency) != window.last - window.first:
            raise ValueError(f"saliency must be of {window.last - window.first} frames, got {len(answer.saliency)}")
        total[window.first : window.last] += answer.saliency
        counts[window.first : window.last] += 1
        offset = window.first / fps
        spans.append(answer.spans + np.array([offset, offset, 0], dtype=answer.spans.dtype))
    if not counts.all():
        raise ValueError(f"windows must hold every frame, got none with frame {int(np.argmin(counts))}")
    pooled = np.concatenate(spans)
    best_first = np.argsort(-pooled[:, 2], kind="stable")
    return GroundingResult(pooled[best_first], (total / counts).astype(np.float32))
