"""Segments that follow shots, and the frames to encode of each, chosen while a video is decoded once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vidret.video.timeline import LONGEST_STILL_S

_TIE_S = 1e-6

Frame = TypeVar("Frame")
Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Stretch(Generic[Sample]):
    """One segment of a video, from ``start`` to ``end`` in seconds, with its samples in time order."""

    number: int
    start: float
    end: float
    samples: list[Sample]


class Segmenter(Generic[Frame, Sample]):
    """Cuts the frames of a video into segments, in one pass.

    A segment begins with a shot. A shot that is longer than ``num_frames`` steps is split into segments of that length,
    counted from its start. A segment is sampled in the middle of every step, by the nearest frame that it contains. A
    stretch that is shorter than half a step has no sample of its own: it belongs to the segment before it, or to the
    one after it at the start of the video. Of two such stretches in a row, the second is sampled all the same. So
    segments cover a video without overlap, and without gap except where no frame begins for ``LONGEST_STILL_S`` after
    the segment.

    A segment is complete once the next one has a sample. Segments and samples depend only on the frames from the start
    of their shot, so that an interrupted video continues from the end of its last complete segment as it would have.
    """

    def __init__(
        self,
        sample: Callable[[Frame], Sample | None],
        *,
        start_s: float,
        step_s: float,
        num_frames: int,
        first_number: int = 0,
    ) -> None:
        """Begin at ``start_s`` seconds.

        Args:
            sample: Converts a chosen frame; None if the frame cannot be read.
            start_s: When the first segment starts.
            step_s: Seconds between two samples.
            num_frames: Maximum number of samples in a segment.
            first_number: The number of the first segment.

        Raises:
            ValueError: ``step_s`` or ``num_frames`` is not positive.
        """
        for name, value in (("step_s", step_s), ("num_frames", num_frames)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self._sample, self._step_s, self._num_frames, self._span_s = sample, step_s, num_frames, num_frames * step_s
        self._number = first_number
        self._open_start = self._begin = start_s  # of the open segment, and of the stretch that is sampled
        self._samples: list[Sample] = []
        self._num_steps = 0  # sampled in this stretch
        self._last: tuple[float, Frame] | None = None  # the last frame, if it belongs to this stretch
        self._is_last_taken = False
        self._must_sample = first_number > 0  # an unsampled stretch is joined before the next segment is sampled
        self._held: Stretch[Sample] | None = None
        self._complete: list[Stretch[Sample]] = []

    def add(self, frame: Frame, time_s: float, *, starts_shot: bool) -> list[Stretch[Sample]]:
        """Add the next frame, which begins at ``time_s``, and return the segments that are complete now."""
        end_s = self._begin + (self._span_s if self._last is not None else 0.0)
        if time_s - end_s > LONGEST_STILL_S:
            self._close(end_s)
            self._open_start = self._begin = time_s
            self._must_sample = True  # there is nothing before that it could be joined to
        elif starts_shot and time_s > self._begin:
            self._close(time_s)
            self._begin = time_s
        elif time_s >= self._begin + self._span_s - _TIE_S:
            begin = self._begin + math.floor((time_s - self._begin + _TIE_S) / self._span_s) * self._span_s
            self._close(begin)
            self._begin = begin
        self._take_nearest(frame, time_s)
        return self._pop()

    def finish(self, duration_s: float) -> list[Stretch[Sample]]:
        """End the video at ``duration_s`` and return its last segments."""
        self._close(max(duration_s, self._begin))
        self._release()
        return self._pop()

    def _take_nearest(self, frame: Frame, time_s: float) -> None:
        """Take the last frame or this one for each sampling time up to this frame."""
        last, is_taken = self._last, False
        while (wanted_s := self._begin + (self._num_steps + 0.5) * self._step_s) <= time_s:
            self._num_steps += 1
            if last is not None and wanted_s - last[0] <= time_s - wanted_s + _TIE_S:
                self._take_last()
            elif not is_taken:
                self._take(frame)
                is_taken = True
        self._last, self._is_last_taken = (time_s, frame), is_taken

    def _take_last(self) -> None:
        if self._last is not None and not self._is_last_taken:
            self._take(self._last[1])
            self._is_last_taken = True

    def _take(self, frame: Frame) -> None:
        sample = self._sample(frame)
        if sample is not None:
            self._release()
            self._samples.append(sample)

    def _close(self, end_s: float) -> None:
        """End the stretch, and with it the open segment if that has samples."""
        wanted_s = self._begin + (self._num_steps + 0.5) * self._step_s
        stays = self._num_steps < self._num_frames and wanted_s < end_s - _TIE_S
        if stays or (self._must_sample and not self._samples):
            self._take_last()
        self._must_sample = not self._samples
        if self._samples:
            self._held = Stretch(self._number, self._open_start, end_s, self._samples)
            self._number += 1
            self._open_start = end_s
        elif self._held is not None and self._held.end == self._open_start:  # not if there is a gap between
            self._held = Stretch(self._held.number, self._held.start, end_s, self._held.samples)
            self._open_start = end_s
        self._samples, self._num_steps, self._last, self._is_last_taken = [], 0, None, False

    def _release(self) -> None:
        if self._held is not None:
            self._complete.append(self._held)
            self._held = None

    def _pop(self) -> list[Stretch[Sample]]:
        complete, self._complete = self._complete, []
        return complete
