"""A frame becomes an encoder's picture: the same pixels as torchvision's Resize and CenterCrop, without torch."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidret.types import Resize

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_image(picture: UInt8[np.ndarray, "height width 3"], resize: Resize) -> UInt8[np.ndarray, "crop crop 3"]:
    """Bring the shorter side to ``resize.shorter`` and cut out the central square of ``resize.crop``.

    Rounding follows torchvision: the longer side is cut down to an integer, the offsets are rounded half to even. With
    ``resize.squash`` the whole picture becomes that square, whatever its shape.
    """
    if not 0 < resize.crop <= resize.shorter:
        raise ValueError(f"crop must be in 1..{resize.shorter}, got {resize.crop}")
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    if resize.squash:
        return np.asarray(image.resize((resize.crop, resize.crop), _FILTERS[resize.interpolation]))
    new_width, new_height = _shrunk(width, height, resize.shorter)
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), _FILTERS[resize.interpolation])
    left, top = round((new_width - resize.crop) / 2.0), round((new_height - resize.crop) / 2.0)
    return np.asarray(image.crop((left, top, left + resize.crop, top + resize.crop)))


def _shrunk(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
