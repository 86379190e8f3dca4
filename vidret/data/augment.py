"""Augmentation of training videos, with the same random parameters for all frames of a video.

Flipping is off by default, since it falsifies captions that mention left or right. Frames have their final size before
augmentation, and keep it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
from torchvision.transforms.v2 import ColorJitter, RandomHorizontalFlip, RandomResizedCrop, functional  # type: ignore[import-untyped]

from vidret.errors import VidretError

Pixels = UInt8[np.ndarray, "frame height width 3"]
Images = UInt8[Tensor, "frame 3 height width"]
Operation = Callable[[Images, float, float], Images]

NUM_OPERATIONS = 4
OPERATION_PROBABILITY = 0.5
MAGNITUDE_MEAN, MAGNITUDE_STD = 0.7, 0.05
GREY = [128.0, 128.0, 128.0]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Augmentation settings; the defaults change nothing.

    Attributes:
        crop: Minimum area of a random crop, as a share of the frame. The crop has an aspect ratio of 3:4 to 4:3 and is
            resized to the frame.
        flip: Probability of a horizontal flip.
        colour: Brightness, contrast and saturation are each multiplied by a factor in 1 - colour to 1 + colour.
        policy: Apply RandAugment (Cubuk et al. 2020) as in TempMe's recipe: four operations in a row, each with
            probability 0.5 and a magnitude of 0.7 with standard deviation 0.05.

    Raises:
        VidretError: A value is out of range.
    """

    crop: float = 1.0
    flip: float = 0.0
    colour: float = 0.0
    policy: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.crop <= 1 and 0 <= self.flip <= 1 and 0 <= self.colour < 1):
            raise VidretError(
                f"crop must be in (0, 1], flip in [0, 1] and colour in [0, 1), "
                f"got {self.crop}, {self.flip} and {self.colour}"
            )

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented frames of a video, with all randomness from ``rng``."""
        if self == Augmentation():
            return pixels
        return self.apply(torch.from_numpy(np.array(pixels)), rng).numpy()

    def apply(
        self, pixels: UInt8[Tensor, "frame height width 3"], rng: np.random.Generator
    ) -> UInt8[Tensor, "frame height width 3"]:
        """Return augmented frames, on the same device."""
        images = rearrange(pixels, "frame height width rgb -> frame rgb height width")
        if self.policy:
            images = rand_augment(images, rng)
        steps = [RandomHorizontalFlip(self.flip), ColorJitter(self.colour, self.colour, self.colour)]
        if self.crop < 1:
            steps.append(
                RandomResizedCrop(images.shape[-2:], (self.crop, 1.0), interpolation=InterpolationMode.BICUBIC)
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**62)))  # torchvision draws from it
            for step in steps:
                images = step(images)
        return rearrange(images, "frame rgb height width -> frame height width rgb").contiguous()


def rand_augment(images: Images, rng: np.random.Generator) -> Images:
    """Apply random ``OPERATIONS`` (RandAugment), with the same parameters for all images."""
    names = list(OPERATIONS)
    for _ in range(NUM_OPERATIONS):
        name = names[rng.integers(len(names))]
        magnitude = float(np.clip(rng.normal(MAGNITUDE_MEAN, MAGNITUDE_STD), 0, 1))
        sign, is_applied = float(rng.choice([-1.0, 1.0])), rng.random() < OPERATION_PROBABILITY
        if is_applied:
            images = OPERATIONS[name](images, magnitude, sign)
    return images


def _affine(
    images: Images, *, angle: float = 0.0, x: float = 0.0, y: float = 0.0, shear_x: float = 0.0, shear_y: float = 0.0
) -> Images:
    """Rotate (degrees), translate (share of the size) or shear (tangent), with grey outside the image."""
    height, width = images.shape[-2:]
    warped: Tensor = functional.affine(
        images,
        angle=angle,
        translate=[x * width, y * height],
        scale=1.0,
        shear=[math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))],
        interpolation=InterpolationMode.BILINEAR,
        fill=GREY,
    )
    return warped


def _solarize_add(images: Images, amount: float) -> Images:
    """Brighten pixels below 128."""
    brighter = (images.to(torch.int16) + int(amount)).clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, brighter, images)


# Each takes a magnitude in 0..1 and a sign; most use one of them. Ranges follow RandAugment and AutoAugment.
OPERATIONS: Mapping[str, Operation] = {
    "autocontrast": lambda images, magnitude, sign: functional.autocontrast(images),
    "equalize": lambda images, magnitude, sign: functional.equalize(images),
    "invert": lambda images, magnitude, sign: functional.invert(images),
    "rotate": lambda images, magnitude, sign: _affine(images, angle=sign * 30 * magnitude),
    "posterize": lambda images, magnitude, sign: functional.posterize(images, max(1, 4 - int(4 * magnitude))),
    "solarize": lambda images, magnitude, sign: functional.solarize(images, 256 - int(256 * magnitude)),
    "solarize_add": lambda images, magnitude, sign: _solarize_add(images, 110 * magnitude),
    "saturation": lambda images, magnitude, sign: functional.adjust_saturation(images, 1 + sign * 0.9 * magnitude),
    "contrast": lambda images, magnitude, sign: functional.adjust_contrast(images, 1 + sign * 0.9 * magnitude),
    "brightness": lambda images, magnitude, sign: functional.adjust_brightness(images, 1 + sign * 0.9 * magnitude),
    "sharpness": lambda images, magnitude, sign: functional.adjust_sharpness(images, 1 + sign * 0.9 * magnitude),
    "shear_x": lambda images, magnitude, sign: _affine(images, shear_x=sign * 0.3 * magnitude),
    "shear_y": lambda images, magnitude, sign: _affine(images, shear_y=sign * 0.3 * magnitude),
    "move_x": lambda images, magnitude, sign: _affine(images, x=sign * 0.45 * magnitude),
    "move_y": lambda images, magnitude, sign: _affine(images, y=sign * 0.45 * magnitude),
}
