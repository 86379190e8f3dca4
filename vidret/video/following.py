"""Read a video once from start to end: find its shots, cut it into segments that follow them, and sample those."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from vidret.types import Picture, Resize, Sampling, ShotChange
from vidret.video.resize import resize_image
from vidret.video.sampled_frames import SampledFrames, share_pictures
from vidret.video.segmenter import Segmenter, Stretch
from vidret.video.shots import MAX_CUTS_PER_MINUTE, ShotDetector
from vidret.video.streaming import StreamedFrame
from vidret.video.transitions import Transition

WARM_UP_S = 3.0  # of frames before the start of an interrupted video's remainder, which the detector has to see
_TIE_S = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ReadSegment:
    """A segment from ``start`` to ``end`` in seconds, its frames, and the shot changes found since the last one."""

    number: int
    start: float
    end: float
    frames: SampledFrames
    shots: list[ShotChange]


class VideoExtent(Protocol):
    """How long a video is: a ``VideoInfo``, or frames in memory."""

    @property
    def duration(self) -> float:
        """When the last frame ends, in seconds."""
        ...

    @property
    def shown_seconds(self) -> float:
        """The time from the start of the first frame to the end of the last, in seconds."""
        ...


class ShotFollower:
    """Holds frames back until it is known whether they begin a shot."""

    def __init__(self) -> None:
        """Start before the first frame."""
        self._detector = ShotDetector()
        self._times: list[float] = []
        self._waiting: deque[tuple[int, StreamedFrame]] = deque()
        self._starts: list[int] = []
        self.changes: list[ShotChange] = []

    def add(self, frame: StreamedFrame) -> Iterator[tuple[StreamedFrame, bool]]:
        """Add the next frame; yield the frames that are decided now, and whether each begins a shot."""
        self._waiting.append((len(self._times), frame))
        self._times.append(frame.time_s)
        self._note(self._detector.add(frame.grey, frame.time_s))
        yield from self._pop(self._detector.num_decided)

    @property
    def is_capped(self) -> bool:
        """Whether cuts were left out because there were too many, as in noise."""
        return self._detector.is_capped

    def finish(self) -> Iterator[tuple[StreamedFrame, bool]]:
        """Yield the remaining frames."""
        self._note(self._detector.finish())
        yield from self._pop(len(self._times))

    def _note(self, transitions: Iterable[Transition]) -> None:
        for each in transitions:
            self._starts.append(each.frame)
            self.changes.append(ShotChange(self._times[each.start], self._times[each.frame], each.kind))

    def _pop(self, num_decided: int) -> Iterator[tuple[StreamedFrame, bool]]:
        while self._waiting and self._waiting[0][0] < num_decided:
            position, frame = self._waiting.popleft()
            # A gradual change may be found after its frames have been passed on: the next frame begins the shot then.
            starts = [start for start in self._starts if start <= position]
            self._starts = self._starts[len(starts) :]
            yield frame, bool(starts)


class SegmentReader:
    """Reads the segments of a video.

    A video that is no longer than one segment is one, whatever its cuts: what describes a short clip describes all of
    it. Its cuts are found all the same.

    ``num_lost`` counts the chosen frames that could not be converted, and ``note`` says which cuts were left out.
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
    ) -> None:
        """Start at the beginning of a video, or where an interrupted run ended.

        Args:
            info: The extent of the video.
            sampling: Samples of a segment; a video shorter than one segment has as many samples as that.
            resize: How frames are resized; None keeps them full-sized.
            start_s: Where the first segment begins, in seconds.
            first_number: The number of that segment.
            observe: Called with the index and the full-size image of every sampled frame.
        """
        self._info, self._resize, self._start_s, self._observe = info, resize, start_s, observe
        step_s = min(1 / sampling.fps, max(info.shown_seconds, _TIE_S) / sampling.num_frames)
        self._segmenter: Segmenter[StreamedFrame, tuple[float, Picture]] = Segmenter(
            self._sample, start_s=start_s, step_s=step_s, num_frames=sampling.num_frames, first_number=first_number
        )
        # As on a grid, a remainder of less than half a step does not count.
        self._resized: tuple[Picture, Picture] | None = None  # the last image, and how it was resized
        self._is_one = info.shown_seconds < (sampling.num_frames + 0.5) / sampling.fps
        self._follower, self._num_reported = ShotFollower(), 0
        self.num_lost, self.note = 0, ""

    def read(self, frames: Iterable[StreamedFrame]) -> Iterator[ReadSegment]:
        """Yield the segments of a video's frames, which may begin earlier, for the detector."""
        for frame in frames:
            for decided in self._follower.add(frame):
                yield from self._add(*decided)
        for decided in self._follower.finish():
            yield from self._add(*decided)
        if self._follower.is_capped:
            self.note = f"it cuts more than {MAX_CUTS_PER_MINUTE} times a minute: further cuts there are left out"
        last = self._segmenter.finish(self._info.duration)
        for stretch in last:
            yield self._make(stretch, is_last=stretch is last[-1])

    def _add(self, frame: StreamedFrame, starts_shot: bool) -> Iterator[ReadSegment]:
        if frame.time_s >= self._start_s - _TIE_S:
            begins_segment = starts_shot and not self._is_one
            for stretch in self._segmenter.add(frame, frame.time_s, starts_shot=begins_segment):
                yield self._make(stretch)

    def _make(self, stretch: Stretch[tuple[float, Picture]], *, is_last: bool = False) -> ReadSegment:
        new = self._follower.changes[self._num_reported :]
        changes = list(takewhile(lambda change: change.start < stretch.end or is_last, new))
        self._num_reported += len(changes)
        changes = [change for change in changes if change.end >= self._start_s]
        frames = share_pictures(stretch.samples)
        return ReadSegment(stretch.number, stretch.start, stretch.end, frames, changes)

    def _sample(self, frame: StreamedFrame) -> tuple[float, Picture] | None:
        if frame.read_resized is not None and self._resize is not None and self._observe is None:
            return frame.time_s, frame.read_resized(self._resize)
        image = frame.read_image()
        if image is None:
            self.num_lost += 1
            return None
        if self._observe is not None:
            self._observe(frame.index, image)
        if self._resize is None:
            return frame.time_s, image
        if self._resized is None or self._resized[0] is not image:  # frames that stand still share one
            self._resized = image, resize_image(image, self._resize)
        return frame.time_s, self._resized[1]
