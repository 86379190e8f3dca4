"""Which frames to look at: index and time arithmetic, without reading any file.

Rules that choose by count (``uniform``, ``segment_centre``, ``clip4clip``) answer with frame indices, rules that choose
by the clock (``at_rate``, ``cut_segments``) with wanted times; ``nearest`` turns wanted times into indices.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Cut:
    """One stretch of a video, ``start`` to ``end`` in seconds, and the times at which to look at it."""

    number: int
    start: float
    end: float
    times: tuple[float, ...]


def uniform(num_frames: int, count: int) -> Int64[np.ndarray, " count"]:
    """Spread ``count`` indices over all frames, the first and the last among them; a short video repeats some."""
    _check(num_frames=num_frames, count=count)
    return np.linspace(0, num_frames - 1, num=count).astype(np.int64)


def segment_centre(num_frames: int, count: int) -> Int64[np.ndarray, " count"]:
    """Cut the frames into ``count`` equal parts and take the middle of each; a short video repeats some."""
    _check(num_frames=num_frames, count=count)
    centres: Int64[np.ndarray, " count"] = (np.arange(count) * 2 + 1) * num_frames // (2 * count)
    return centres


def clip4clip(num_frames: int, rate: float, count: int) -> Int64[np.ndarray, " at_most_count"]:
    """Choose frames as CLIP4Clip does: one per second, thinned to ``count`` when there are more.

    The published reader steps by the whole part of the frame rate, and thins with a linspace cut down to integers.

    Reference:
        CLIP4Clip, "dataloaders/rawvideo_util.py" and ``slice_framepos`` 2.
    """
    _check(num_frames=num_frames, rate=rate, count=count)
    candidates = np.arange(0, num_frames, max(1, int(rate)))
    if len(candidates) <= count:
        return candidates
    thinned: Int64[np.ndarray, " count"] = candidates[np.linspace(0, len(candidates) - 1, num=count, dtype=np.int64)]
    return thinned


def at_rate(duration: float, fps: float) -> Float64[np.ndarray, " time"]:
    """Look at the middle of every ``1 / fps`` seconds; at least once, and once more when half a step is left over."""
    _check(fps=fps)
    count = max(1, math.ceil(duration * fps - 0.5))
    times: Float64[np.ndarray, " time"] = np.minimum((np.arange(count) + 0.5) / fps, max(duration, 0.0))
    return times


def nearest(times: Float64[np.ndarray, " frame"], wanted: Float64[np.ndarray, " time"]) -> Int64[np.ndarray, " time"]:
    """Find the frame presented nearest to each wanted time; of two equally near, the earlier.

    ``times`` must rise. Answers repeat where several wanted times share a frame.
    """
    _check(num_frames=len(times))
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    # The middle of a second is the middle between two frames at 25 fps: rounding must not decide.
    is_earlier = wanted - times[before] <= times[after] - wanted + _TIE
    indices: Int64[np.ndarray, " time"] = np.where(is_earlier, before, after).astype(np.int64)
    return indices


def at_seconds(duration: float, fps: float, count: int) -> Float64[np.ndarray, " at_most_count"]:
    """Look as CLIP4Clip does, by the clock: at the start of every ``1 / fps`` seconds, thinned to ``count``.

    ``clip4clip`` does the same by frame numbers, and there steps by whole frames.
    """
    _check(fps=fps, count=count)
    times = np.arange(max(1, math.ceil(duration * fps - _TIE))) / fps
    if len(times) <= count:
        return times
    return times[np.linspace(0, len(times) - 1, num=count, dtype=np.int64)]


def cut_segments(
    duration: float, *, start: float = 0.0, num_frames: int = 12, fps: float = 1.0, whole: bool = False
) -> list[Cut]:
    """Cut a video into the segments that are encoded as one; with ``whole`` it is one, seen as ``at_seconds`` says.

    Frames are shown from ``start`` to ``duration``; the first segment starts there, so that a late start changes no
    choice of frames. A video shown no longer than ``num_frames / fps`` seconds is one segment, with ``num_frames``
    times at the centres of its equal parts. A longer one is cut on the fixed grid of that span, so that appending to a
    video never moves a segment; its times keep the rate. A rest shorter than half a frame step joins the segment before
    it.
    """
    cuts = _cut_shown(max(duration - start, 0.0), num_frames=num_frames, fps=fps, whole=whole)
    return [
        Cut(cut.number, start + cut.start, start + cut.end, tuple(start + time for time in cut.times)) for cut in cuts
    ]


def _cut_shown(duration: float, *, num_frames: int, fps: float, whole: bool) -> list[Cut]:
    """Cut what is shown from 0 to ``duration``."""
    _check(num_frames=num_frames, fps=fps)
    if whole:
        return [Cut(0, 0.0, duration, tuple(float(time) for time in at_seconds(duration, fps, num_frames)))]
    span = num_frames / fps
    if duration <= span:
        return [Cut(0, 0.0, duration, tuple((i + 0.5) * duration / num_frames for i in range(num_frames)))]
    num_full = math.floor(duration / span)
    rest = duration - num_full * span
    grid = tuple(float(time) for time in at_rate(span, fps))
    cuts = [Cut(n, n * span, (n + 1) * span, tuple(n * span + time for time in grid)) for n in range(num_full)]
    if rest >= 0.5 / fps:
        start = num_full * span
        cuts.append(Cut(num_full, start, duration, tuple(start + float(time) for time in at_rate(rest, fps))))
    else:
        last = cuts[-1]
        cuts[-1] = Cut(last.number, last.start, duration, last.times)
    return cuts


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
