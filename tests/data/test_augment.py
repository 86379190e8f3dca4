"""A video changes as one: every frame as the others, by its own chance alone, and never more than was asked for."""

import numpy as np
import pytest
import torch

from vidret.data.augment import OPERATIONS, Augmentation, rand_augment, random_resized_crop
from vidret.errors import VidretError

ALL = Augmentation(crop=0.5, flip=0.5, colour=0.4, policy=True)


def sample(num_frames: int = 3, seed: int = 0, side: int = 24) -> np.ndarray:
    """Draw pictures that vary smoothly, so that stretching them makes sense."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (num_frames, side // 4, side // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


def test_nothing_is_changed_unless_asked_for() -> None:
    pixels = sample()
    rng = np.random.default_rng(0)
    assert Augmentation()(pixels, rng) is pixels
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("seed", range(12))
def test_all_frames_of_a_video_are_changed_in_the_same_way(seed: int) -> None:
    one = sample(1, seed)
    same = ALL(np.concatenate([one, one, one]), np.random.default_rng(seed))
    alone = ALL(one, np.random.default_rng(seed))
    assert same.shape == (3, 24, 24, 3)
    assert same.dtype == np.uint8
    for frame in same:
        np.testing.assert_array_equal(frame, alone[0])


def test_it_follows_from_the_seed_alone() -> None:
    pixels = sample()
    kept = pixels.copy()
    first, second, other = (ALL(pixels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(pixels, kept)
    torch.manual_seed(5)
    np.testing.assert_array_equal(ALL(pixels, np.random.default_rng(1)), first)


def test_what_cannot_be_written_to_can_be_changed() -> None:
    pixels = sample()
    pixels.flags.writeable = False
    assert ALL(pixels, np.random.default_rng(0)).flags.writeable


def test_a_mirrored_video_is_a_mirrored_video() -> None:
    pixels = sample()
    np.testing.assert_array_equal(Augmentation(flip=1.0)(pixels, np.random.default_rng(0)), pixels[:, :, ::-1])
    some = [(Augmentation(flip=0.3)(pixels, np.random.default_rng(seed)) != pixels).any() for seed in range(300)]
    assert 60 < sum(some) < 120
    for seed in range(20):  # without it left stays left, whatever else is done
        ramp = np.broadcast_to(np.linspace(0, 255, 24, dtype=np.uint8)[:, None], (2, 24, 24, 3))
        changed = Augmentation(crop=0.5, colour=0.3)(np.array(ramp), np.random.default_rng(seed)).astype(int)
        assert changed[:, :, -1].mean() > changed[:, :, 0].mean()


def test_a_crop_is_a_rectangle_of_the_share_asked_for() -> None:
    height, width = 40, 60
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=0) * 4
    pictures = torch.from_numpy(np.concatenate([places, places[:1] * 0])[None].astype(np.uint8))
    shares, ratios = [], []
    for seed in range(60):
        cut = random_resized_crop(pictures, 0.5, np.random.default_rng(seed))
        assert cut.shape == pictures.shape
        inner = cut[0, :, 10:30, 15:45].float() / 4  # far from the edges, stretching is exact
        wide = float(inner[0, :, -1].mean() - inner[0, :, 0].mean()) * 60 / 29
        tall = float(inner[1, -1].mean() - inner[1, 0].mean()) * 40 / 19
        shares.append(wide * tall / (height * width))
        ratios.append(wide / tall)
    assert 0.42 < min(shares) < 0.6
    assert max(shares) < 1.06
    assert 0.7 < min(ratios) < max(ratios) < 1.42


def test_colours_change_by_no_more_than_asked_for() -> None:
    grey = np.full((2, 8, 8, 3), 100, np.uint8)  # of a flat grey picture contrast and saturation change nothing
    values = [int(Augmentation(colour=0.2)(grey, np.random.default_rng(seed))[0, 0, 0, 0]) for seed in range(100)]
    assert 78 <= min(values) < 90  # contrast and saturation each round down
    assert 110 < max(values) <= 120


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_change_of_the_policy_gives_pictures_and_does_something(name: str) -> None:
    pictures = torch.from_numpy(sample()[..., ::-1].copy() // 2 + 40).permute(0, 3, 1, 2)
    for sign in (-1.0, 1.0):
        changed = OPERATIONS[name](pictures, 0.7, sign)
        assert changed.shape == pictures.shape
        assert changed.dtype == torch.uint8
        assert not torch.equal(changed, pictures)


def test_the_policy_draws_four_changes_each_done_every_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, float]] = []
    for name in OPERATIONS:

        def note(pictures: torch.Tensor, strength: float, sign: float, name: str = name) -> torch.Tensor:
            done.append((name, strength))
            return pictures

        monkeypatch.setitem(OPERATIONS, name, note)
    pictures = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for seed in range(500):
        rand_augment(pictures, np.random.default_rng(seed))
    assert 900 < len(done) < 1100
    assert {name for name, _ in done} == set(OPERATIONS)
    strengths = np.array([strength for _, strength in done])
    assert strengths.mean() == pytest.approx(0.7, abs=0.01)
    assert strengths.std() == pytest.approx(0.05, abs=0.005)


def test_a_small_share_below_the_middle_is_brightened() -> None:
    pictures = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 5)
    assert OPERATIONS["solarize_add"](pictures, 1.0, 1.0)[0, 0, 0].tolist() == [110, 210, 237, 128, 255]
    assert OPERATIONS["posterize"](pictures, 0.7, 1.0)[0, 0, 0].tolist() == [0, 64, 64, 128, 192]
    assert OPERATIONS["solarize"](pictures, 0.5, 1.0)[0, 0, 0].tolist() == [0, 100, 127, 127, 0]


def test_numbers_out_of_range_are_refused() -> None:
    for crop, flip, colour in ((0.0, 0.0, 0.0), (1.1, 0.0, 0.0), (1.0, -0.1, 0.0), (1.0, 0.0, 1.0)):
        with pytest.raises(
            VidretError, match=r"crop must be in \(0, 1\], flip in \[0, 1\] and colour in \[0, 1\), got"
        ):
            Augmentation(crop, flip, colour)
