"""The check of decoded frames: a picture is placed until what moves in it agrees, not only what stands still."""

from typing import cast

import numpy as np
import pytest
from PIL import Image

from vidret.copies.checking import UNCHANGED, CheckedWindow, FootageGuess, FootageReader, judge_footage, judge_windows
from vidret.copies.motion import MotionMatch
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


def make_window(
    centre_s: float, *, agreement: float = 0.9, num_changes: int = 40, offset: float = 2.0, likeness: float = 0.95
) -> CheckedWindow:
    motion = MotionMatch(
        speed=1.0, offset=offset, agreement=agreement, num_changes=num_changes, likeness=likeness, merit=agreement
    )
    return CheckedWindow(centre_s=centre_s, placement=UNCHANGED, motion=motion)


@pytest.mark.parametrize(
    ("windows", "is_same"),
    [
        ([make_window(5, agreement=0.8, num_changes=100)], True),
        ([make_window(5, agreement=0.8, num_changes=16)], False),  # may be by chance
        ([make_window(5, agreement=0.96, num_changes=4)], True),
        ([make_window(5, num_changes=0, likeness=0.99)], True),
        ([make_window(5, num_changes=0, likeness=0.98)], False),  # still pictures must be more alike
        ([make_window(5), make_window(50, agreement=0.4, num_changes=8)], False),  # other footage at one end
        ([make_window(5), make_window(50, likeness=0.4)], False),
        ([make_window(5), make_window(50, offset=12.0)], False),  # another speed between the windows than within
    ],
)
def test_how_much_must_agree(windows: list[CheckedWindow], is_same: bool) -> None:
    assert (judge_windows(windows) is not None) == is_same


def test_footage_that_one_film_has_in_the_middle_only_ends_where_the_lines_part() -> None:
    first, middle, last = (make_window(centre_s) for centre_s in (5, 30, 55))
    verdict = judge_windows([first, middle, make_window(55, offset=5.0)])
    assert verdict is not None
    assert (verdict.start, verdict.end, verdict.offset) == (-np.inf, 32, 2)
    verdict = judge_windows([make_window(5, offset=5.0), middle, last])
    assert verdict is not None
    assert (verdict.start, verdict.end, verdict.offset) == (28, np.inf, 2)
    assert judge_windows([first, make_window(30, offset=12.0), last]) is None
