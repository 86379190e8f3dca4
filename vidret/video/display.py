"""How a decoded frame is displayed: mirrored, turned, and with pixels that need not be square."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

# Pixels closer to a square than this are square, as in FFmpeg; ratios beyond the highest are damage.
_SQUARE = 0.01
_HIGHEST_RATIO = 8


class Display(NamedTuple):
    """The size on the screen in pixels, and how a decoded frame comes to it.

    A frame is stretched to the shape of its pixels, then mirrored left to right, then turned clockwise by ``rotation``
    degrees, a multiple of 90.
    """

    width: int
    height: int
    rotation: int
    mirrored: bool
    stretched: bool


def read_display(frame: Any, pixel_ratio: Fraction | None) -> Display:
    """Return how a frame is displayed.

    Args:
        frame: PyAV's.
        pixel_ratio: The width of a pixel over its height; None or 0 where the file does not say.
    """
    rotation, mirrored = _read_orientation(frame)
    width, height = frame.width, frame.height
    if pixel_ratio and abs(pixel_ratio - 1) > _SQUARE and 1 / _HIGHEST_RATIO <= pixel_ratio <= _HIGHEST_RATIO:
        width = max(1, round(width * pixel_ratio))
    stretched = width != frame.width
    if rotation % 180:
        width, height = height, width
    return Display(width, height, rotation, mirrored, stretched)


def split_matrix(matrix: Int32[np.ndarray, " 9"]) -> tuple[int, bool]:
    """Return the rotation, in degrees clockwise and to the nearest quarter, and the mirroring of a display matrix.

    Its first row says where the picture's right goes on the screen, its second row where the picture's bottom goes; see
    FFmpeg's "libavutil/display.h".

    >>> split_matrix(np.array([-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], np.int32))
    (0, True)
    """
    (right_x, right_y, _), (down_x, down_y, _), _ = (row.tolist() for row in matrix.reshape(3, 3))
    mirrored = right_x * down_y < right_y * down_x
    if mirrored:
        right_x, right_y = -right_x, -right_y
    return round(math.degrees(math.atan2(right_y, right_x)) / 90) * 90 % 360, mirrored


def orient(
    picture: UInt8[np.ndarray, "height width 3"], rotation: int, *, mirrored: bool
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Return a picture mirrored, then turned."""
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if mirrored else picture, -rotation // 90))


def _read_orientation(frame: Any) -> tuple[int, bool]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV cannot list side data where it does not know a kind; a rotation alone it can tell
        return round(-frame.rotation / 90) * 90 % 360, False
    return (0, False) if matrix is None else split_matrix(np.frombuffer(bytes(matrix), np.int32))
