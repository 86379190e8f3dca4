"""Corruptions of frames at five strengths, to see what an encoder tolerates.

Reference: Schiappa et al. 2022, "Robustness Analysis of Video-Language Models Against Visual and Language
Perturbations".
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

NUM_STRENGTHS = 5
Pixels = UInt8[np.ndarray, "frame height width 3"]


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption: what its five levels mean, the levels, and how one is applied to frames."""

    meaning: str
    levels: tuple[float, float, float, float, float]
    apply: Callable[[Any, float], Any]


def corrupt(pixels: Pixels, name: str, strength: int) -> Pixels:
    """Return frames with a corruption, the same for equal frames.

    Args:
        pixels: RGB frames.
        name: One of ``CORRUPTIONS``.
        strength: 1, the weakest, to 5.
    """
    corruption = CORRUPTIONS[name]
    corrupted: Pixels = corruption.apply(pixels, corruption.levels[strength - 1])
    return corrupted


def _each(pixels: Any, change: Callable[[Image.Image], Image.Image]) -> Any:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in pixels])


def _blur(pixels: Any, share: float) -> Any:
    blur = ImageFilter.GaussianBlur(share * pixels.shape[1])
    return _each(pixels, lambda image: image.filter(blur))


def _add_noise(pixels: Any, deviation: float) -> Any:
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32) * np.float32(deviation)
    return np.clip(pixels + noise + 0.5, 0, 255).astype(np.uint8)


def _compress(pixels: Any, quality: float) -> Any:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file).convert("RGB")

    return _each(pixels, compress)


def _crop(pixels: Any, share: float) -> Any:
    height, width = pixels.shape[1:3]
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    box = (left, top, width - left, height - top)
    return _each(pixels, lambda image: image.crop(box).resize((width, height), Image.Resampling.BICUBIC))


def _drop_frames(pixels: Any, num_held: float) -> Any:
    rows = np.arange(len(pixels))
    return pixels[rows - rows % int(num_held)]


def _speed_up(pixels: Any, factor: float) -> Any:
    rows = np.round(np.arange(len(pixels)) * factor).astype(np.int64)
    return pixels[np.minimum(rows, len(pixels) - 1)]


def _darken(pixels: Any, factor: float) -> Any:
    return (pixels * np.float32(factor) + 0.5).astype(np.uint8)


CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": Corruption("radius, as a share of the height", (0.005, 0.01, 0.02, 0.04, 0.08), _blur),
    "noise": Corruption("standard deviation, of 255", (8, 16, 32, 64, 96), _add_noise),
    "compression": Corruption("quality of each frame as JPEG", (50, 30, 15, 8, 3), _compress),
    "crop": Corruption("share of each side that is kept", (0.9, 0.8, 0.65, 0.5, 0.35), _crop),
    "frame drop": Corruption("frames for which one is held", (2, 3, 4, 6, 1000), _drop_frames),
    "speed": Corruption("factor; the last frame is held at the end", (1.25, 1.5, 2, 3, 4), _speed_up),
    "brightness": Corruption("factor", (0.8, 0.6, 0.4, 0.2, 0.1), _darken),
}
