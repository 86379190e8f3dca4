"""Steps of a grounding head in time, and the frames of segments that it reads for them.

Step t covers the seconds from t / fps to (t + 1) / fps after the start of a video. The head reads the frame that was
sampled nearest to its middle, in the segment that the middle lies in. So the frames of a head are those that an index
encodes: indexing and training read the same ones. A frame lies at most half a sampling step of the index from the
middle, more only where a frame is shown for longer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

LONGEST_HOLE_S = 600.0  # between segments, where frames could not be read; a longer one is a gap in the video
_TIE_S = 1e-6


class StepFrames(NamedTuple):
    """Which frame is read for each step: the position of its segment, and which of the segment's steps it is.

    ``has_gap`` says that the video has a gap, and that the steps end before it.
    """

    segments: Int64[np.ndarray, " step"]
    offsets: Int64[np.ndarray, " step"]
    has_gap: bool


def find_steps(start: float, end: float, *, first: float, fps: float) -> range:
    """Return the steps whose middles lie in a segment.

    Args:
        start: Start of the segment in seconds.
        end: End of the segment in seconds.
        first: Start of the video in seconds.
        fps: Steps per second.
    """
    lowest, highest = ((time - first - _TIE_S) * fps - 0.5 for time in (start, end))
    return range(max(0, math.ceil(lowest)), max(0, math.ceil(highest)))


def choose_frames(
    times: Float64[np.ndarray, " frame"], start: float, end: float, *, first: float, fps: float
) -> Int64[np.ndarray, " row"]:
    """Return the index of the frame of a segment that is nearest to the middle of each of its steps.

    A segment without a step has one frame all the same, that nearest to its own middle: a video shorter than half a
    step has no other. Of two frames that are equally near, the earlier one is chosen.

    Args:
        times: Times of the frames in seconds, rising.
        start: See ``find_steps``.
        end: See ``find_steps``.
        first: See ``find_steps``.
        fps: Steps per second.
    """
    steps = np.array(find_steps(start, end, first=first, fps=fps), np.float64)
    wanted = first + (steps + 0.5) / fps if len(steps) else np.array([(start + end) / 2])
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    is_earlier = wanted - times[before] <= times[after] - wanted + _TIE_S
    rows: Int64[np.ndarray, " row"] = np.where(is_earlier, before, after).astype(np.int64)
    return rows


def place_steps(segments: Sequence[tuple[float, float]], *, first: float, fps: float) -> StepFrames:
    """Return the frame of each step of a video, up to its first gap.

    A step whose middle lies in no segment, since its frames could not be read, reads the frame of the step before it;
    at the beginning, the first frame there is.

    Args:
        segments: Start and end of each segment in seconds, in time order; at least one.
        first: Start of the video in seconds.
        fps: Steps per second.
    """
    owners, offsets, end = list[int](), list[int](), first
    for index, segment in enumerate(segments):
        if segment[0] - end > LONGEST_HOLE_S:
            return StepFrames(np.array(owners, np.int64), np.array(offsets, np.int64), has_gap=True)
        steps, end = find_steps(*segment, first=first, fps=fps), segment[1]
        if not len(steps):
            continue
        num_missing = steps.start - len(owners)
        owners += [owners[-1] if owners else index] * num_missing
        offsets += [offsets[-1] if offsets else 0] * num_missing
        owners += [index] * len(steps)
        offsets += range(len(steps))
    return StepFrames(np.array(owners or [0], np.int64), np.array(offsets or [0], np.int64), has_gap=False)
