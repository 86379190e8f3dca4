"""Detection of gradual shot changes (fades, dissolves, wipes) in small grey pictures taken ten times a second.

Windows of several lengths slide over the samples. A window holds a gradual change if its ends differ by a multiple of
the change beside it, show different scenes, and are joined

- by a fade: texture vanishes in the middle,
- by a dissolve: the middle is a mixture of both ends, and mixing costs texture,
- by a wipe: every part of the picture changes at once, and looks like one of the ends before and after.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float32

from vidret.types import ShotKind
from vidret.video.shots.envelopes import (
    GreyFrame,
    correlate,
    envelope_distance,
    leave_envelopes,
    measure_residual,
    measure_share,
    to_cells,
)

_INTERVAL_S = 0.1
_MAX_GAP_S = 0.3  # between samples; a gradual change cannot be seen across a longer gap
_HALVES = (3, 5, 8)  # samples on each side of a window's middle
_BESIDE = 6  # samples before and after a window
_NUM_SLOTS = 2 * (_HALVES[-1] + _BESIDE) + 1  # samples that are held
_MAX_PAUSE = 2  # samples between windows that show one change
_MAX_LENGTH = 40  # samples
_WAIT = _BESIDE + 8  # samples after a window until it is reported

# Chosen on 60 films of 12 clips joined by every kind and on 190 real films without most of them.
_MIN_DIFFERENCE = 8.0  # grey levels between the cells of both ends
_MIN_CELL_RATIO = 1.0  # as _MIN_RATIO, for the cells' means, which are cheaper to compare
_MAX_CELL_CORRELATION = 0.7
_BASE = 2.0  # grey levels added to the change beside the window
_MIN_RATIO: dict[str, float] = {"fade": 1.0, "dissolve": 2.0, "wipe": 1.5}
_MAX_CORRELATION = 0.5
_CHANGED = 5.0  # grey levels by which the mean of a cell must change
_MIN_CHANGED = 0.5  # share of the cells
_MAX_PEAK = 6.0  # largest step between samples, over the mean one
_MIN_PROGRESS, _MAX_PROGRESS = 0.2, 0.8  # share of the second end in the middle picture
_MAX_FADE_TEXTURE = 0.3  # of the ends' texture
_MAX_DISSOLVE_TEXTURE = 0.9
_MAX_RESIDUAL = 0.4  # residual of mixing the ends, as a share of their difference
_MIN_SETTLED = 0.8  # share of the cells that look like one of the ends in the middle of a wipe
_MAX_UNSETTLED = 0.25  # difference of such a cell from that end, as a share of its whole change
_MIN_CONCENTRATION = 0.5  # share of its whole change that a cell makes in one step, median over the cells
_STARTED = 0.15  # of the way from one end to the other: where a change starts, and, counted back, where it ends


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of shot: ``frame`` is the position in the film of the new shot's first frame.

    A gradual change lasts from frame ``start`` to ``frame``; a cut has both equal. The kind of a wipe is dissolve.
    """

    start: int
    frame: int
    kind: ShotKind


@dataclass(frozen=True, slots=True)
class Decided:
    """A frame, its position in the film, and whether it starts a shot by a cut."""

    frame: GreyFrame
    index: int
    is_cut: bool


class _Sample:
    """A sampled frame, with values that are computed on first use.

    ``halves`` are the half lengths of the windows that end with this sample and whose ends differ.
    """

    def __init__(self, frame: GreyFrame, index: int, shot: int, before: GreyFrame | None) -> None:
        self.frame, self.index, self.shot = frame, index, shot
        self.halves: list[int] = []
        self._before = before

    @cached_property
    def change(self) -> Float32[np.ndarray, "6 8"]:
        """Change of every cell since the sample before."""
        return to_cells(leave_envelopes(self._before, self.frame)) / 2 if self._before else np.zeros((6, 8), np.float32)


@dataclass(frozen=True, slots=True)
class _Match:
    """Windows that show one change: their first and last sample, and ratio and transition of the best of them."""

    first: int
    last: int
    ratio: float
    transition: Transition


class GradualFinder:
    """Finds the gradual changes of shot of one film."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_NUM_SLOTS)
        self._num_samples = self._shot = 0
        self._last: GreyFrame | None = None  # the last frame that was sampled
        self._pending: _Match | None = None
        self._num_done = 0  # samples that no later transition may contain

    def add(self, frames: Sequence[Decided]) -> dict[int, list[Transition]]:
        """Add the next frames, and return the transitions found, by the index of the frame that decides them."""
        samples = [sample for decided in frames for sample in self._sample(decided)]
        if not samples:
            return {}
        _compare_ends([*self._samples, *samples], len(samples))
        return {sample.index: self._add(sample) for sample in samples}

    def _sample(self, decided: Decided) -> Iterator[_Sample]:
        """Yield a frame as a sample if it starts a shot, or the last sample is ``_INTERVAL_S`` before it."""
        frame, last = decided.frame, self._last
        gap_s = frame.time_s - last.time_s if last else 0.0
        if last is None or decided.is_cut or gap_s >= _INTERVAL_S - 1e-3:
            self._shot += decided.is_cut or gap_s > _MAX_GAP_S
            self._last = frame
            yield _Sample(frame, decided.index, self._shot, last)

    def _add(self, sample: _Sample) -> list[Transition]:
        """Check the windows that now have enough samples after them, and return the transitions that they decide."""
        self._samples.append(sample)
        self._num_samples += 1
        transitions = []
        if len(self._samples) > _BESIDE:
            for half in self._samples[-1 - _BESIDE].halves:
                transitions += self._look(self._num_samples - 1 - _BESIDE - half, half)
        if self._pending and self._num_samples > self._pending.last + _WAIT:
            transitions += self._take()
        return transitions

    def finish(self) -> list[Transition]:
        """Return the transitions among the last frames."""
        transitions = []
        for half in _HALVES:
            for middle in range(self._num_samples - _BESIDE - half, self._num_samples - half):
                transitions += self._look(middle, half)
        return transitions + self._take()

    def _take(self) -> list[Transition]:
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        self._num_done = pending.last
        return [pending.transition]

    def _look(self, middle: int, half: int) -> list[Transition]:
        """Check a window; return the pending transition if the window holds a new one."""
        offset = self._num_samples - len(self._samples)
        first, last = middle - half, middle + half
        is_open = first >= max(offset, self._num_done) and half in self._samples[last - offset].halves
        match = _match(self._samples, middle - offset, half) if is_open else None
        if match is None:
            return []
        new, old = _Match(first, last, *match), self._pending
        is_same = old is not None and first <= old.last + _MAX_PAUSE and last - old.first <= _MAX_LENGTH
        transitions = [] if is_same else self._take()
        if is_same or first >= self._num_done:
            self._pending = _merge(old, new) if old and is_same else new
        return transitions


def _merge(old: _Match, new: _Match) -> _Match:
    """Return the better of two matches that overlap, or their union if one follows the other."""
    better = max(old, new, key=lambda match: match.ratio)
    start, frame = new.transition.start, new.transition.frame
    if start < old.transition.frame and frame > old.transition.start:
        return better
    start, frame = min(start, old.transition.start), max(frame, old.transition.frame)
    first, last = min(old.first, new.first), max(old.last, new.last)
    return _Match(first, last, better.ratio, Transition(start, frame, better.transition.kind))


def _compare_ends(samples: Sequence[_Sample], num_new: int) -> None:
    """Record in the ``num_new`` last samples which windows that end with them have ends that differ."""
    cells = np.stack([sample.frame.cells for sample in samples])
    patterns = cells - cells.mean(axis=1, keepdims=True)
    patterns /= np.maximum(np.linalg.norm(patterns, axis=1, keepdims=True), 1e-9)
    for half in _HALVES:
        ends = np.arange(max(len(samples) - num_new, 2 * half), len(samples))
        starts = ends - 2 * half
        differences = np.abs(cells[ends] - cells[starts]).mean(axis=1)
        correlations = (patterns[ends] * patterns[starts]).sum(axis=1)
        is_other = (differences >= _MIN_DIFFERENCE) & (correlations <= _MAX_CELL_CORRELATION)
        for end in ends[is_other].tolist():
            if samples[end - 2 * half].shot == samples[end].shot:
                samples[end].halves.append(half)


def _match(samples: Sequence[_Sample], middle: int, half: int) -> tuple[float, Transition] | None:
    first, last = middle - half, middle + half
    start, end = samples[first], samples[last]
    before = next(sample for sample in _take_range(samples, first - _BESIDE, first) if sample.shot == start.shot)
    later = reversed(_take_range(samples, last, last + _BESIDE))
    after = next(sample for sample in later if sample.shot == end.shot)
    beside = (_differ(before, start) + _differ(end, after)) / 2
    if _differ(start, end) < _MIN_CELL_RATIO * (beside + _BASE):
        return None
    if correlate(start.frame, end.frame) > _MAX_CORRELATION:
        return None
    window = _take_range(samples, first, last)
    look = _look_at_middle(window)
    if look is None:
        return None
    beside = (envelope_distance(before.frame, start.frame) + envelope_distance(end.frame, after.frame)) / 2
    ratio = envelope_distance(start.frame, end.frame) / (beside + _BASE)
    kind = _classify(window, ratio, *look) if ratio >= min(_MIN_RATIO.values()) else None
    return (ratio, Transition(*_find_range(window), kind)) if kind else None


def _differ(one: _Sample, other: _Sample) -> float:
    return float(np.abs(one.frame.cells - other.frame.cells).mean())


def _take_range(samples: Sequence[_Sample], first: int, last: int) -> list[_Sample]:
    return [samples[index] for index in range(max(0, first), min(len(samples), last + 1))]


def _look_at_middle(window: Sequence[_Sample]) -> tuple[float, float] | None:
    """Return the middle's texture relative to the ends', and the second end's share in it; None if nothing changes."""
    start, middle, end = window[0].frame, window[len(window) // 2].frame, window[-1].frame
    texture = middle.texture / ((start.texture + end.texture) / 2 + 1)
    share = measure_share(start, middle, end)
    return (texture, share) if texture < _MAX_FADE_TEXTURE or _MIN_PROGRESS < share < _MAX_PROGRESS else None


def _classify(
    window: Sequence[_Sample], ratio: float, texture: float, share: float
) -> Literal["fade", "dissolve"] | None:
    start, middle, end = window[0].frame, window[len(window) // 2].frame, window[-1].frame
    change = to_cells(leave_envelopes(start, end)) / 2
    if (change > _CHANGED).mean() < _MIN_CHANGED:
        return None
    if texture < _MAX_FADE_TEXTURE:
        return "fade" if _is_gradual(window) else None
    may_dissolve = ratio > _MIN_RATIO["dissolve"] and texture < _MAX_DISSOLVE_TEXTURE
    if may_dissolve and measure_residual(start, middle, end, share) < _MAX_RESIDUAL:
        return "dissolve" if _is_gradual(window) else None
    if ratio <= _MIN_RATIO["wipe"]:
        return None
    from_start, to_end = to_cells(leave_envelopes(start, middle)) / 2, to_cells(leave_envelopes(middle, end)) / 2
    is_settled = np.minimum(from_start, to_end) < _MAX_UNSETTLED * change
    if is_settled.mean() < _MIN_SETTLED or not _is_gradual(window):
        return None
    steps = np.stack([sample.change for sample in window[1:]])
    concentration = float(np.median(steps.max(axis=0) / (steps.sum(axis=0) + 1)))
    return "dissolve" if concentration > _MIN_CONCENTRATION else None


def _is_gradual(window: Sequence[_Sample]) -> bool:
    """Return whether the change is spread over the samples, without one step that dominates."""
    steps = [float(sample.change.mean()) for sample in window[1:]]
    return max(steps) <= _MAX_PEAK * (sum(steps) / len(steps) + 0.5)


def _find_range(window: Sequence[_Sample]) -> tuple[int, int]:
    """Return the indices of the last frame like a window's first one, and of the first frame like its last one."""
    progress = []
    for frame in (sample.frame for sample in window):
        way, rest = envelope_distance(window[0].frame, frame), envelope_distance(frame, window[-1].frame)
        progress.append(way / (way + rest))
    first = max((k for k, share in enumerate(progress) if share <= _STARTED), default=0)
    last = min((k for k, share in enumerate(progress) if k > first and share >= 1 - _STARTED), default=len(window) - 1)
    return window[first].index, window[last].index
