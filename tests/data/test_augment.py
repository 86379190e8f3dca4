"""Augmentation: all frames of a video change alike, within the given ranges, and reproducibly."""

import numpy as np
import pytest
import torch

from vidret.data.augment import OPERATIONS, Augmentation, rand_augment
from vidret.errors import VidretError

ALL = Augmentation(crop=0.5, flip=0.5, colour=0.4, policy=True)


def sample(num_frames: int = 3, seed: int = 0, side: int = 24) -> np.ndarray:
    """Return random frames of 4 x 4 blocks, so that resizing them makes sense."""
    small = np.random.default_rng(seed).integers(0, 256, (num_frames, side // 4, side // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


def test_defaults_change_nothing() -> None:
    pixels = sample()
    rng = np.random.default_rng(0)
    assert Augmentation()(pixels, rng) is pixels
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("seed", range(6))
def test_all_frames_change_in_the_same_way(seed: int) -> None:
    one = sample(1, seed)
    augmented = ALL(np.concatenate([one, one, one]), np.random.default_rng(seed))
    alone = ALL(one, np.random.default_rng(seed))
    assert augmented.shape == (3, 24, 24, 3)
    assert augmented.dtype == np.uint8
    for frame in augmented:
        np.testing.assert_array_equal(frame, alone[0])


def test_result_depends_on_the_seed_only() -> None:
    pixels = sample()
    pixels.flags.writeable = False
    first, second, other = (ALL(pixels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    torch.manual_seed(5)
    np.testing.assert_array_equal(ALL(pixels, np.random.default_rng(1)), first)


def test_flip_mirrors_frames_with_its_probability() -> None:
    pixels = sample()
    np.testing.assert_array_equal(Augmentation(flip=1.0)(pixels, np.random.default_rng(0)), pixels[:, :, ::-1])
    is_flipped = [(Augmentation(flip=0.3)(pixels, np.random.default_rng(seed)) != pixels).any() for seed in range(300)]
    assert 60 < sum(is_flipped) < 120
    for seed in range(20):  # without a flip, left stays left
        ramp = np.broadcast_to(np.linspace(0, 255, 24, dtype=np.uint8)[:, None], (2, 24, 24, 3))
        changed = Augmentation(crop=0.5, colour=0.3)(np.array(ramp), np.random.default_rng(seed)).astype(int)
        assert changed[:, :, -1].mean() > changed[:, :, 0].mean()


def test_crop_has_the_given_area_and_aspect_ratio() -> None:
    height, width = 40, 60
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([4 * columns, 4 * rows, 0 * rows], axis=-1)[None].astype(np.uint8)
    areas, ratios = [], []
    for seed in range(60):
        crop = Augmentation(crop=0.5)(pixels, np.random.default_rng(seed))
        assert crop.shape == pixels.shape
        inner = crop[0, 10:30, 15:45].astype(float) / 4  # away from the edges, interpolation is exact
        width_share = (inner[:, -1, 0].mean() - inner[:, 0, 0].mean()) * 60 / 29
        height_share = (inner[-1, :, 1].mean() - inner[0, :, 1].mean()) * 40 / 19
        areas.append(width_share * height_share / (height * width))
        ratios.append(width_share / height_share)
    assert 0.42 < min(areas) < 0.6
    assert max(areas) < 1.06
    assert 0.7 < min(ratios) < max(ratios) < 1.42


def test_colours_change_within_the_given_range() -> None:
    grey = np.full((2, 8, 8, 3), 100, np.uint8)  # contrast and saturation do not change uniform grey
    values = [int(Augmentation(colour=0.2)(grey, np.random.default_rng(seed))[0, 0, 0, 0]) for seed in range(100)]
    assert 78 <= min(values) < 90  # contrast and saturation each round down
    assert 110 < max(values) <= 120


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_changes_images_and_keeps_their_shape(name: str) -> None:
    images = torch.from_numpy(sample()[..., ::-1].copy() // 2 + 40).permute(0, 3, 1, 2)
    for sign in (-1.0, 1.0):
        changed = OPERATIONS[name](images, 0.7, sign)
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert not torch.equal(changed, images)


def test_rand_augment_draws_four_operations_with_probability_half(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[tuple[str, float]] = []
    for name in OPERATIONS:

        def record(images: torch.Tensor, magnitude: float, sign: float, name: str = name) -> torch.Tensor:
            applied.append((name, magnitude))
            return images

        monkeypatch.setitem(OPERATIONS, name, record)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for seed in range(500):
        rand_augment(images, np.random.default_rng(seed))
    assert 900 < len(applied) < 1100
    assert {name for name, _ in applied} == set(OPERATIONS)
    magnitudes = np.array([magnitude for _, magnitude in applied])
    assert magnitudes.mean() == pytest.approx(0.7, abs=0.01)
    assert magnitudes.std() == pytest.approx(0.05, abs=0.005)


def test_solarize_and_posterize_match_exact_values() -> None:
    images = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 5)
    assert OPERATIONS["solarize_add"](images, 1.0, 1.0)[0, 0, 0].tolist() == [110, 210, 237, 128, 255]
    assert OPERATIONS["posterize"](images, 0.7, 1.0)[0, 0, 0].tolist() == [0, 64, 64, 128, 192]
    assert OPERATIONS["solarize"](images, 0.5, 1.0)[0, 0, 0].tolist() == [0, 100, 127, 127, 0]


def test_values_out_of_range_are_refused() -> None:
    for crop, flip, colour in ((0.0, 0.0, 0.0), (1.1, 0.0, 0.0), (1.0, -0.1, 0.0), (1.0, 0.0, 1.0)):
        with pytest.raises(
            VidretError, match=r"crop must be in \(0, 1\], flip in \[0, 1\] and colour in \[0, 1\), got"
        ):
            Augmentation(crop, flip, colour)
