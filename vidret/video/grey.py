"""Small grey pictures of frames, and how far two of them are apart.

Pictures are compared through envelopes. The envelope of a picture is the minimum and the maximum of every pixel's 3x3
neighbourhood, and the distance counts by how many grey levels the other picture leaves it. Small motion, noise and
compression stay inside the envelope; another scene does not.
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt16

GREY_SHAPE = (36, 64)  # rows, columns of the small grey picture

# Rows and columns of 6 x 8 cells, added up and averaged.
_CELL_ROWS = np.kron(np.eye(6, dtype=np.float32), np.ones((1, 6), np.float32))
_CELL_COLUMNS = np.kron(np.eye(8, dtype=np.float32), np.full((8, 1), 1 / 48, np.float32))

Grey = UInt8[np.ndarray, "36 64"]
Greys = UInt8[np.ndarray, "frame 36 64"]

_Positions = slice | Int64[np.ndarray, "..."]

# Four samples of a block, in eighths of its height and width; on two rows, since rows are what memory is read in.
_SAMPLES = ((2, 1), (2, 5), (6, 3), (6, 7))


class GreyFrame:
    """A frame and what is computed from it when it is needed."""

    def __init__(self, grey: Grey, time_s: float) -> None:
        self.grey, self.time_s = grey, time_s
        self.step: float | None = None  # distance to the frame before

    @cached_property
    def sides(self) -> UInt8[np.ndarray, "2 36 64"]:
        """The picture and its negative, so that one maximum serves for both bounds of the envelope."""
        return np.stack([self.grey, ~self.grey])

    @cached_property
    def bounds(self) -> UInt8[np.ndarray, "2 36 64"]:
        """The upper bound of the envelope, and that of the negative's: the lower bound, inverted."""
        rows = self.sides.copy()
        np.maximum(rows[:, 1:], self.sides[:, :-1], out=rows[:, 1:])
        np.maximum(rows[:, :-1], self.sides[:, 1:], out=rows[:, :-1])
        # Columns in one run over all rows, which is faster, with the two at the edges mended.
        bounds = rows.copy()
        line, neighbours = bounds.reshape(-1), rows.reshape(-1)
        np.maximum(line[1:], neighbours[:-1], out=line[1:])
        np.maximum(line[:-1], neighbours[1:], out=line[:-1])
        np.maximum(rows[:, :, 0], rows[:, :, 1], out=bounds[:, :, 0])
        np.maximum(rows[:, :, -1], rows[:, :, -2], out=bounds[:, :, -1])
        return bounds

    @cached_property
    def bounds_sum(self) -> int:
        """The sum of all bounds."""
        return int(self.bounds.sum(dtype=np.uint32))

    @property
    def width(self) -> Grey:
        """The width of the envelope."""
        width: Grey = self.bounds[0] - ~self.bounds[1]
        return width


def correlate_greys(one: Grey, other: Grey) -> float:
    """Return the correlation of two pictures, which no change of brightness or contrast affects; 0 for flat ones."""
    x, y = one - one.mean(), other - other.mean()
    variance = float((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / math.sqrt(variance) if variance else 0.0


def mean_difference(one: GreyFrame, other: GreyFrame) -> float:
    """Return the mean absolute difference, in grey levels."""
    difference = np.maximum(one.grey, other.grey) - np.minimum(one.grey, other.grey)
    return float(difference.sum(dtype=np.uint32)) / one.grey.size


def envelope_distance(one: GreyFrame, other: GreyFrame) -> float:
    """Return by how much each picture leaves the envelope of the other on average, in grey levels."""
    total = int(np.maximum(one.sides, other.bounds).sum(dtype=np.uint32)) - other.bounds_sum
    total += int(np.maximum(other.sides, one.bounds).sum(dtype=np.uint32)) - one.bounds_sum
    return total / (2 * one.grey.size)


def leave_envelopes(one: GreyFrame, other: GreyFrame) -> UInt16[np.ndarray, "36 64"]:
    """Return by how much each picture leaves the envelope of the other, added up for every pixel."""
    first = np.maximum(one.sides, other.bounds) - other.bounds
    second = np.maximum(other.sides, one.bounds) - one.bounds
    # A picture is above its envelope or below it, so that the first sum stays within eight bits.
    total: UInt16[np.ndarray, "36 64"] = (first[0] + first[1]).astype(np.uint16)
    total += second[0] + second[1]
    return total


def to_cells(picture: UInt8[np.ndarray, "36 64"] | UInt16[np.ndarray, "36 64"]) -> Float32[np.ndarray, "6 8"]:
    """Return the means of 6 x 8 cells of 6 x 8 pixels."""
    means: Float32[np.ndarray, "6 8"] = _CELL_ROWS @ picture.astype(np.float32) @ _CELL_COLUMNS  # faster than mean
    return means


def grey_from_luma(plane: UInt8[np.ndarray, "height width"]) -> Grey:
    """Return a luma plane as a picture of 36 x 64 blocks, each the mean of four samples.

    The last rows and columns that fill no block are left out, in halves on each side. A plane that would lose
    more than an eighth so is sampled at rounded positions.
    """
    return grey_from_samples([plane[positions] for positions in find_samples(*plane.shape)])


def grey_from_samples(samples: Sequence[Grey]) -> Grey:
    """Return the mean of the four samples of every block, at the positions of ``find_samples``."""
    first, second, third, fourth = (sample.astype(np.uint16) for sample in samples)
    return ((first + second + third + fourth) >> 2).astype(np.uint8)


@lru_cache(maxsize=8)
def find_samples(height: int, width: int) -> list[tuple[_Positions, _Positions]]:
    """Return the rows and columns of the four samples of every block, as slices if they fit: they are faster."""
    rows, columns = height // GREY_SHAPE[0], width // GREY_SHAPE[1]
    top, left = height - rows * GREY_SHAPE[0], width - columns * GREY_SHAPE[1]
    if 8 * top > height or 8 * left > width:
        y, x = np.arange(GREY_SHAPE[0])[:, None], np.arange(GREY_SHAPE[1])
        return [
            ((y * 8 + row) * height // (8 * GREY_SHAPE[0]), (x * 8 + column) * width // (8 * GREY_SHAPE[1]))
            for row, column in _SAMPLES
        ]
    samples: list[tuple[_Positions, _Positions]] = []
    for number, (row, column) in enumerate(_SAMPLES):
        # Rows of both fields of an interlaced film.
        y0 = top // 2 + min(rows * row // 8 & ~1 | number // 2, rows - 1)
        x0 = left // 2 + columns * column // 8
        samples.append(
            (
                slice(y0, y0 + rows * (GREY_SHAPE[0] - 1) + 1, rows),
                slice(x0, x0 + columns * (GREY_SHAPE[1] - 1) + 1, columns),
            )
        )
    return samples
