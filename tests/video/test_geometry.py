"""Proof for vidret/video/geometry.py: frames as a player displays them, and resized as by torchvision."""

import importlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.video.films import Picture, draw, read_number, set_matrix, write_video
from vidret.types import Interpolation, Resize
from vidret.video.decoders.registry import choose_decoder
from vidret.video.geometry import read_display, resize_image, split_matrix
from vidret.video.probe import probe
from vidret.video.reader import read_frames

NUMBER = 0b11  # two bright blocks in a corner: every orientation looks different
ORIENTATIONS = {  # where a picture's right and bottom go, as (x, y) with y down; then rotation and mirroring
    "plain": ((1, 0), (0, 1), 0, False),
    "clockwise": ((0, 1), (-1, 0), 90, False),
    "half turn": ((-1, 0), (0, -1), 180, False),
    "anticlockwise": ((0, -1), (1, 0), 270, False),
    "left to right": ((-1, 0), (0, 1), 0, True),
    "top to bottom": ((1, 0), (0, -1), 180, True),
    "transposed": ((0, 1), (1, 0), 270, True),
    "transposed, half turn": ((0, -1), (-1, 0), 90, True),
}


def display_naively(picture: Picture, right: tuple[int, int], down: tuple[int, int]) -> Picture:
    """Put every pixel where the matrix sends it."""
    places = {
        (x * right[0] + y * down[0], x * right[1] + y * down[1]): picture[y, x]
        for y in range(picture.shape[0])
        for x in range(picture.shape[1])
    }
    left, top = min(x for x, _ in places), min(y for _, y in places)
    width, height = max(x for x, _ in places) - left + 1, max(y for _, y in places) - top + 1
    return np.array([[places[x + left, y + top] for x in range(width)] for y in range(height)])


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_orientation_is_displayed_as_its_matrix_says(tmp_path: Path, name: str) -> None:
    right, down, rotation, mirrored = ORIENTATIONS[name]
    film = write_video(tmp_path / "film.mp4", [NUMBER] * 3)
    set_matrix(film, right, down)
    info = probe(film)
    expected = display_naively(draw(NUMBER), right, down)
    assert (info.rotation, info.mirrored, info.stretched) == (rotation, mirrored, False)
    assert (info.height, info.width) == expected.shape[:2]
    assert choose_decoder(info)[0] == ("decord" if name == "plain" else "pyav")
    for picture in read_frames(str(film), indices=range(3)).pixels:
        assert picture.shape == expected.shape
        assert np.abs(picture.astype(int) - expected).mean() < 10


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, suffix: str) -> None:
    film = write_video(tmp_path / f"wide.{suffix}", [5, 6, 7], pixel_ratio=Fraction(4, 3))
    info = probe(film)
    assert (info.width, info.height, info.stretched) == (85, 48, True)
    assert choose_decoder(info) == ("pyav", "its pixels are not square")
    frames = read_frames(str(film), indices=[2])
    assert frames.pixels.shape == (1, 48, 85, 3)
    assert read_number(frames.pixels[0]) == 7


def test_stretched_frames_are_turned_afterwards(tmp_path: Path) -> None:
    film = write_video(tmp_path / "wide.mp4", [NUMBER], pixel_ratio=Fraction(1, 2))
    set_matrix(film, (0, 1), (-1, 0))
    info = probe(film)
    assert (info.width, info.height, info.rotation) == (48, 32, 90)
    expected = np.rot90(draw(NUMBER, 32, 48), -1)
    assert np.abs(read_frames(str(film), indices=[0]).pixels[0].astype(int) - expected).mean() < 10


PLAIN = {"mirrored": False, "stretched": False}


@pytest.mark.parametrize("ratio", [None, Fraction(0), Fraction(1), Fraction(200, 201), Fraction(1, 9), Fraction(65535)])
def test_almost_square_pixels_and_impossible_ones_are_left_alone(ratio: Fraction | None) -> None:
    frame = SimpleNamespace(width=64, height=48, side_data={})
    assert read_display(frame, ratio) == {"width": 64, "height": 48, "rotation": 0, **PLAIN}


def test_other_angles_go_to_the_nearest_quarter_and_a_matrix_of_zeros_turns_nothing() -> None:
    def split(*values: int) -> tuple[int, bool]:
        return split_matrix(np.array([*values[:2], 0, *values[2:], 0, 0, 0, 1], np.int32))

    assert split(7, 8, -8, 7) == (90, False)
    assert split(-7, -8, 8, -7) == (270, False)
    assert split(0, 0, 0, 0) == (0, False)


def test_side_data_that_pyav_does_not_know_costs_the_mirroring_alone() -> None:
    class Frame:
        width, height, rotation = 64, 48, -90

        @property
        def side_data(self) -> None:
            raise ValueError("99 is not a valid Type")

    assert read_display(Frame(), None) == {"width": 48, "height": 64, "rotation": 90, **PLAIN}


@pytest.mark.parametrize("size", [(48, 64), (65, 49), (224, 224), (224, 301), (427, 240), (33, 500)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_torchvision(size: tuple[int, int], interpolation: Interpolation) -> None:
    transforms = importlib.import_module("torchvision.transforms")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for shorter, crop in ((224, 224), (256, 224), (37, 30)):
        smaller = transforms.Resize(shorter, transforms.InterpolationMode(interpolation))
        expected = transforms.CenterCrop(crop)(smaller(Image.fromarray(picture)))
        actual = resize_image(picture, Resize(shorter, crop, interpolation))
        assert actual.shape == (crop, crop, 3)
        assert (actual == np.asarray(expected)).all()


def test_squashing_keeps_the_whole_picture() -> None:
    transforms = importlib.import_module("torchvision.transforms")
    picture = np.random.default_rng(0).integers(0, 256, (48, 100, 3), dtype=np.uint8)
    expected = np.asarray(transforms.Resize((32, 32), transforms.InterpolationMode.BICUBIC)(Image.fromarray(picture)))
    assert (resize_image(picture, Resize(32, 32, squash=True)) == expected).all()
    assert (resize_image(picture, Resize(32, 24, squash=True)) == expected[4:-4, 4:-4]).all()


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="crop must be in"):
        resize_image(np.zeros((4, 4, 3), np.uint8), Resize(8, 9))
