"""Resize a frame for an encoder: the same pixels as torchvision's Resize and CenterCrop, without torch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidret.types import Resize

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_image(image: UInt8[np.ndarray, "height width 3"], resize: Resize) -> UInt8[np.ndarray, "crop crop 3"]:
    """Resize the shorter side to ``resize.shorter`` and crop the central square of ``resize.crop`` pixels.

    Rounding follows torchvision: the longer side is truncated to an integer, the offsets are rounded half to even. With
    ``resize.squash`` the whole image is resized to a square of side ``resize.shorter``, whatever its aspect ratio.

    Raises:
        ValueError: The crop is larger than the shorter side.
    """
    height, width = image.shape[:2]
    plan = plan_resize(height, width, resize)
    resized = Image.fromarray(image)
    if (plan.height, plan.width) != (height, width):
        resized = resized.resize((plan.width, plan.height), _FILTERS[resize.interpolation])
    return np.asarray(resized.crop((plan.left, plan.top, plan.left + resize.crop, plan.top + resize.crop)))


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """The size to which an image is resized, and where the square is cropped from it, in pixels."""

    height: int
    width: int
    top: int
    left: int


def plan_resize(height: int, width: int, resize: Resize) -> ResizePlan:
    """Return how an image of this size is resized and cropped.

    Raises:
        ValueError: The crop is larger than the shorter side.
    """
    if not 0 < resize.crop <= resize.shorter:
        raise ValueError(f"crop must be in 1..{resize.shorter}, got {resize.crop}")
    new_width, new_height = (resize.shorter,) * 2 if resize.squash else _scale_size(width, height, resize.shorter)
    left, top = round((new_width - resize.crop) / 2.0), round((new_height - resize.crop) / 2.0)
    return ResizePlan(new_height, new_width, top, left)


def _scale_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
