"""Distances between the small grey pictures of two frames, measured by envelopes.

The envelope of a picture is the minimum and the maximum of every pixel's 3x3 neighbourhood, and the distance counts by
how many grey levels the other picture leaves it. Small motion, noise and compression stay inside the envelope; another
scene does not.

Values of single pictures are computed in batches, since NumPy takes about as long for a few pictures as for one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8, UInt16

from vidret.video.grey import GREY_SHAPE, Grey, Greys

NEAR = 4  # frames; a change that is undone within them is a flash

_NUM_PIXELS = GREY_SHAPE[0] * GREY_SHAPE[1]
# Rows and columns of 6 x 8 cells, added up and averaged: products are faster than a mean.
_CELL_ROWS = np.kron(np.eye(6, dtype=np.float32), np.ones((1, 6), np.float32))
_CELL_COLUMNS = np.kron(np.eye(8, dtype=np.float32), np.full((8, 1), 1 / 48, np.float32))


class _Batch:
    """Consecutive pictures, preceded by ``NEAR`` earlier ones, with values computed for all of them on first use."""

    def __init__(self, greys: Greys) -> None:
        self.greys = greys

    @cached_property
    def sides(self) -> UInt8[np.ndarray, "frame 4 36 64"]:
        """Picture, negative, upper bound of the envelope, and inverted lower bound, which is the negative's upper one.

        Thus one maximum computes both bounds.
        """
        sides = np.empty((len(self.greys), 4, *GREY_SHAPE), np.uint8)
        pictures, bounds = sides[:, :2], sides[:, 2:]
        pictures[:, 0], pictures[:, 1] = self.greys, ~self.greys
        rows = pictures.copy()
        np.maximum(rows[:, :, 1:], pictures[:, :, :-1], out=rows[:, :, 1:])
        np.maximum(rows[:, :, :-1], pictures[:, :, 1:], out=rows[:, :, :-1])
        bounds[:] = rows
        np.maximum(bounds[..., 1:], rows[..., :-1], out=bounds[..., 1:])
        np.maximum(bounds[..., :-1], rows[..., 1:], out=bounds[..., :-1])
        return sides

    @cached_property
    def swapped_sides(self) -> UInt8[np.ndarray, "frame 4 36 64"]:
        """The bounds of each envelope before its picture, so that one maximum compares two frames both ways."""
        return np.concatenate([self.sides[:, 2:], self.sides[:, :2]], axis=1)

    @cached_property
    def bounds_sums(self) -> Int64[np.ndarray, " frame"]:
        """The sum of all bounds of each picture."""
        return _sum_pixels(self.sides[:, 2:])

    @cached_property
    def vectors(self) -> Float64[np.ndarray, "frame pixel"]:
        """The pictures as vectors."""
        return self.greys.reshape(len(self.greys), _NUM_PIXELS).astype(np.float64)

    @cached_property
    def steps(self) -> Float64[np.ndarray, " frame"]:
        """The distance of each frame to the one before; 0 for the first."""
        return self._measure_distances(1)

    @cached_property
    def near_distances(self) -> Float64[np.ndarray, " frame"]:
        """The distance of each frame to the one ``NEAR`` frames before; 0 for the first ``NEAR``."""
        return self._measure_distances(NEAR)

    def _measure_distances(self, gap: int) -> Float64[np.ndarray, " frame"]:
        distances = np.zeros(len(self.greys))
        left = _sum_pixels(np.maximum(self.sides[:-gap], self.swapped_sides[gap:]))
        distances[gap:] = (left - self.bounds_sums[:-gap] - self.bounds_sums[gap:]) / (2 * _NUM_PIXELS)
        return distances


@dataclass(frozen=True, slots=True, eq=False)
class GreyFrame:
    """A frame: a row of a batch of pictures, its start time, and the means of its cells, row by row.

    ``difference`` is its mean difference from the frame before, ``near_difference`` from that ``NEAR`` frames before.
    """

    batch: _Batch
    row: int
    time_s: float
    cells: Float32[np.ndarray, " 48"]
    difference: float
    near_difference: float

    @property
    def step(self) -> float:
        """The distance to the frame before."""
        return float(self.batch.steps[self.row])

    @property
    def near_distance(self) -> float:
        """The distance to the frame ``NEAR`` frames before."""
        return float(self.batch.near_distances[self.row])

    @property
    def sides(self) -> UInt8[np.ndarray, "4 36 64"]:
        """The picture, its negative and the bounds of its envelope; see ``_Batch``."""
        sides: UInt8[np.ndarray, "4 36 64"] = self.batch.sides[self.row]
        return sides

    @property
    def width(self) -> Grey:
        """The width of the envelope."""
        width: Grey = self.sides[2] - ~self.sides[3]
        return width

    @property
    def texture(self) -> float:
        """The mean width of the envelope."""
        return float(self.width.sum(dtype=np.uint32)) / _NUM_PIXELS

    @property
    def vector(self) -> Float64[np.ndarray, " pixel"]:
        """The picture as a float64 vector, whose dot products are exact."""
        vector: Float64[np.ndarray, " pixel"] = self.batch.vectors[self.row]
        return vector


class GreyFrames:
    """Converts the pictures of a film to ``GreyFrame``, batch by batch."""

    def __init__(self) -> None:
        self._last: Greys | None = None  # the last NEAR pictures; None before the first

    def make(self, greys: Greys, times_s: Sequence[float]) -> list[GreyFrame]:
        """Return the frames of the next pictures, at least one. The pictures are kept, and must not be changed."""
        last = np.repeat(greys[:1], NEAR, axis=0) if self._last is None else self._last
        joined = np.concatenate([last, greys])
        self._last = joined[-NEAR:]
        cells = to_cells(greys).reshape(len(greys), -1)
        differences = mean_differences(joined[NEAR - 1 : -1], greys).tolist()
        near_differences = mean_differences(joined[:-NEAR], greys).tolist()
        batch = _Batch(joined)
        rows = enumerate(zip(times_s, cells, differences, near_differences, strict=True), start=NEAR)
        return [GreyFrame(batch, row, *values) for row, values in rows]


def mean_differences(ones: Greys, others: Greys) -> Float64[np.ndarray, " frame"]:
    """Return the mean absolute difference of each pair of pictures, in grey levels."""
    differences = np.maximum(ones, others) - np.minimum(ones, others)
    return _sum_pixels(differences) / _NUM_PIXELS


def _sum_pixels(pictures: UInt8[np.ndarray, "frame ..."]) -> Int64[np.ndarray, " frame"]:
    sums: Int64[np.ndarray, " frame"] = (
        pictures.reshape(len(pictures), -1).sum(axis=1, dtype=np.uint32).astype(np.int64)
    )
    return sums


def correlate(one: GreyFrame, other: GreyFrame) -> float:
    """Return the correlation of two pictures, which is invariant to brightness and contrast; 0 for flat ones."""
    (x, y), (x_sum, y_sum) = (one.vector, other.vector), (float(one.vector.sum()), float(other.vector.sum()))
    variance = (_NUM_PIXELS * float(x @ x) - x_sum * x_sum) * (_NUM_PIXELS * float(y @ y) - y_sum * y_sum)
    return (_NUM_PIXELS * float(x @ y) - x_sum * y_sum) / math.sqrt(variance) if variance else 0.0


def measure_share(start: GreyFrame, middle: GreyFrame, end: GreyFrame) -> float:
    """Return the share of ``end`` in the mixture of ``start`` and ``end`` that is nearest to ``middle``."""
    difference = end.vector - start.vector
    return float((middle.vector - start.vector) @ difference) / float(difference @ difference)


def measure_residual(start: GreyFrame, middle: GreyFrame, end: GreyFrame, share: float) -> float:
    """Return the mean residual of ``middle`` after mixing both ends, relative to the difference of the ends."""
    difference = end.vector - start.vector
    rest = middle.vector - start.vector - share * difference
    return float(np.abs(rest).mean() / np.abs(difference).mean())


def _leave(one: GreyFrame, other: GreyFrame) -> UInt8[np.ndarray, "4 36 64"]:
    """Return the maximum of each picture's sides and the other's bounds."""
    upper: UInt8[np.ndarray, "4 36 64"] = np.maximum(one.sides, other.batch.swapped_sides[other.row])
    return upper


def envelope_distance(one: GreyFrame, other: GreyFrame) -> float:
    """Return the mean excess of two pictures over each other's envelope, in grey levels."""
    bounds_sum = one.batch.bounds_sums[one.row] + other.batch.bounds_sums[other.row]
    return float(_leave(one, other).sum(dtype=np.uint32) - bounds_sum) / (2 * _NUM_PIXELS)


def leave_envelopes(one: GreyFrame, other: GreyFrame) -> UInt16[np.ndarray, "36 64"]:
    """Return the excess of two pictures over each other's envelope at every pixel, the sum of both, in grey levels."""
    left = _leave(one, other)
    left[:2] -= other.sides[2:]
    left[2:] -= one.sides[2:]
    # A picture is above its envelope or below it, so that the sum of both stays within eight bits.
    total: UInt16[np.ndarray, "36 64"] = (left[0] + left[1]).astype(np.uint16)
    total += left[2] + left[3]
    return total


def to_cells(
    pictures: UInt8[np.ndarray, "*frame 36 64"] | UInt16[np.ndarray, "*frame 36 64"],
) -> Float32[np.ndarray, "*frame 6 8"]:
    """Return the means of 6 x 8 cells of 6 x 8 pixels."""
    return _CELL_ROWS @ pictures.astype(np.float32) @ _CELL_COLUMNS
