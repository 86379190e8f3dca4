"""Frame sampling: which frames of a video to decode, and how to cut a video into segments on a grid.

``uniform``, ``clip4clip`` and ``choose_frames_of_whole`` choose by count and return frame indices.
``at_rate``, ``at_seconds`` and ``cut_segments`` choose by time and return seconds, which ``nearest`` converts to frame
indices. ``share_pictures`` leaves out sampled frames that hardly differ from the one before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from vidret.types import FrameRule, Frames, Picture, Sampling
from vidret.video import timeline

DEFAULT_SAMPLING = Sampling()
_TIE_S = 1e-6
_ROUNDING_S = 0.1  # of displayed times

# Mean absolute differences in grey levels. Of 1,972 pairs of frames of real videos, half a second or more apart, 151
# are below both; their vectors of the starter have cosine 0.9998 on average and 0.989 at least.
_BLOCK = 16  # pixels
_MAX_DIFFERENCE = 1.0
_MAX_BLOCK_DIFFERENCE = 4.0


@dataclass(frozen=True, slots=True)
class Cut:
    """One segment of a video, from ``start`` to ``end`` in seconds, and the times to sample.

    ``number`` is the index of the segment in its video.
    """

    number: int
    start: float
    end: float
    times: tuple[float, ...]


def uniform(num_frames: int, count: int) -> Int64[np.ndarray, " count"]:
    """Return ``count`` evenly spaced indices from the first frame to the last; a short video repeats some."""
    check_positive(num_frames=num_frames, count=count)
    return np.linspace(0, num_frames - 1, num=count).astype(np.int64)


def clip4clip(num_frames: int, rate: float, count: int) -> Int64[np.ndarray, " at_most_count"]:
    """Return the indices that CLIP4Clip samples: one per second, thinned to ``count`` if there are more.

    The published reader steps by the integer part of the frame rate, and thins with a truncated linspace.

    Reference:
        CLIP4Clip, "dataloaders/rawvideo_util.py" and ``slice_framepos`` 2.
    """
    check_positive(num_frames=num_frames, rate=rate, count=count)
    candidates = np.arange(0, num_frames, max(1, int(rate)))
    if len(candidates) <= count:
        return candidates
    return candidates[np.linspace(0, len(candidates) - 1, num=count, dtype=np.int64)]


def choose_frames_of_whole(
    rule: FrameRule, num_frames: int, rate: float, count: int, *, num_segments: int = 6, fps: float = 1.0
) -> Int64[np.ndarray, " sample"]:
    """Return the frame indices that any rule but ``seconds`` samples from a whole video; see ``Sampling``.

    ``count`` of ``num_frames`` frames are chosen, with repeats in a short video; ``clip4clip``, ``mmeb`` and ``mteb``
    may choose fewer. ``rate`` is the frame rate; ``num_segments`` is for the rule ``segments``, ``fps`` for ``mteb``.
    """
    if rule == "mmeb":
        return np.arange(count) * num_frames // count if num_frames > count else np.arange(num_frames)
    if rule == "mteb":
        wanted = min(max(1, int(num_frames / rate * fps)), count)
        return np.arange(0, num_frames, max(1, num_frames // wanted))[:wanted]
    if rule == "clip4clip":
        return clip4clip(num_frames, rate, count)
    if rule == "tempme":
        seconds: Int64[np.ndarray, " second"] = np.arange(0, num_frames, max(1, round(rate)))
        if len(seconds) < count:
            return uniform(num_frames, count)
        return np.take(seconds, uniform(len(seconds), count))
    if rule != "segments":
        raise ValueError(f"rule must be one that counts frames, got {rule}")
    starts, lengths = cut_equally(num_frames, num_segments)
    num_chunks = count // num_segments
    offsets = np.arange(1, num_chunks + 1) * (lengths[:, None] // (num_chunks + 1))
    return fill_row(starts[:, None] + offsets, count)


def cut_equally(
    num_frames: int, num_segments: int
) -> tuple[Int64[np.ndarray, " segment"], Int64[np.ndarray, " segment"]]:
    """Return the first frame of each segment, and its length less its last frame, at least 1."""
    edges = np.linspace(0, num_frames, min(num_segments, num_frames) + 1).astype(np.int64)
    return edges[:-1], np.maximum(np.diff(edges) - 1, 1)


def fill_row(indices: Int64[np.ndarray, "segment chunk"], count: int) -> Int64[np.ndarray, " frame"]:
    """Return the indices of all segments in one row, filled up to ``count`` by repeating the last."""
    flat = indices.reshape(-1)
    return np.pad(flat, (0, count - len(flat)), mode="edge")


def at_rate(duration: float, fps: float) -> Float64[np.ndarray, " time"]:
    """Return the middle of every step of ``1 / fps`` seconds; a remainder of at least half a step counts as one.

    There is always at least one time.
    """
    check_positive(fps=fps)
    count = max(1, math.ceil(duration * fps - 0.5))
    times: Float64[np.ndarray, " time"] = np.minimum((np.arange(count) + 0.5) / fps, max(duration, 0.0))
    return times


def nearest(times: Float64[np.ndarray, " frame"], wanted: Float64[np.ndarray, " time"]) -> Int64[np.ndarray, " time"]:
    """Return the index of the frame nearest to each wanted time; the earlier one of two that are equally near.

    ``times`` are when frames begin, in seconds, rising.
    """
    check_positive(num_frames=len(times))
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    # At 25 fps the middle of a second is halfway between two frames: rounding errors must not decide.
    is_earlier = wanted - times[before] <= times[after] - wanted + _TIE_S
    return np.where(is_earlier, before, after).astype(np.int64)


def find_shown(
    times: Float64[np.ndarray, " frame"], wanted: Float64[np.ndarray, " time"]
) -> Int64[np.ndarray, " time"]:
    """Return the index of the frame nearest to each wanted time, or of the one before if it begins clearly later."""
    indices = nearest(times, wanted)
    is_early = times[indices] - wanted > _ROUNDING_S
    shown: Int64[np.ndarray, " time"] = np.maximum(indices - is_early, 0).astype(np.int64)
    return shown


def at_seconds(duration: float, fps: float, count: int) -> Float64[np.ndarray, " at_most_count"]:
    """Return the start of every step of ``1 / fps`` seconds, thinned to ``count`` if there are more.

    This is CLIP4Clip's sampling by time; ``clip4clip`` samples by index, in whole frames.
    """
    check_positive(fps=fps, count=count)
    num_steps = max(1, math.ceil(duration * fps - _TIE_S))
    steps = np.arange(num_steps) if num_steps <= count else np.linspace(0, num_steps - 1, num=count, dtype=np.int64)
    return steps / fps


def cut_segments(
    duration: float,
    times: Float64[np.ndarray, " frame"],
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    start: float = 0.0,
    rate: float | None = None,
) -> list[Cut]:
    """Split a video into the segments that are encoded as units.

    A video of at most ``num_frames / fps`` seconds is one segment, sampled at the centres of ``num_frames`` equal
    parts. A longer one is split on a fixed grid of that span, sampled at ``fps``, so that appending to a video moves no
    segment. A remainder shorter than half a frame step belongs to the segment before it. A ``whole`` video is one
    segment, sampled by ``rule``.

    A span in which no frame begins is not a segment: the segment before it lasts until the next one, up to
    ``LONGEST_STILL_S``. Longer gaps belong to no segment, and a ``whole`` video ends at the first gap. Thus there are
    never more segments than frames, whatever the timestamps.

    The first frame begins at ``start``, where the grid starts, and the last ends at ``duration``, in seconds. ``times``
    are the rising start times of frames. ``rate`` is the frame rate, for rules that count frames; None for the mean
    rate. Raise ValueError if a number is not positive.
    """
    num_frames, fps, rule = sampling.num_frames, sampling.fps, sampling.rule
    check_positive(num_frames=num_frames, fps=fps)
    shown = max(duration - start, 0.0)
    begins = times - start
    if sampling.whole:
        end = timeline.first_gap_start(begins, shown)
        end = end if sampling.until_s is None else min(end, max(sampling.until_s - start, 0.0))
        if rule == "seconds":
            chosen = at_seconds(end, fps, num_frames)
        else:
            num_begun = max(1, int(np.searchsorted(begins, end)))
            rate = rate or len(begins) / max(shown, _TIE_S)
            parts = sampling.num_segments
            chosen = begins[choose_frames_of_whole(rule, num_begun, rate, num_frames, num_segments=parts, fps=fps)]
        cuts = [Cut(0, 0.0, end, tuple(chosen.tolist()))]
    elif shown <= num_frames / fps:
        cuts = [Cut(0, 0.0, shown, tuple((i + 0.5) * shown / num_frames for i in range(num_frames)))]
    else:
        cuts = _cut_on_grid(shown, begins, num_frames, fps)
    return [
        Cut(cut.number, start + cut.start, start + cut.end, tuple(start + time for time in cut.times)) for cut in cuts
    ]


def _cut_on_grid(duration: float, times: Float64[np.ndarray, " frame"], num_frames: int, fps: float) -> list[Cut]:
    """Split the time from 0 to ``duration`` on a grid of spans."""
    span = num_frames / fps
    num_full = math.floor(duration / span)
    remainder = duration - num_full * span
    num_spans = num_full + (remainder >= 0.5 / fps)
    span_indices = np.unique(np.floor((times + _TIE_S) / span).clip(0, num_spans - 1).astype(np.int64)).tolist()
    full_grid, last_grid = at_rate(span, fps).tolist(), at_rate(remainder, fps).tolist()
    cuts = []
    for segment_index, span_index in enumerate(span_indices):
        start, end = span_index * span, (span_index + 1) * span
        next_start = span_indices[segment_index + 1] * span if segment_index + 1 < len(span_indices) else duration
        end = next_start if next_start - end <= timeline.LONGEST_STILL_S else end
        grid = full_grid if span_index < num_full else last_grid
        cuts.append(Cut(segment_index, start, end, tuple(start + time for time in grid)))
    return cuts


def check_positive(**values: float) -> None:
    """Raise ValueError for the first value that is not positive, by its name."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, slots=True, eq=False)
class SampledFrames:
    """The frames sampled from a segment: its distinct pictures, and for each sample its time and its picture's row."""

    pictures: Frames
    times: Float64[np.ndarray, " sample"]
    rows: Int64[np.ndarray, " sample"]

    def __len__(self) -> int:
        return len(self.times)

    def repeat(self) -> Frames:
        """Return a frame for each sample, with shared pictures repeated."""
        return replace(self.pictures, pixels=self.pictures.pixels[self.rows], times=self.times)


def sample_again(frames: Frames, times: Float64[np.ndarray, " sample"], sampling: Sampling) -> SampledFrames:
    """Return decoded frames as samples: one each, or at ``times`` if the rule repeats frames of short videos."""
    repeats = sampling.whole and sampling.rule != "seconds"
    rows = nearest(frames.times, times) if repeats else np.arange(len(frames))
    return SampledFrames(frames, frames.times[rows], rows)


def share_pictures(samples: Sequence[tuple[float, Picture]]) -> SampledFrames:
    """Return samples, given as (time, picture); pictures that hardly differ from the last kept one are left out.

    Samples are compared with the kept picture, not with each other, so that slow changes do not add up.
    """
    kept: list[int] = []
    rows = []
    for index, (_, picture) in enumerate(samples):
        if not kept or differs(samples[kept[-1]][1], picture):
            kept.append(index)
        rows.append(len(kept) - 1)
    times = np.array([time for time, _ in samples], np.float64)
    pictures = Frames(np.stack([samples[index][1] for index in kept]), times[kept])
    return SampledFrames(pictures, times, np.array(rows, np.int64))


def differs(first: Picture, second: Picture) -> bool:
    """Return whether two pictures of one size differ visibly, on the whole or in some block."""
    if first is second:
        return False
    difference = np.maximum(first, second) - np.minimum(first, second)
    height, width, num_channels = difference.shape
    if int(difference.sum(dtype=np.uint64)) > _MAX_DIFFERENCE * difference.size:
        return True
    rows, columns = max(height // _BLOCK, 1), max(width // _BLOCK, 1)
    block_height, block_width = height // rows, width // columns
    blocks = difference[: rows * block_height, : columns * block_width]
    strips = blocks.reshape(rows, block_height, -1).sum(axis=1, dtype=np.uint32)
    total = int(strips.reshape(rows, columns, -1).sum(axis=2).max())
    return bool(total > _MAX_BLOCK_DIFFERENCE * block_height * block_width * num_channels)
