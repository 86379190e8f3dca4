"""The geometry of frames: their orientation and size on screen, and resizing for an encoder.

A decoded frame may be mirrored or rotated, and its pixels need not be square. Resizing gives the same pixels as
torchvision's Resize and CenterCrop, without torch.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from vidret.types import Resize

# Ratios this close to 1 are square pixels, as in FFmpeg; ratios beyond the maximum are damage.
_SQUARE_TOLERANCE = 0.01
_MAX_RATIO = 8

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read_display(frame: Any, pixel_ratio: Fraction | None) -> dict[str, int | bool]:
    """Return ``width``, ``height``, ``rotation``, ``mirrored`` and ``stretched`` of ``VideoInfo`` for a decoded frame.

    A frame is stretched to square pixels, then mirrored left to right, then rotated clockwise by ``rotation`` degrees,
    a multiple of 90. ``pixel_ratio`` is the width of a pixel over its height, None or 0 if the file does not define it.
    """
    rotation, mirrored = _read_orientation(frame)
    width, height = frame.width, frame.height
    if pixel_ratio and abs(pixel_ratio - 1) > _SQUARE_TOLERANCE and 1 / _MAX_RATIO <= pixel_ratio <= _MAX_RATIO:
        width = max(1, round(width * pixel_ratio))
    facts = {"rotation": rotation, "mirrored": mirrored, "stretched": width != frame.width}
    if rotation % 180:
        width, height = height, width
    return {"width": width, "height": height, **facts}


def split_matrix(matrix: Int32[np.ndarray, " 9"]) -> tuple[int, bool]:
    """Return the rotation of a display matrix, in degrees clockwise to the nearest quarter turn, and its mirroring.

    The first row of the matrix is the direction on screen of the image's right, the second row that of its bottom; see
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
    image: UInt8[np.ndarray, "height width *channel"], rotation: int, *, mirrored: bool
) -> UInt8[np.ndarray, "new_height new_width *channel"]:
    """Return an image mirrored, then rotated clockwise by ``rotation`` degrees."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, -rotation // 90))


def _read_orientation(frame: Any) -> tuple[int, bool]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV cannot list side data of a kind it does not know, but it can return the rotation
        return round(-frame.rotation / 90) * 90 % 360, False
    return (0, False) if matrix is None else split_matrix(np.frombuffer(bytes(matrix), np.int32))


def resize_image(
    image: UInt8[np.ndarray, "height width 3"], resize: Resize
) -> UInt8[np.ndarray, "crop_height crop_width 3"]:
    """Resize the shorter side to ``resize.shorter`` and crop the central square of ``resize.crop`` pixels.

    Rounding follows torchvision: the longer side is truncated to an integer, the offsets are rounded half to even. See
    ``Resize`` for its other settings. Raise ValueError if the crop is larger than the shorter side.
    """
    height, width = image.shape[:2]
    plan = plan_resize(height, width, resize)
    resized = Image.fromarray(image)
    if (plan.height, plan.width) != (height, width):
        resized = resized.resize((plan.width, plan.height), _FILTERS[resize.interpolation])
    return np.asarray(resized.crop((plan.left, plan.top, plan.left + plan.crop_width, plan.top + plan.crop_height)))


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """The size to which an image is resized, and the crop taken from it, in pixels."""

    height: int
    width: int
    top: int
    left: int
    crop_height: int
    crop_width: int


def plan_resize(height: int, width: int, resize: Resize) -> ResizePlan:
    """Return the plan to resize and crop an image of this size.

    Raise ValueError if the crop is larger than the shorter side.
    """
    if not 0 < resize.crop <= resize.shorter:
        raise ValueError(f"crop must be in 1..{resize.shorter}, got {resize.crop}")
    if resize.multiple:
        fitted_height, fitted_width = fit_budget(height, width, resize)
        return ResizePlan(fitted_height, fitted_width, 0, 0, fitted_height, fitted_width)
    new_width, new_height = (resize.shorter,) * 2 if resize.squash else _scale_size(width, height, resize.shorter)
    left, top = round((new_width - resize.crop) / 2.0), round((new_height - resize.crop) / 2.0)
    return ResizePlan(new_height, new_width, top, left, resize.crop, resize.crop)


def fit_budget(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """Return the height and width in multiples of ``resize.multiple`` whose product is within the budget.

    Reference: ``smart_resize`` of qwen-vl-utils.

    >>> fit_budget(240, 320, Resize(32, 32, multiple=32, min_pixels=131072, max_pixels=786432))
    (320, 448)
    """
    step = resize.multiple
    new_height, new_width = (max(step, round(side / step) * step) for side in (height, width))
    if new_height * new_width > resize.max_pixels:
        scale = math.sqrt(height * width / resize.max_pixels)
        new_height, new_width = (max(step, math.floor(side / scale / step) * step) for side in (height, width))
    elif new_height * new_width < resize.min_pixels:
        scale = math.sqrt(resize.min_pixels / (height * width))
        new_height, new_width = (math.ceil(side * scale / step) * step for side in (height, width))
    return new_height, new_width


def _scale_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
