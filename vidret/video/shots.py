"""Shot detection: where one shot of a film ends and the next begins, from small grey pictures of its frames.

Two frames are compared through envelopes. The envelope of a picture is the minimum and the maximum of every pixel's
3x3 neighbourhood, and the distance counts by how many grey levels the other picture leaves it. Small motion, noise and
compression stay inside the envelope; another scene does not. A frame starts a shot if

- the distance across it is a multiple of the distances between the frames beside it (an adaptive threshold),
- no frame up to three before it looks like a frame up to three after it: a flash ends where it began,
- most of the picture changes: a caption or a window that appears changes only a part,
- the frames beside it are not one picture under another light.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt16

GREY_SHAPE = (36, 64)  # rows, columns of the small grey picture

Grey = UInt8[np.ndarray, "36 64"]

# Chosen together on about 600 changes in 190 films; F1 changes by less than 0.005 for _RATIO between 3.4 and 4.0.
_RATIO = 3.65  # distance across a cut, over that between the frames beside it
_BASE = 2.0  # grey levels added to the distance between the frames beside it: what noise alone may change
_NUM_BESIDE = 4  # frames before and after a cut that the threshold looks at
_MIN_DISTANCE = _RATIO * _BASE
_MIN_CHANGED = 0.6  # share of the picture's cells
_MAX_CORRELATION = 0.9
_REACH = 4  # frames; a change that is undone within it is a flash
_NUM_RIVALS = 2  # frames before and after a cut that must change less
_DECISION_S = 0.3  # a frame is decided after so many seconds, or after _NUM_BESIDE frames

_CHANGED = 2.0  # grey levels by which the mean of a cell (6 x 8 pixels) must change
_TEXTURED = 4.0  # grey levels between the bounds of an envelope

# Strobes and noise change more often than anybody cuts a film.
MAX_CUTS_PER_MINUTE = 120

# Four samples of a block, in eighths of its height and width.
_SAMPLES = ((1, 4), (3, 1), (5, 6), (7, 3))


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of shot: ``frame`` is the first frame of the new shot, by its position among the frames added.

    A gradual one lasts from frame ``start`` to ``frame``; a cut has both equal.
    """

    start: int
    frame: int
    kind: Literal["cut", "fade", "dissolve"]


class ShotDetector:
    """Finds the changes of shot of one film while its frames are decoded.

    Frames may be a part of the film's, say its key frames: durations are taken from their times.
    """

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque(maxlen=3 * _NUM_BESIDE)
        self._num_frames = self._num_decided = 0
        self._cut_times: deque[float] = deque()
        self._is_capped = False

    @property
    def num_decided(self) -> int:
        """Number of frames from the first on that are known to start a shot by a hard cut or not to.

        The others are the last four frames at most, and none of them is 0.3 s older than the last one.
        """
        return self._num_decided

    @property
    def is_capped(self) -> bool:
        """Whether cuts were left out because there were more than ``MAX_CUTS_PER_MINUTE``."""
        return self._is_capped

    def add(self, grey: Grey, time_s: float) -> list[Transition]:
        """Add the next frame in order of display, and return the transitions that are decided by it."""
        self._frames.append(_Frame(grey, time_s))
        self._num_frames += 1
        found = []
        while self._num_decided < self._num_frames and self._is_due():
            found += self._decide()
        return found

    def finish(self) -> list[Transition]:
        """Return the transitions among the last frames; no frame may follow."""
        found = []
        while self._num_decided < self._num_frames:
            found += self._decide()
        return found

    def _position(self) -> int:
        """Return where the first undecided frame lies among those that are held."""
        return len(self._frames) - (self._num_frames - self._num_decided)

    def _is_due(self) -> bool:
        age_s = self._frames[-1].time_s - self._frames[self._position()].time_s
        return self._num_frames - 1 - self._num_decided >= _NUM_BESIDE or age_s >= _DECISION_S

    def _decide(self) -> list[Transition]:
        index, position = self._num_decided, self._position()
        self._num_decided += 1
        if not index or not _starts_shot(self._frames, position):
            return []
        frame = self._frames[position]
        while self._cut_times and self._cut_times[0] <= frame.time_s - 60:
            self._cut_times.popleft()
        if len(self._cut_times) >= MAX_CUTS_PER_MINUTE:
            self._is_capped = True
            return []
        self._cut_times.append(frame.time_s)
        return [Transition(index, index, "cut")]


class _Frame:
    """A frame and what is computed from it when it is needed."""

    def __init__(self, grey: Grey, time_s: float) -> None:
        self.grey, self.time_s = grey, time_s
        self.step: float | None = None  # distance to the frame before

    @cached_property
    def low(self) -> Grey:
        """The lower bound of the envelope."""
        return _spread(np.minimum, self.grey)

    @cached_property
    def high(self) -> Grey:
        """The upper bound of the envelope."""
        return _spread(np.maximum, self.grey)


def _starts_shot(frames: Sequence[_Frame], position: int) -> bool:
    # No distance is above the plain difference, which is cheaper.
    if _difference(frames[position - 1], frames[position]) < _MIN_DISTANCE:
        return False
    step = _distance(frames[position - 1], frames[position])
    if step < _MIN_DISTANCE:
        return False
    before = [_step(frames, each) for each in range(max(1, position - _NUM_BESIDE), position)]
    after = [_step(frames, each) for each in range(position + 1, min(len(frames), position + 1 + _NUM_BESIDE))]
    beside = before + after
    threshold = _RATIO * (_BASE + (sum(beside) / len(beside) if beside else 0.0))
    is_largest = step > max(before[-_NUM_RIVALS:], default=0.0) and step >= max(after[:_NUM_RIVALS], default=0.0)
    if step < threshold or not is_largest:
        return False
    earlier = range(max(0, position - _REACH), position)
    later = range(position, min(len(frames), position + _REACH))
    spans = ((one, other) for one, other in product(reversed(earlier), later) if other - one <= _REACH)
    return all(_are_different(frames[one], frames[other], threshold) for one, other in spans)


def _are_different(one: _Frame, other: _Frame, threshold: float) -> bool:
    """Return whether two frames show different scenes."""
    change = _to_cells(_departure(one, other)) / 2
    if change.mean() < threshold:
        return False
    texture = (_to_cells(one.high - one.low) + _to_cells(other.high - other.low)) / 2
    changed = change > _CHANGED
    if changed.sum() < _MIN_CHANGED * (changed | (texture > _TEXTURED)).sum():
        return False
    return _correlate(one.grey, other.grey) <= _MAX_CORRELATION


def _correlate(one: Grey, other: Grey) -> float:
    """Return the correlation of two pictures, which no change of brightness or contrast affects; 0 for flat ones."""
    x, y = one - one.mean(), other - other.mean()
    variance = float((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / math.sqrt(variance) if variance else 0.0


def _step(frames: Sequence[_Frame], position: int) -> float:
    """Return the distance of a frame to the one before."""
    frame = frames[position]
    if frame.step is None:
        frame.step = _distance(frames[position - 1], frame)
    return frame.step


def _difference(one: _Frame, other: _Frame) -> float:
    """Return the mean absolute difference, in grey levels."""
    difference = np.maximum(one.grey, other.grey) - np.minimum(one.grey, other.grey)
    return float(difference.sum(dtype=np.uint32)) / one.grey.size


def _distance(one: _Frame, other: _Frame) -> float:
    """Return by how much each picture leaves the envelope of the other on average, in grey levels."""
    return float(_departure(one, other).sum(dtype=np.uint32)) / (2 * one.grey.size)


def _departure(one: _Frame, other: _Frame) -> UInt16[np.ndarray, "36 64"]:
    """Return by how much each picture leaves the envelope of the other, added up for every pixel."""
    total: UInt16[np.ndarray, "36 64"] = _leave(one.grey, other).astype(np.uint16)
    total += _leave(other.grey, one)
    return total


def _leave(grey: Grey, envelope: _Frame) -> Grey:
    above = np.maximum(grey, envelope.high) - envelope.high
    below = envelope.low - np.minimum(grey, envelope.low)
    left: Grey = above + below  # one of them is 0
    return left


def _to_cells(picture: UInt8[np.ndarray, "36 64"] | UInt16[np.ndarray, "36 64"]) -> Float64[np.ndarray, "6 8"]:
    means: Float64[np.ndarray, "6 8"] = picture.reshape(6, 6, 8, 8).mean(axis=(1, 3))
    return means


def _spread(extreme: np.ufunc, grey: Grey) -> Grey:
    """Return the extreme of every pixel's 3x3 neighbourhood."""
    rows = grey.copy()
    extreme(rows[1:], grey[:-1], out=rows[1:])
    extreme(rows[:-1], grey[1:], out=rows[:-1])
    columns = rows.copy()
    extreme(columns[:, 1:], rows[:, :-1], out=columns[:, 1:])
    extreme(columns[:, :-1], rows[:, 1:], out=columns[:, :-1])
    return columns


def grey_from_luma(plane: UInt8[np.ndarray, "height width"]) -> Grey:
    """Return a luma plane as a picture of 36 x 64 blocks, each the mean of four samples.

    The last rows and columns that fill no block are left out, in halves on each side. A plane of fewer than 8 pixels
    per block, where that would be too much, is sampled at rounded positions.
    """
    height, width = plane.shape
    rows, columns = height // GREY_SHAPE[0], width // GREY_SHAPE[1]
    total = np.zeros(GREY_SHAPE, np.uint16)
    if min(rows, columns) < 8:
        for each_rows, each_columns in _sample_positions(height, width):
            total += plane[each_rows, each_columns]
    else:
        top, left = (height - rows * GREY_SHAPE[0]) // 2, (width - columns * GREY_SHAPE[1]) // 2
        for number, (row, column) in enumerate(_SAMPLES):
            y = top + (rows * row // 8 | number & 1)  # both fields of an interlaced film
            x = left + columns * column // 8
            total += plane[
                y : y + rows * (GREY_SHAPE[0] - 1) + 1 : rows, x : x + columns * (GREY_SHAPE[1] - 1) + 1 : columns
            ]
    return (total >> 2).astype(np.uint8)


@lru_cache(maxsize=8)
def _sample_positions(height: int, width: int) -> list[tuple[Int64[np.ndarray, "36 1"], Int64[np.ndarray, " 64"]]]:
    """Return the rows and columns of the four samples of every block."""
    y, x = np.arange(GREY_SHAPE[0])[:, None], np.arange(GREY_SHAPE[1])
    return [
        ((y * 8 + row) * height // (8 * GREY_SHAPE[0]), (x * 8 + column) * width // (8 * GREY_SHAPE[1]))
        for row, column in _SAMPLES
    ]
