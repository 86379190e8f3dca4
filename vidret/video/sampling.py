"""Which frames to look at: index and time arithmetic, without reading any file.

Rules that choose by count (``uniform``, ``segment_centre``, ``clip4clip``) answer with frame indices, rules that choose
by the clock (``at_rate``, ``cut_segments``) with wanted times; ``nearest`` turns wanted times into indices.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vidret.video import timeline

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
    num_steps = max(1, math.ceil(duration * fps - _TIE))
    steps = np.arange(num_steps) if num_steps <= count else np.linspace(0, num_steps - 1, num=count, dtype=np.int64)
    times: Float64[np.ndarray, " at_most_count"] = steps / fps
    return times


def cut_segments(
    duration: float,
    times: Float64[np.ndarray, " frame"] | None = None,
    *,
    start: float = 0.0,
    num_frames: int = 12,
    fps: float = 1.0,
    whole: bool = False,
) -> list[Cut]:
    """Cut a video into the segments that are encoded as one; with ``whole`` it is one, seen as ``at_seconds`` says.

    Frames are shown from ``start`` to ``duration``; the first segment starts there, so that a late start changes no
    choice of frames. A video shown no longer than ``num_frames / fps`` seconds is one segment, with ``num_frames``
    times at the centres of its equal parts. A longer one is cut on the fixed grid of that span, so that appending to a
    video never moves a segment; its times keep the rate. A rest shorter than half a frame step joins the segment before
    it.

    A span in which no frame begins is no segment of its own: the one before it lasts until the next, while a frame may
    stand still for ``LONGEST_STILL_S``. Longer gaps belong to no segment, and a whole video ends at the first. So there
    are never more segments than frames, however far timestamps lie apart.

    Args:
        duration: When the last frame ends, in seconds.
        times: When frames begin, in seconds, rising; without them every span counts as having one.
        start: When the first frame begins, in seconds.
        num_frames: Times at which to look at a whole segment.
        fps: Times a second.
        whole: Make one segment of all.
    """
    _check(num_frames=num_frames, fps=fps)
    shown = max(duration - start, 0.0)
    begins = None if times is None else times - start
    if whole:
        end = shown if begins is None else timeline.first_gap_start(begins, shown)
        cuts = [Cut(0, 0.0, end, tuple(float(time) for time in at_seconds(end, fps, num_frames)))]
    elif shown <= num_frames / fps:
        cuts = [Cut(0, 0.0, shown, tuple((i + 0.5) * shown / num_frames for i in range(num_frames)))]
    else:
        cuts = _cut_on_grid(shown, begins, num_frames, fps)
    return [
        Cut(cut.number, start + cut.start, start + cut.end, tuple(start + time for time in cut.times)) for cut in cuts
    ]


def _cut_on_grid(
    duration: float, times: Float64[np.ndarray, " frame"] | None, num_frames: int, fps: float
) -> list[Cut]:
    """Cut what is shown from 0 to ``duration`` into more than one span."""
    span = num_frames / fps
    num_full = math.floor(duration / span)
    rest = duration - num_full * span
    count = num_full + (rest >= 0.5 / fps)
    if times is None:
        spans = list(range(count))
    else:
        spans = np.unique(np.floor((times + _TIE) / span).clip(0, count - 1).astype(np.int64)).tolist()
    grid, tail = at_rate(span, fps).tolist(), at_rate(rest, fps).tolist()
    cuts = []
    for number, index in enumerate(spans):
        start, end = index * span, (index + 1) * span
        until = spans[number + 1] * span if number + 1 < len(spans) else duration
        end = until if until - end <= timeline.LONGEST_STILL_S else end
        cuts.append(Cut(number, start, end, tuple(start + time for time in (grid if index < num_full else tail))))
    return cuts


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
