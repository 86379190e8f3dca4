"""Films in which a bright spot wanders over a scene of blobs, and copies of them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fakes import write_pictures

RATE, WIDTH, HEIGHT = 10, 160, 90
Change = Callable[[np.ndarray], np.ndarray]


@lru_cache(64)
def draw_scene(seed: int) -> np.ndarray:
    """Return a colourful still picture."""
    blobs = np.random.default_rng(seed).integers(0, 200, (9, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def draw_footage(seed: int, length_s: float, *, place: int | None = None, speed: float = 1.0) -> list[np.ndarray]:
    """Return the frames of a film; those of another ``place`` have another background for the same movement.

    The background changes every four seconds, as if the camera turned to another side of the place.
    """
    rng = np.random.default_rng([seed, 1])
    phases, rates = rng.uniform(0, 6, 4), rng.uniform(0.6, 1.5, 4)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for time in np.arange(round(length_s * RATE)) / RATE * speed:
        x = 80 + 38 * np.sin(rates[0] * time + phases[0]) + 24 * np.sin(rates[1] * time + phases[1])
        y = 45 + 20 * np.sin(rates[2] * time + phases[2]) + 14 * np.sin(rates[3] * time + phases[3])
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 150)[:, :, None]
        scene = draw_scene(100 * (seed if place is None else place) + int(time // 4))
        frames.append((scene * (1 - spot) + 255 * spot).astype(np.uint8))
    return frames


def write_frames(
    path: Path, frames: Sequence[np.ndarray], *, change: Change | None = None, faststart: bool = False
) -> Path:
    """Write frames, each changed before."""
    pictures = frames if change is None else [change(frame) for frame in frames]
    return write_pictures(path, pictures, RATE, faststart=faststart, crf="23")


def mirror(frame: np.ndarray) -> np.ndarray:
    return frame[:, ::-1]


def crop(frame: np.ndarray) -> np.ndarray:
    return frame[10:80, 16:144]


def fade(frame: np.ndarray) -> np.ndarray:
    faded: np.ndarray = (frame.mean(axis=2, keepdims=True) * 0.7 + 30).repeat(3, axis=2).astype(np.uint8)
    return faded
