"""Read a video once from start to end: find its shots, cut it into segments that follow them, and sample those."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

import numpy as np

from vidret.types import Picture, Resize, Sampling, ShotChange
from vidret.video.decoders.base import StreamedFrame
from vidret.video.geometry import resize_image
from vidret.video.sampling import SampledFrames, check_positive, share_pictures
from vidret.video.shots.cuts import MAX_CUTS_PER_MINUTE, ShotDetector
from vidret.video.shots.gradual import Transition
from vidret.video.timeline import LONGEST_STILL_S

Frame = TypeVar("Frame")
Sample = TypeVar("Sample")

WARM_UP_S = 3.0  # of frames that the detector needs before the point from which an interrupted video continues
_TIE_S = 1e-6
# Limits of the frames compared at once, which keep their images in memory: pixels, 17 MB in 4:2:0, and frames.
_PIXELS_AT_ONCE = 12 * 1280 * 720
_MIN_AT_ONCE, _MAX_AT_ONCE = 4, 32
_MAX_RESIZING = 4  # full-size images that wait to be resized


@dataclass(frozen=True, slots=True)
class Stretch(Generic[Sample]):
    """One segment of a video, from ``start`` to ``end`` in seconds, with its samples in time order."""

    number: int
    start: float
    end: float
    samples: list[Sample]


class Segmenter(Generic[Frame, Sample]):
    """Cuts the frames of a video into segments, in one pass.

    A segment begins with a shot. A shot longer than ``num_frames`` steps is split into segments of that length, counted
    from its start. A segment is sampled in the middle of every step, by the nearest frame that it contains. A stretch
    shorter than half a step has no sample: it belongs to the segment before it, or at the start of the video to the one
    after it. Of two such stretches in a row, the second is sampled nevertheless. Segments cover a video without
    overlap, and without gaps except where no frame begins for ``LONGEST_STILL_S`` after a segment.

    A segment is complete once the next one has a sample. Segments and samples depend only on the frames from the start
    of their shot, so that an interrupted video can continue from the end of its last complete segment.
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
        """Start at ``start_s`` seconds; ``sample`` converts a chosen frame, and returns None if it cannot be read.

        Raise ValueError if ``step_s`` or ``num_frames`` is not positive.
        """
        check_positive(step_s=step_s, num_frames=num_frames)
        self._sample, self._step_s, self._num_frames, self._span_s = sample, step_s, num_frames, num_frames * step_s
        self._number = first_number
        self._open_start = self._begin = start_s  # of the open segment, and of the stretch that is sampled
        self._samples: list[Sample] = []
        self._num_steps = 0  # steps sampled in this stretch
        self._last: tuple[float, Frame] | None = None  # the last frame, if it belongs to this stretch
        self._is_last_taken = False
        self._must_sample = first_number > 0  # an unsampled stretch is joined before the next segment is sampled
        self._held: Stretch[Sample] | None = None
        self._complete: list[Stretch[Sample]] = []

    def add(self, frame: Frame, time_s: float, *, starts_shot: bool) -> list[Stretch[Sample]]:
        """Add the next frame, which begins at ``time_s``, and return the segments that it completes."""
        end_s = self._begin + (self._span_s if self._last is not None else 0.0)
        if time_s - end_s > LONGEST_STILL_S:
            self._close(end_s)
            self._open_start = self._begin = time_s
            self._must_sample = True  # there is no segment before to join it to
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
        """End the stretch at ``end_s``: as a segment if it has samples, else as part of the segment before."""
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


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSegment:
    """One segment, from ``start`` to ``end`` in seconds, with its sampled frames and the shot changes found in it."""

    number: int
    start: float
    end: float
    frames: SampledFrames
    shots: Sequence[ShotChange] = ()


class VideoExtent(Protocol):
    """The duration and frame size of a video: those of a ``VideoInfo``, or of frames in memory."""

    @property
    def duration(self) -> float:
        """When the last frame ends, in seconds."""

    @property
    def shown_seconds(self) -> float:
        """The time from the start of the first frame to the end of the last, in seconds."""

    @property
    def num_pixels(self) -> int:
        """The number of pixels of a frame."""


class ShotFollower:
    """Holds frames back until it is known whether they begin a shot."""

    def __init__(self, num_at_once: int) -> None:
        """Start before the first frame; ``num_at_once`` frames are compared at once."""
        self._num_at_once, self.detector = num_at_once, ShotDetector()
        self._times: list[float] = []
        self._new: list[StreamedFrame] = []  # not seen by the detector
        self._waiting: deque[tuple[int, StreamedFrame]] = deque()
        self._starts: list[int] = []
        self.changes: list[ShotChange] = []

    def add(self, frame: StreamedFrame) -> Iterator[tuple[StreamedFrame, bool]]:
        """Add the next frame; yield the frames that are decided now, and whether each begins a shot."""
        self._new.append(frame)
        if len(self._new) == self._num_at_once:
            yield from self._detect()

    def finish(self) -> Iterator[tuple[StreamedFrame, bool]]:
        """Yield the remaining frames."""
        if self._new:
            yield from self._detect()
        self._note(self.detector.finish())
        yield from self._pop(len(self._times))

    def _detect(self) -> Iterator[tuple[StreamedFrame, bool]]:
        frames, self._new = self._new, []
        times_s = [frame.time_s for frame in frames]
        self._waiting.extend(enumerate(frames, start=len(self._times)))
        self._times += times_s
        for num_decided, transitions in self.detector.add(np.stack([frame.grey for frame in frames]), times_s):
            self._note(transitions)
            yield from self._pop(num_decided)

    def _note(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            self._starts.append(transition.frame)
            self.changes.append(
                ShotChange(self._times[transition.start], self._times[transition.frame], transition.kind)
            )

    def _pop(self, num_decided: int) -> Iterator[tuple[StreamedFrame, bool]]:
        while self._waiting and self._waiting[0][0] < num_decided:
            position, frame = self._waiting.popleft()
            # A gradual change may be found after its frames have been passed on: the next frame begins the shot then.
            starts = [start for start in self._starts if start <= position]
            self._starts = self._starts[len(starts) :]
            yield frame, bool(starts)


class SegmentReader:
    """Reads the segments of a video.

    A video no longer than one segment is not split at its cuts, since a description of a short clip applies to all of
    it. Its cuts are reported nevertheless.

    ``num_lost`` counts the chosen frames that could not be converted. ``note`` reports cuts that were left out.
    """

    def __init__(
        self,
        info: VideoExtent,
        sampling: Sampling,
        resize: Resize | None,
        *,
        start_s: float,
        first_number: int = 0,
        observe: Callable[[int, Picture], None] | None = None,
        executor: Executor | None = None,
    ) -> None:
        """Start at ``start_s`` seconds with segment ``first_number``: at the beginning, or where a run was interrupted.

        A video shorter than one segment gets as many samples as a full one. Without ``resize`` frames keep their size;
        an ``executor`` resizes them while the next ones are decoded. ``observe`` is called with the index and the
        full-size image of every sampled frame.
        """
        self._info, self._resize, self._start_s, self._observe = info, resize, start_s, observe
        self._executor = executor
        step_s = min(1 / sampling.fps, max(info.shown_seconds, _TIE_S) / sampling.num_frames)
        self._segmenter: Segmenter[StreamedFrame, _Sample] = Segmenter(
            self._sample, start_s=start_s, step_s=step_s, num_frames=sampling.num_frames, first_number=first_number
        )
        self._resized: tuple[Picture, Future[Picture]] | None = None  # the last image, and its resized form
        self._resizing: deque[Future[Picture]] = deque()
        # As on a grid, a remainder of less than half a step does not count.
        self._is_one = info.shown_seconds < (sampling.num_frames + 0.5) / sampling.fps
        num_at_once = min(max(_PIXELS_AT_ONCE // info.num_pixels, _MIN_AT_ONCE), _MAX_AT_ONCE)
        self._follower, self._num_reported = ShotFollower(num_at_once), 0
        self.num_lost, self.note = 0, ""

    def read(self, frames: Iterable[StreamedFrame]) -> Iterator[DecodedSegment]:
        """Yield the segments of a video's frames, which may begin earlier to warm up the detector."""
        for frame in frames:
            for decided in self._follower.add(frame):
                yield from self._add(*decided)
        for decided in self._follower.finish():
            yield from self._add(*decided)
        if self._follower.detector.is_capped:
            self.note = f"it cuts more than {MAX_CUTS_PER_MINUTE} times a minute: further cuts there are left out"
        last = self._segmenter.finish(self._info.duration)
        for stretch in last:
            yield self._make(stretch, is_last=stretch is last[-1])

    def _add(self, frame: StreamedFrame, starts_shot: bool) -> Iterator[DecodedSegment]:
        if frame.time_s >= self._start_s - _TIE_S:
            begins_segment = starts_shot and not self._is_one
            for stretch in self._segmenter.add(frame, frame.time_s, starts_shot=begins_segment):
                yield self._make(stretch)

    def _make(self, stretch: "Stretch[_Sample]", *, is_last: bool = False) -> DecodedSegment:
        new = self._follower.changes[self._num_reported :]
        changes = list(takewhile(lambda change: change.start < stretch.end or is_last, new))
        self._num_reported += len(changes)
        changes = [change for change in changes if change.end >= self._start_s]
        frames = share_pictures([(time_s, picture.result()) for time_s, picture in stretch.samples])
        return DecodedSegment(stretch.number, stretch.start, stretch.end, frames, changes)

    def _sample(self, frame: StreamedFrame) -> "_Sample | None":
        if frame.read_resized is not None and self._resize is not None and self._observe is None:
            return frame.time_s, _finished(frame.read_resized(self._resize))
        image = frame.read_image()
        if image is None:
            self.num_lost += 1
            return None
        if self._observe is not None:
            self._observe(frame.index, image)
        if self._resized is None or self._resized[0] is not image:  # still frames share one
            self._resized = image, self._start_resizing(image)
        return frame.time_s, self._resized[1]

    def _start_resizing(self, image: Picture) -> Future[Picture]:
        if self._resize is None:
            return _finished(image)
        if self._executor is None:
            return _finished(resize_image(image, self._resize))
        if len(self._resizing) == _MAX_RESIZING:
            self._resizing.popleft().result()
        self._resizing.append(self._executor.submit(resize_image, image, self._resize))
        return self._resizing[-1]


_Sample = tuple[float, Future[Picture]]  # when a frame begins in seconds, and its picture


def _finished(picture: Picture) -> Future[Picture]:
    future: Future[Picture] = Future()
    future.set_result(picture)
    return future
