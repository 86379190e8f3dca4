"""Pictures that hardly differ are shared, and nothing is lost by it."""

import numpy as np
import pytest

from vidret.types import Picture
from vidret.video.sampled_frames import SampledFrames, differs, share_pictures


def make_picture(seed: int = 0) -> Picture:
    """Return a picture of coarse blocks."""
    blocks = np.random.default_rng(seed).integers(40, 216, (8, 8, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((28, 28, 1), np.uint8))


def add_noise(picture: Picture, deviation: float, seed: int) -> Picture:
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_a_still_with_noise_is_one_picture() -> None:
    still = make_picture()
    samples = [(float(index), add_noise(still, 0.5, index)) for index in range(12)]
    shared = share_pictures(samples)
    assert len(shared.pictures) == 1
    assert shared.rows.tolist() == [0] * 12
    assert shared.times.tolist() == list(range(12))
    assert (shared.repeat().pixels == samples[0][1]).all()


def test_a_word_that_changes_on_a_slide_is_another_picture() -> None:
    slide = np.full((224, 224, 3), 250, np.uint8)
    changed = slide.copy()
    changed[100:112, 60:100] = 20
    assert differs(slide, changed)
    shared = share_pictures([(0.0, slide), (1.0, changed), (2.0, changed), (3.0, slide)])
    assert shared.rows.tolist() == [0, 1, 1, 2]  # only with the last one kept is a picture compared


def test_slow_changes_do_not_add_up() -> None:
    start = make_picture().astype(np.int16)
    samples = [(float(index), np.clip(start + index // 2, 0, 255).astype(np.uint8)) for index in range(40)]
    shared = share_pictures(samples)
    assert len(shared.pictures) > 5
    for (_, picture), row in zip(samples, shared.rows, strict=True):
        assert not differs(shared.pictures.pixels[row], picture)


@pytest.mark.parametrize("size", [(3, 5), (16, 16), (225, 300)])
def test_pictures_of_any_size_are_compared(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert not differs(picture, picture)
    assert differs(picture, picture + 9)


def test_different_frames_are_their_own_pictures() -> None:
    samples = [(index / 2, make_picture(index)) for index in range(3)]
    shared = share_pictures(samples)
    plain = SampledFrames.all_different(shared.pictures)
    assert len(plain) == len(shared) == 3
    assert (plain.repeat().pixels == np.stack([picture for _, picture in samples])).all()
