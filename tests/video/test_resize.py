"""Proof for vidret/video/resize.py: the same pixels as torchvision."""

import importlib

import numpy as np
import pytest
from PIL import Image

from vidret.types import Interpolation, Resize
from vidret.video.resize import resize_image


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
    expected = transforms.Resize((32, 32), transforms.InterpolationMode.BICUBIC)(Image.fromarray(picture))
    assert (resize_image(picture, Resize(32, 32, squash=True)) == np.asarray(expected)).all()


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="crop must be in"):
        resize_image(np.zeros((4, 4, 3), np.uint8), Resize(8, 9))
