"""Small grey pictures of frames, 36 x 64 pixels, for shot detection and comparison."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt8

GREY_SHAPE = (36, 64)  # rows, columns of the small grey picture

Grey = UInt8[np.ndarray, "36 64"]
Greys = UInt8[np.ndarray, "frame 36 64"]

_Positions = slice | Int64[np.ndarray, "..."]

# Four samples of a block, in eighths of its height and width; on only two rows, since memory is read row by row.
_SAMPLES = ((2, 1), (2, 5), (6, 3), (6, 7))


def grey_from_luma(plane: UInt8[np.ndarray, "height width"]) -> Grey:
    """Return a luma plane as a picture of 36 x 64 blocks, each the mean of four samples.

    Rows and columns that fill no block are left out, half of them on each side. A plane that would lose more than an
    eighth that way is sampled at rounded positions.
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
    for sample_index, (row, column) in enumerate(_SAMPLES):
        # From both fields of an interlaced film.
        y0 = top // 2 + min(rows * row // 8 & ~1 | sample_index // 2, rows - 1)
        x0 = left // 2 + columns * column // 8
        samples.append(
            (
                slice(y0, y0 + rows * (GREY_SHAPE[0] - 1) + 1, rows),
                slice(x0, x0 + columns * (GREY_SHAPE[1] - 1) + 1, columns),
            )
        )
    return samples
