"""Shot detection: where the shots of a film begin, from small grey pictures of its frames.

A frame starts a shot by a hard cut if

- the distance across it is a multiple of the distances between the frames beside it (an adaptive threshold),
- no frame before it looks like one soon after it: a flash ends where it began,
- most of the picture changes: a caption or a window that appears changes only a part,
- the frames beside it are not one picture under another light.

``gradual`` finds fades, dissolves and wipes.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise, product

from vidret.video.grey import Greys
from vidret.video.shots.envelopes import (
    NEAR,
    GreyFrame,
    GreyFrames,
    correlate,
    envelope_distance,
    leave_envelopes,
    to_cells,
)
from vidret.video.shots.gradual import Decided, GradualFinder, Transition

# Chosen together on about 600 changes in 190 films; F1 changes by less than 0.005 for _RATIO between 3.4 and 4.0.
_RATIO = 3.65  # distance across a cut, over that between the frames beside it
_BASE = 2.0  # grey levels added to the distance between the frames beside it, to allow for noise
_NUM_BESIDE = 4  # frames before and after a cut from which the threshold is computed
_MIN_DISTANCE = _RATIO * _BASE
_MIN_CHANGED = 0.6  # share of the picture's cells
_MAX_CORRELATION = 0.9
_FAR = 8  # frames; a change is a flash if within them the film returns to within _UNDONE of it
_UNDONE = 0.25
_CHANGED = 2.0  # grey levels by which the mean of a cell must change
_TEXTURED = 4.0  # grey levels between the bounds of an envelope
_NUM_RIVALS = 2  # frames before and after a cut that must change less
_LONG_S = 0.2  # if each frame is shown this long, as in slides, only two on each side of a cut are compared
_DECISION_S = 0.3  # a frame is decided after this time, or after _FAR - 1 frames

# Strobes and noise change more often than anybody cuts a film.
MAX_CUTS_PER_MINUTE = 120


class ShotDetector:
    """Finds the changes of shot of one film while its frames are decoded.

    The frames may be a subset of the film's, such as its keyframes: durations are taken from their times.

    Attributes:
        num_decided: Number of leading frames for which it is decided whether they start a shot by a hard cut. At most
            the last seven frames are undecided, and none that is 0.3 s older than the last one.
        is_capped: Whether cuts were left out because there were more than ``MAX_CUTS_PER_MINUTE``.
    """

    def __init__(self) -> None:
        self._made = GreyFrames()
        self._frames: deque[GreyFrame] = deque(maxlen=2 * _FAR + 1)
        self._num_frames = self.num_decided = 0
        self._num_compared = 0  # _may_differ applies to frames before this one
        self._may_differ = True
        self._gradual = GradualFinder()
        self._cut_times: deque[float] = deque()
        self.is_capped = False

    def add(self, greys: Greys, times_s: Sequence[float]) -> list[tuple[int, list[Transition]]]:
        """Add the next frames in presentation order, and return (``num_decided``, new transitions) of each step.

        The pictures are kept, and must not be changed. The steps do not depend on the number of frames that are added
        at once. A gradual transition is decided up to 2 s after its end.
        """
        decided: list[Decided] = []
        steps = []
        for frame in self._made.make(greys, times_s):
            self._frames.append(frame)
            self._num_frames += 1
            if self._num_frames - self.num_decided >= NEAR or self._is_due():
                self._decide(decided, is_end=False)
                steps.append(self.num_decided)
        return self._find_transitions(decided, steps)

    def finish(self) -> list[Transition]:
        """Return the transitions among the last frames; no frame may follow."""
        decided: list[Decided] = []
        self._decide(decided, is_end=True)
        last_transitions = [
            transition
            for _, transitions in self._find_transitions(decided, [self.num_decided])
            for transition in transitions
        ]
        return last_transitions + self._gradual.finish()

    def _find_transitions(self, decided: Sequence[Decided], steps: Sequence[int]) -> list[tuple[int, list[Transition]]]:
        """Return each step's ``num_decided``, and the transitions found with the frames that it decided."""
        gradual = self._gradual.add(decided)
        transitions_by_step: list[tuple[int, list[Transition]]] = []
        position = 0
        for num_decided in steps:
            transitions: list[Transition] = []
            while position < len(decided) and decided[position].index < num_decided:
                index, is_cut = decided[position].index, decided[position].is_cut
                transitions += [Transition(index, index, "cut")] if is_cut else []
                transitions += gradual.get(index, [])
                position += 1
            transitions_by_step.append((num_decided, transitions))
        return transitions_by_step

    def _position(self) -> int:
        """Return the position of the first undecided frame in ``self._frames``."""
        return len(self._frames) - (self._num_frames - self.num_decided)

    def _is_due(self) -> bool:
        age_s = self._frames[-1].time_s - self._frames[self._position()].time_s
        return self._num_frames - 1 - self.num_decided >= _FAR - 1 or age_s >= _DECISION_S

    def _decide(self, decided: list[Decided], *, is_end: bool) -> None:
        """Append to ``decided`` the frames that can be decided."""
        while self.num_decided < self._num_frames:
            index, position = self.num_decided, self._position()
            if not self._may_cut(index, position):
                is_cut = False
            elif is_end or self._is_due():
                is_cut = _starts_shot(self._frames, position) and self._allow_cut(self._frames[position].time_s)
            else:
                break
            self.num_decided += 1
            decided.append(Decided(self._frames[position], index, is_cut))

    def _may_cut(self, index: int, position: int) -> bool:
        """Return False if a frame cannot be a cut because the frames around it and the next ones are alike.

        All frames up to NEAR apart differ across a cut, so one comparison decides for NEAR frames.
        """
        if index >= self._num_compared and 0 < position <= len(self._frames) - NEAR:
            self._num_compared = index + NEAR
            after = self._frames[position - 1 + NEAR]
            # The plain difference is cheaper, and an upper bound of the distance.
            self._may_differ = after.near_difference >= _MIN_DISTANCE and after.near_distance >= _MIN_DISTANCE
        return index > 0 and (index >= self._num_compared or self._may_differ)

    def _allow_cut(self, time_s: float) -> bool:
        while self._cut_times and self._cut_times[0] <= time_s - 60:
            self._cut_times.popleft()
        if len(self._cut_times) >= MAX_CUTS_PER_MINUTE:
            self.is_capped = True
            return False
        self._cut_times.append(time_s)
        return True


def _starts_shot(frames: Sequence[GreyFrame], position: int) -> bool:
    if frames[position].difference < _MIN_DISTANCE:
        return False
    step = frames[position].step
    if step < _MIN_DISTANCE:
        return False
    nearest = [frames[index].time_s for index in range(max(0, position - 2), min(len(frames), position + 2))]
    is_slow = all(later - earlier >= _LONG_S for earlier, later in pairwise(nearest))
    num_beside, far = (1, 2) if is_slow else (_NUM_BESIDE, _FAR)
    before = [frames[index].step for index in range(max(1, position - num_beside), position)]
    after = [frames[index].step for index in range(position + 1, min(len(frames), position + 1 + num_beside))]
    beside = before + after
    threshold = _RATIO * (_BASE + (sum(beside) / len(beside) if beside else 0.0))
    is_largest = step > max(before[-_NUM_RIVALS:], default=0.0) and step >= max(after[:_NUM_RIVALS], default=0.0)
    if step < threshold or not is_largest:
        return False
    earlier = range(position - 1, max(0, position - far) - 1, -1)
    later = range(position, min(len(frames), position + far))
    spans = [(frames[one], frames[other], other - one) for one, other in product(earlier, later) if other - one <= _FAR]
    return all(_are_different(one, other, threshold) for one, other, length in spans if length <= NEAR) and all(
        envelope_distance(one, other) >= _UNDONE * step for one, other, length in spans if length > NEAR
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
    return correlate(one, other) <= _MAX_CORRELATION
