"""The check of decoded frames: a picture is placed until what moves in it agrees, not only what stands still."""

from typing import cast

import numpy as np
from PIL import Image

from vidret.copies.checking import FootageGuess, FootageReader, judge_footage
from vidret.video.workers.messages import GreyStretch

TIMES = np.arange(50) / 10


def draw_pictures() -> list[Image.Image]:
    """Return large pictures of a place, over which small spots wander."""
    rng = np.random.default_rng(1)
    blobs = Image.fromarray(rng.integers(0, 256, (3, 4), dtype=np.uint8))
    place = np.asarray(blobs.resize((320, 180), Image.Resampling.BICUBIC), np.float64)
    rows, columns = np.mgrid[:180, :320]
    phases = rng.uniform(0, 6, (6, 2))
    pictures = []
    for time in TIMES:
        picture = place.copy()
        for x, y in phases:
            reach = (rows - 90 - 70 * np.sin(time + y)) ** 2 + (columns - 160 - 130 * np.cos(0.7 * time + x)) ** 2
            picture += 60 * np.exp(-reach / 8)
        pictures.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    return pictures


class DrawnFootage:
    """Reads pictures that were drawn, in place of files."""

    def __init__(self, **pictures: list[Image.Image]) -> None:
        self._greys = {
            name: np.stack([np.asarray(image.resize((64, 36), Image.Resampling.BOX)) for image in images])
            for name, images in pictures.items()
        }

    def read(self, path: str, start: float, end: float) -> GreyStretch:
        kept = (start <= TIMES) & (end >= TIMES)
        return GreyStretch(self._greys[path][kept], TIMES[kept], (320, 180))


def test_a_picture_is_placed_until_what_moves_agrees() -> None:
    film = draw_pictures()
    clip = [picture.crop((20, 10, 300, 172)) for picture in film]
    guess = FootageGuess(clip_path="clip", film_path="film", start=0.0, end=4.9, speed=1.0, offset=0.0)
    verdict = judge_footage(guess, cast(FootageReader, DrawnFootage(clip=clip, film=film)))
    assert verdict is not None
    assert verdict.agreement > 0.85
    assert abs(verdict.placement.width - 280 / 320) < 0.02
