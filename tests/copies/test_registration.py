"""Where a picture lies in another: planted crops, bars and mirroring are found; correlations are those of loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vidret.copies.registration import (
    PicturePlacement,
    average_weights,
    correlate_everywhere,
    find_placement,
    interpolation_weights,
    refine_placement,
    resize_pixels,
    score_placement,
    view_through,
)


def make_pictures(seed: int, num: int = 3) -> list[Image.Image]:
    """Return large grey pictures of soft blobs."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (num, 9, 16), dtype=np.uint8)
    return [Image.fromarray(picture).resize((640, 360), Image.Resampling.BICUBIC) for picture in small]


def shrink(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.resize((64, 36), Image.Resampling.BOX)) for picture in pictures])


@settings(max_examples=20)
@given(st.integers(0, 500), st.sampled_from([0.6, 0.75, 0.9]), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_crop_is_found(seed: int, size: float, left: float, top: float, mirrored: bool) -> None:
    pictures = make_pictures(seed)
    box = (left * (1 - size) * 640, top * (1 - size) * 360)
    cropped = [
        picture.crop((round(box[0]), round(box[1]), round(box[0] + size * 640), round(box[1] + size * 360)))
        for picture in pictures
    ]
    if mirrored:
        cropped = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in cropped]
    clip, film = shrink(cropped), shrink(pictures)
    found = find_placement(clip, film, np.eye(3, dtype=bool), aspect=1.0)
    refined = refine_placement(found, clip.astype(np.float32), film.astype(np.float32))
    assert refined.mirrored == mirrored
    assert refined.score > 0.95
    assert (refined.width, refined.height) == pytest.approx((size, size), abs=0.06)
    assert (refined.left, refined.top) == pytest.approx((box[0] / 640, box[1] / 360), abs=0.05)


@pytest.mark.parametrize(
    ("size", "corner", "is_mirrored"),
    [((640, 480), (0, 60), False), ((800, 360), (60, 0), False), ((800, 360), (60, 0), True)],
)
def test_bars_are_found(size: tuple[int, int], corner: tuple[int, int], is_mirrored: bool) -> None:
    """Bars above and below, or of unequal width on both sides."""
    pictures = make_pictures(1)
    boxed = []
    for picture in pictures:
        canvas = Image.new("L", size)
        canvas.paste(picture, corner)
        boxed.append(canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else canvas)
    aspect = (640 / 360) / (size[0] / size[1])
    found = find_placement(shrink(boxed), shrink(pictures), np.eye(3, dtype=bool), aspect=aspect)
    assert (found.mirrored, found.score > 0.9) == (is_mirrored, True)
    assert (found.width, found.height) == pytest.approx((size[0] / 640, size[1] / 360), abs=0.05)
    assert (found.left, found.top) == pytest.approx((-corner[0] / 640, -corner[1] / 360), abs=0.05)


def test_brightness_and_contrast_do_not_matter_and_other_pictures_are_less_alike() -> None:
    film = shrink(make_pictures(2))
    found = find_placement((film * 0.4 + 90).astype(np.uint8), film, np.eye(3, dtype=bool), aspect=1.0)
    assert (found.left, found.top, found.width, found.height, found.mirrored) == (0, 0, 1, 1, False)
    assert found.score > 0.99
    found = find_placement(shrink(make_pictures(5)), shrink(make_pictures(6)), np.ones((3, 3), bool), aspect=1.0)
    assert found.score < 0.85


def test_correlations_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    templates = rng.uniform(0, 255, (2, 3, 4)).astype(np.float32)
    pictures = rng.uniform(0, 255, (2, 5, 6)).astype(np.float32)
    pictures[1, :4, :5] = 7
    found = correlate_everywhere(templates, pictures)
    assert found.shape == (2, 2, 3, 3)
    for template in range(2):
        for picture in range(2):
            for y in range(3):
                for x in range(3):
                    patch = pictures[picture, y : y + 3, x : x + 4]
                    expected = np.corrcoef(templates[template].ravel(), patch.ravel())[0, 1] if patch.std() > 2 else 0.0
                    assert found[template, picture, y, x] == pytest.approx(expected, abs=1e-4)


@given(st.integers(2, 64), st.integers(1, 64))
def test_averages_keep_the_mean(size: int, new_size: int) -> None:
    weights = average_weights(size, min(new_size, size))
    assert weights.sum(axis=1) == pytest.approx(np.ones(min(new_size, size)), abs=1e-5)
    assert weights.mean(axis=0) == pytest.approx(np.full(size, 1 / size), abs=1e-5)


def test_an_unchanged_view_shows_the_film() -> None:
    film = shrink(make_pictures(3)).astype(np.float32)
    seen, inside = view_through(PicturePlacement(left=0, top=0, width=1, height=1, mirrored=False), film)
    assert inside.all()
    assert seen == pytest.approx(film, abs=1e-3)
    mirrored, _ = view_through(PicturePlacement(left=0, top=0, width=1, height=1, mirrored=True), film)
    assert mirrored == pytest.approx(film[:, :, ::-1], abs=1e-3)


def test_a_view_beyond_the_film_is_outside() -> None:
    weights, inside = interpolation_weights(10, -0.5, 2.0)
    assert inside.sum() == 4
    assert weights.sum(axis=1) == pytest.approx(np.ones(10))
    film = np.zeros((1, 36, 64), np.float32)
    assert score_placement(PicturePlacement(left=5, top=0, width=1, height=1, mirrored=False), film, film) == -1


def test_halves_are_means() -> None:
    pixels = np.arange(36 * 64, dtype=np.float32).reshape(1, 36, 64) // 2
    assert resize_pixels(pixels, 18, 32)[0] == pytest.approx(pixels.reshape(18, 2, 32, 2).mean(axis=(1, 3)), abs=1e-3)
