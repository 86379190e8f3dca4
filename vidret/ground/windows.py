"""Steps of a grounding head in time, the frames that it reads for them, and the windows that long videos are cut into.

Step t covers the seconds from t / fps to (t + 1) / fps after the start of a video. The head reads the sampled frame
nearest to its middle, in the segment that the middle is in. So a head reads the frames that an index encodes, the same
in indexing and training. A frame is at most half a sampling step of the index from the middle, more only where a frame
is shown for longer.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidret.ground.head import GroundingHead, GroundingResult
from vidret.ground.projected import ProjectedVideos

LONGEST_HOLE_S = 600.0  # between segments, where frames could not be read; a longer one is a gap in the video
LENGTH, WHOLE = 75, 1024  # frames of a window: of QVHighlights' videos (150 s), and the most that published heads read
_TIE_S = 1e-6


class StepFrames(NamedTuple):
    """The frame read for each step: the index of its segment, and that of the step among the segment's steps.

    ``has_gap`` is True if the video has a gap; the steps end before it.
    """

    segments: Int64[np.ndarray, " step"]
    offsets: Int64[np.ndarray, " step"]
    has_gap: bool


def find_steps(start: float, end: float, *, first: float, fps: float) -> range:
    """Return the steps, ``fps`` a second from ``first`` on, whose middles are in a segment; all times in seconds."""
    lowest, highest = ((time - first - _TIE_S) * fps - 0.5 for time in (start, end))
    return range(max(0, math.ceil(lowest)), max(0, math.ceil(highest)))


def choose_frames(
    times: Float64[np.ndarray, " frame"], start: float, end: float, *, first: float, fps: float
) -> Int64[np.ndarray, " row"]:
    """Return the index of the frame of a segment that is nearest to the middle of each of its steps.

    A segment without a step still has one frame, the nearest to its own middle: a video shorter than half a step has no
    other. Of two frames that are equally near, the earlier one is chosen. See ``find_steps``.
    """
    steps = np.array(find_steps(start, end, first=first, fps=fps), np.float64)
    wanted = first + (steps + 0.5) / fps if len(steps) else np.array([(start + end) / 2])
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    is_earlier = wanted - times[before] <= times[after] - wanted + _TIE_S
    return np.where(is_earlier, before, after).astype(np.int64)


def place_steps(segments: Sequence[tuple[float, float]], *, first: float, fps: float) -> StepFrames:
    """Return the frame of each step of a video, up to its first gap.

    A step whose middle is in no segment, since its frames could not be read, reads the frame of the step before it; at
    the beginning, the first frame, however late. ``segments`` has at least one start and end, in seconds.
    """
    owners, offsets, end = list[int](), list[int](), first
    for index, segment in enumerate(segments):
        if owners and segment[0] - end > LONGEST_HOLE_S:
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


class Window(NamedTuple):
    """The frames of a video from index ``first`` to ``last`` (excluded)."""

    first: int
    last: int


def cut_windows(num_frames: int, length: int = LENGTH) -> list[Window]:
    """Return the fewest windows of ``length`` frames such that neighbours overlap by at least a third of them.

    A video of at most ``length`` frames is one window. A moment no longer than the overlap is within one window.
    """
    if num_frames <= length:
        return [Window(0, num_frames)]
    num_steps = -(-(num_frames - length) // (length - length // 3))
    starts = [step * (num_frames - length) // num_steps for step in range(num_steps + 1)]
    return [Window(start, start + length) for start in starts]


def join_results(windows: Sequence[Window], results: Iterable[GroundingResult], *, fps: float) -> GroundingResult:
    """Join the results of windows into one result of the whole video.

    Spans are shifted by the start of their window and all kept, best first; suppressing duplicates is up to the caller.
    Where windows overlap, saliency is averaged: a maximum would favour frames that are in two windows. Results are
    consumed one at a time.

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


MOST_WINDOWS = 16
LEAST_FULL = 0.8  # real frames of a padded batch


@torch.inference_mode()
def ground_windows(
    head: GroundingHead, query: Float[Tensor, "layer word width"], windows: Sequence[ProjectedVideos], *, fps: float
) -> list[GroundingResult]:
    """Return a query's result in each window, in order; they equal those of each window by itself.

    Windows, which have no padding of their own, are padded and run together if they are of about the same length.
    """
    results: dict[int, GroundingResult] = {}
    for batch in cut_batches(windows, pads=not head.as_published):
        stacked = stack_windows([windows[index] for index in batch])
        output = head(stacked, repeat(query, "layer word width -> window layer word width", window=len(batch)))
        results |= zip(batch, head.decode(output, fps=fps), strict=True)
    return [results[index] for index in range(len(windows))]


def cut_batches(windows: Sequence[ProjectedVideos], *, pads: bool) -> Iterator[list[int]]:
    """Yield the indices of windows to run together: all of them, each once.

    Windows of a batch have equal numbers of tokens, and equal numbers of frames unless ``pads`` allows padding.
    """

    def rank(index: int) -> tuple[list[tuple[int, bool]], int]:
        window = windows[index]
        pairs = zip(window.layers, window.biases, strict=True)
        return [(rows.shape[2], bias is None) for rows, bias in pairs], window.num_frames

    batch: list[int] = []
    for index in sorted(range(len(windows)), key=rank):
        if batch:
            (before, shortest), (tokens, longest) = rank(batch[0]), rank(index)
            fits = shortest >= LEAST_FULL * longest if pads else shortest == longest
            if len(batch) == MOST_WINDOWS or before != tokens or not fits:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def stack_windows(windows: Sequence[ProjectedVideos]) -> ProjectedVideos:
    """Return windows of equal numbers of tokens as one batch, padded to the longest if their lengths differ."""
    if len(windows) == 1:
        return windows[0]

    def stack(values: Sequence[Tensor | None]) -> Tensor | None:
        """Stack one kind of tensors of one layer, with zeros for padding."""
        tensors = [value[0] for value in values if value is not None]
        return pad_sequence(tensors, batch_first=True) if tensors else None

    device = windows[0].layers[0].device
    real = stack([torch.ones(1, window.num_frames, dtype=torch.bool, device=device) for window in windows])
    mask = None if real is None or real.all() else real
    layers, scales, biases = (
        tuple(stack(values) for values in zip(*(window[kind] for window in windows), strict=True)) for kind in range(3)
    )
    return ProjectedVideos(tuple(rows for rows in layers if rows is not None), scales, biases, mask)
