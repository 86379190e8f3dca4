"""Resize a frame for an encoder: the same pixels as torchvision's Resize and CenterCrop, without torch."""

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
    if not 0 < resize.crop <= resize.shorter:
        raise ValueError(f"crop must be in 1..{resize.shorter}, got {resize.crop}")
    height, width = image.shape[:2]
    resized = Image.fromarray(image)
    new_width, new_height = (resize.shorter,) * 2 if resize.squash else _scale_size(width, height, resize.shorter)
    if (new_width, new_height) != (width, height):
        resized = resized.resize((new_width, new_height), _FILTERS[resize.interpolation])
    left, top = round((new_width - resize.crop) / 2.0), round((new_height - resize.crop) / 2.0)
    return np.asarray(resized.crop((left, top, left + resize.crop, top + resize.crop)))


def _scale_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
