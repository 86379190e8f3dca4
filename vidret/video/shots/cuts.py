"""Shot detection: where one shot of a film ends and the next begins, from small grey pictures of its frames.

A frame starts a shot by a hard cut if

- the distance across it is a multiple of the distances between the frames beside it (an adaptive threshold),
- no frame before it looks like one soon after it: a flash ends where it began,
- most of the picture changes: a caption or a window that appears changes only a part,
- the frames beside it are not one picture under another light.

``gradual`` finds fades, dissolves and wipes.
"""

from collections import deque
from collections.abc import Sequence
from itertools import product

from vidret.video.grey import (
    Grey,
    GreyFrame,
    correlate_greys,
    envelope_distance,
    leave_envelopes,
    mean_difference,
    to_cells,
)
from vidret.video.shots.gradual import GradualFinder, Transition

# Chosen together on about 600 changes in 190 films; F1 changes by less than 0.005 for _RATIO between 3.4 and 4.0.
_RATIO = 3.65  # distance across a cut, over that between the frames beside it
_BASE = 2.0  # grey levels added to the distance between the frames beside it: what noise alone may change
_NUM_BESIDE = 4  # frames before and after a cut that the threshold looks at
_MIN_DISTANCE = _RATIO * _BASE
_MIN_CHANGED = 0.6  # share of the picture's cells
_MAX_CORRELATION = 0.9
_NEAR = 4  # frames; a change that is undone within them is a flash
_FAR = 8  # frames; within them, a flash is so strong that what follows differs by less than _UNDONE of it
_UNDONE = 0.25
_CHANGED = 2.0  # grey levels by which the mean of a cell must change
_TEXTURED = 4.0  # grey levels between the bounds of an envelope
_NUM_RIVALS = 2  # frames before and after a cut that must change less
_DECISION_S = 0.3  # a frame is decided after so many seconds, or after _FAR - 1 frames

# Strobes and noise change more often than anybody cuts a film.
MAX_CUTS_PER_MINUTE = 120


class ShotDetector:
    """Finds the changes of shot of one film while its frames are decoded.

    Frames may be a part of the film's, say its key frames: durations are taken from their times.
    """

    def __init__(self) -> None:
        self._frames: deque[GreyFrame] = deque(maxlen=2 * _FAR + 1)
        self._num_frames = self._num_decided = 0
        self._num_compared = 0  # frames before this one are answered by _may_differ
        self._may_differ = True
        self._gradual = GradualFinder()
        self._cut_times: deque[float] = deque()
        self._is_capped = False

    @property
    def num_decided(self) -> int:
        """Number of frames from the first on that are known to start a shot by a hard cut or not to.

        The others are the last seven frames at most, and none of them is 0.3 s older than the last one.
        """
        return self._num_decided

    @property
    def is_capped(self) -> bool:
        """Whether cuts were left out because there were more than ``MAX_CUTS_PER_MINUTE``."""
        return self._is_capped

    def add(self, grey: Grey, time_s: float) -> list[Transition]:
        """Add the next frame in order of display, and return the transitions that are decided by it.

        The picture is kept, and must not be changed. A gradual transition is decided up to 2 s after its end.
        """
        self._frames.append(GreyFrame(grey, time_s))
        self._num_frames += 1
        is_enough = self._num_frames - self._num_decided >= _NEAR or self._is_due()
        return self._advance(is_end=False) if is_enough else []

    def finish(self) -> list[Transition]:
        """Return the transitions among the last frames; no frame may follow."""
        return self._advance(is_end=True) + self._gradual.finish()

    def _position(self) -> int:
        """Return where the first undecided frame is among those that are held."""
        return len(self._frames) - (self._num_frames - self._num_decided)

    def _is_due(self) -> bool:
        age_s = self._frames[-1].time_s - self._frames[self._position()].time_s
        return self._num_frames - 1 - self._num_decided >= _FAR - 1 or age_s >= _DECISION_S

    def _advance(self, *, is_end: bool) -> list[Transition]:
        """Decide the frames that can be decided."""
        found = []
        while self._num_decided < self._num_frames:
            index, position = self._num_decided, self._position()
            if not self._may_cut(index, position):
                is_cut = False
            elif is_end or self._is_due():
                is_cut = _starts_shot(self._frames, position) and self._allow_cut(self._frames[position].time_s)
            else:
                break
            self._num_decided += 1
            found += [Transition(index, index, "cut")] if is_cut else []
            found += self._gradual.add(self._frames[position], index, is_cut=is_cut)
        return found

    def _may_cut(self, index: int, position: int) -> bool:
        """Return False where the frames around some following ones are alike, so that none of them is a cut.

        Every cut makes all frames up to _NEAR apart across it differ, so one comparison speaks for _NEAR frames.
        """
        if index >= self._num_compared and 0 < position <= len(self._frames) - _NEAR:
            self._num_compared = index + _NEAR
            before, after = self._frames[position - 1], self._frames[position - 1 + _NEAR]
            self._may_differ = (
                mean_difference(before, after) >= _MIN_DISTANCE and envelope_distance(before, after) >= _MIN_DISTANCE
            )
        return index > 0 and (index >= self._num_compared or self._may_differ)

    def _allow_cut(self, time_s: float) -> bool:
        while self._cut_times and self._cut_times[0] <= time_s - 60:
            self._cut_times.popleft()
        if len(self._cut_times) >= MAX_CUTS_PER_MINUTE:
            self._is_capped = True
            return False
        self._cut_times.append(time_s)
        return True


def _starts_shot(frames: Sequence[GreyFrame], position: int) -> bool:
    # No distance is above the plain difference, which is cheaper.
    if mean_difference(frames[position - 1], frames[position]) < _MIN_DISTANCE:
        return False
    step = envelope_distance(frames[position - 1], frames[position])
    if step < _MIN_DISTANCE:
        return False
    before = [_step(frames, index) for index in range(max(1, position - _NUM_BESIDE), position)]
    after = [_step(frames, index) for index in range(position + 1, min(len(frames), position + 1 + _NUM_BESIDE))]
    beside = before + after
    threshold = _RATIO * (_BASE + (sum(beside) / len(beside) if beside else 0.0))
    is_largest = step > max(before[-_NUM_RIVALS:], default=0.0) and step >= max(after[:_NUM_RIVALS], default=0.0)
    if step < threshold or not is_largest:
        return False
    earlier = range(position - 1, max(0, position - _FAR) - 1, -1)
    later = range(position, min(len(frames), position + _FAR))
    spans = [(frames[one], frames[other], other - one) for one, other in product(earlier, later) if other - one <= _FAR]
    return all(_are_different(one, other, threshold) for one, other, length in spans if length <= _NEAR) and all(
        envelope_distance(one, other) >= _UNDONE * step for one, other, length in spans if length > _NEAR
    )


def _are_different(one: GreyFrame, other: GreyFrame, threshold: float) -> bool:
    """Return whether two frames show different scenes."""
    change = to_cells(leave_envelopes(one, other)) / 2
    if change.mean() < threshold:
        return False
    texture = (to_cells(one.width) + to_cells(other.width)) / 2
    changed = change > _CHANGED
    if changed.sum() < _MIN_CHANGED * (changed | (texture > _TEXTURED)).sum():
        return False
    return correlate_greys(one.grey, other.grey) <= _MAX_CORRELATION


def _step(frames: Sequence[GreyFrame], position: int) -> float:
    """Return the distance of a frame to the one before."""
    frame = frames[position]
    if frame.step is None:
        frame.step = envelope_distance(frames[position - 1], frame)
    return frame.step
