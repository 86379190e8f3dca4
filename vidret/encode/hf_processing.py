"""How a model of transformers wants its frames: the constants of its own processor."""

import math
from dataclasses import dataclass
from typing import Any

from vidret.errors import EncoderError
from vidret.types import Interpolation, Resize

# Pillow's numbers of the filters. Lanczos is not offered by the decoding processes.
FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The size of frames, and mean and standard deviation of channels on the scale 0..1."""

    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_preprocessing(name: str, processor: Any) -> Preprocessing:
    """Return the preprocessing of a processor for images or videos.

    A processor computes ((pixel * factor - offset) - mean) / std; here the factor becomes 1 / 255 and the rest mean and
    standard deviation.

    Raises:
        EncoderError: Its images are not square, or it needs another filter than bilinear or bicubic.
    """
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if processor.do_normalize:
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if getattr(processor, "include_top", False):  # EfficientNet's divides by the deviation again
        std = tuple(a * b for a, b in zip(std, processor.image_std, strict=True))
    scale = 255 * factor
    return Preprocessing(
        read_frame_size(name, processor),
        tuple((each + offset) / scale for each in mean),
        tuple(each / scale for each in std),
    )


def read_frame_size(name: str, processor: Any) -> Resize:
    """Return how a processor resizes and crops.

    Raises:
        EncoderError: See ``read_preprocessing``.
    """
    number = int(processor.resample)
    if number not in FILTERS:
        raise EncoderError(f"{name}: the processor's filter must be bilinear or bicubic, got Pillow's number {number}")
    patches = getattr(processor, "max_num_patches", None)
    if patches is not None:  # as many patches as the model was trained with, as a square
        side = math.isqrt(patches) * processor.patch_size
        return Resize(side, side, FILTERS[number], squash=True)
    size = dict(processor.size)
    shorter = size.get("shortest_edge") or size.get("height")
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    sides = {size[key] for key in ("height", "width") if size.get(key)}
    crops = {crop[key] for key in ("height", "width") if crop.get(key)}
    if not shorter or len(sides) > 1 or len(crops) > 1:
        raise EncoderError(f"{name}: the processor must make square images, got size {size} and crop {crop}")
    side = crops.pop() if crops else shorter
    return Resize(shorter, side, FILTERS[number], squash="shortest_edge" not in size or not size["shortest_edge"])
