"""Change the frames of a training video, all of them in the same way, so that what moves in it still does.

Mirroring is off unless asked for: it makes captions that say left or right false. Everything here works on pictures
that have their final size already, and gives pictures of that size.
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
from torchvision.transforms.v2 import functional  # type: ignore[import-untyped]

from vidret.errors import VidretError

Pixels = UInt8[np.ndarray, "frame height width 3"]
Pictures = UInt8[Tensor, "frame 3 height width"]
Change = Callable[[Pictures, float, float], Pictures]

POLICY_CHANGES = 4
POLICY_CHANCE = 0.5
POLICY_STRENGTH, POLICY_SPREAD = 0.7, 0.05
ASPECT = (3 / 4, 4 / 3)
GREY = [128.0, 128.0, 128.0]
COLOURS = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is changed, and how much; nothing at first.

    Attributes:
        crop: Cut out a rectangle of at least this share of the picture, of 3:4 to 4:3, and stretch it to the size.
        flip: How likely a video is mirrored.
        colour: Brightness, contrast and saturation are each multiplied by up to 1 more or less this.
        policy: Apply RandAugment (Cubuk et al. 2020) as TempMe's recipe has it: four changes in a row, each done every
            second time, of 0.7 of the greatest strength, give or take 0.05.
    """

    crop: float = 1.0
    flip: float = 0.0
    colour: float = 0.0
    policy: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of their range."""
        if not (0 < self.crop <= 1 and 0 <= self.flip <= 1 and 0 <= self.colour < 1):
            given = f"{self.crop}, {self.flip} and {self.colour}"
            raise VidretError(
                f"crop must be in 0..1 (0 excluded), flip in 0..1, colour in 0..1 (1 excluded), got {given}"
            )

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Change a video; chance comes from ``rng`` alone."""
        if self == Augmentation():
            return pixels
        pictures = rearrange(torch.from_numpy(np.array(pixels)), "frame height width rgb -> frame rgb height width")
        if self.policy:
            pictures = follow_policy(pictures, rng)
        if self.crop < 1:
            pictures = cut_out(pictures, self.crop, rng)
        if rng.random() < self.flip:
            pictures = functional.horizontal_flip(pictures)
        if self.colour:
            for adjust in COLOURS:
                pictures = adjust(pictures, float(rng.uniform(1 - self.colour, 1 + self.colour)))
        return rearrange(pictures, "frame rgb height width -> frame height width rgb").contiguous().numpy()


def cut_out(pictures: Pictures, least: float, rng: np.random.Generator) -> Pictures:
    """Cut a rectangle out of all pictures and stretch it to their size."""
    height, width = pictures.shape[-2:]
    area = height * width * rng.uniform(least, 1)
    ratio = math.exp(rng.uniform(*np.log(ASPECT)))
    tall = min(height, max(1, round(math.sqrt(area / ratio))))
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    bicubic = InterpolationMode.BICUBIC
    cut: Tensor = functional.resized_crop(pictures, top, left, tall, wide, [height, width], bicubic, antialias=True)
    return cut


def follow_policy(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Apply changes drawn from ``CHANGES``; what is done is drawn once for all pictures."""
    names = list(CHANGES)
    for _ in range(POLICY_CHANGES):
        name = names[rng.integers(len(names))]
        strength = float(np.clip(rng.normal(POLICY_STRENGTH, POLICY_SPREAD), 0, 1))
        sign, is_done = float(rng.choice([-1.0, 1.0])), rng.random() < POLICY_CHANCE
        if is_done:
            pictures = CHANGES[name](pictures, strength, sign)
    return pictures


def _warp(
    pictures: Pictures,
    *,
    angle: float = 0.0,
    x: float = 0.0,
    y: float = 0.0,
    shear_x: float = 0.0,
    shear_y: float = 0.0,
) -> Pictures:
    """Turn (degrees), move (shares of the size) or shear (shares); what comes into sight is grey."""
    height, width = pictures.shape[-2:]
    warped: Tensor = functional.affine(
        pictures,
        angle=angle,
        translate=[x * width, y * height],
        scale=1.0,
        shear=[math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))],
        interpolation=InterpolationMode.BILINEAR,
        fill=GREY,
    )
    return warped


def _add_to_dark(pictures: Pictures, amount: float) -> Pictures:
    """Brighten pixels below the middle."""
    brighter = (pictures.to(torch.int16) + int(amount)).clamp(max=255).to(torch.uint8)
    return torch.where(pictures < 128, brighter, pictures)


# A strength of 0..1 and a sign, of which most use one; greatest strengths as in RandAugment's paper and AutoAugment.
CHANGES: Mapping[str, Change] = {
    "autocontrast": lambda pictures, strength, sign: functional.autocontrast(pictures),
    "equalize": lambda pictures, strength, sign: functional.equalize(pictures),
    "invert": lambda pictures, strength, sign: functional.invert(pictures),
    "rotate": lambda pictures, strength, sign: _warp(pictures, angle=sign * 30 * strength),
    "posterize": lambda pictures, strength, sign: functional.posterize(pictures, max(1, 4 - int(4 * strength))),
    "solarize": lambda pictures, strength, sign: functional.solarize(pictures, 256 - int(256 * strength)),
    "solarize_add": lambda pictures, strength, sign: _add_to_dark(pictures, 110 * strength),
    "saturation": lambda pictures, strength, sign: functional.adjust_saturation(pictures, 1 + sign * 0.9 * strength),
    "contrast": lambda pictures, strength, sign: functional.adjust_contrast(pictures, 1 + sign * 0.9 * strength),
    "brightness": lambda pictures, strength, sign: functional.adjust_brightness(pictures, 1 + sign * 0.9 * strength),
    "sharpness": lambda pictures, strength, sign: functional.adjust_sharpness(pictures, 1 + sign * 0.9 * strength),
    "shear_x": lambda pictures, strength, sign: _warp(pictures, shear_x=sign * 0.3 * strength),
    "shear_y": lambda pictures, strength, sign: _warp(pictures, shear_y=sign * 0.3 * strength),
    "move_x": lambda pictures, strength, sign: _warp(pictures, x=sign * 0.45 * strength),
    "move_y": lambda pictures, strength, sign: _warp(pictures, y=sign * 0.45 * strength),
}
