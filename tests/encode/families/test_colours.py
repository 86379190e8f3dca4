"""Colours of the starter: pixels against a loop with Python's ``colorsys``, cosines against their parts, and films."""

import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.fakes import COLOURS, write_film
from vidret.encode.families.colours import (
    FLOOR,
    GREYISH_WEIGHT,
    LENGTH,
    NUM_ADDED,
    PICTURE_WEIGHT,
    TEXT_WEIGHT,
    TYPICAL,
    WORDS,
    add_picture_colours,
    add_text_colours,
    find_colours,
    measure_colours,
    name_pixels,
)
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine

NAMES = ["black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]
SHADES = {
    "black": "000000 202020 1a0d0d",
    "white": "ffffff f0f0e8",
    "grey": "808080 a0a8b0 606468",
    "red": "ff0000 c01818 dc143c",
    "orange": "ffa500 ff8c00",
    "yellow": "ffff00 ffd700",
    "green": "008000 00ff00 2e8b57 6b8e23",
    "blue": "0000ff 1e90ff 000080 87ceeb 40e0d0",
    "purple": "800080 8a2be2 9370db",
    "pink": "ffc0cb ff69b4 ff00ff",
    "brown": "8b4513 7b3f00 d2b48c 654321",
}


def naive_name(red: float, green: float, blue: float) -> str:
    """Name a colour by rules for hue in degrees, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue *= 360
    if value < 0.2 or (saturation < 0.18 and value < 0.3):
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.8 else "grey"
    if 300 <= hue < 330 and value < 0.6:
        return "purple"
    if 8 <= hue < 48 and (value < 0.6 or saturation < 0.5):
        return "brown"
    if (hue >= 320 or hue < 15) and value > 0.7 and saturation < 0.55:
        return "pink"
    edges = {15: "red", 42: "orange", 70: "yellow", 165: "green", 255: "blue", 300: "purple", 345: "pink", 360: "red"}
    return next(name for edge, name in edges.items() if hue < edge)


def test_pixels_are_named_as_in_a_loop() -> None:
    pixels = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels[:1000] = pixels[:1000, :1] + 0.1 * pixels[:1000]  # pale ones
    pixels.clamp_(max=1)
    found = [NAMES[name] for name in name_pixels(*pixels.unbind(1)).tolist()]
    assert found == [naive_name(*pixel) for pixel in pixels.tolist()]
    assert set(found) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_well_known_shades_have_their_names(name: str) -> None:
    shades = [[int(shade[at : at + 2], 16) / 255 for at in (0, 2, 4)] for shade in SHADES[name].split()]
    assert {NAMES[found] for found in name_pixels(*torch.tensor(shades).unbind(1)).tolist()} == {name}


def test_shares_are_those_of_each_cell() -> None:
    pixels = np.full((2, 224, 224, 3), 255, np.uint8)
    pixels[0, :112, :16] = (255, 0, 0)  # half of the first column's cells, in the upper half
    pixels[1, 200:, 200:] = 0
    shares = measure_colours(torch.from_numpy(pixels), 7)
    assert shares.shape == (2, 49, len(NAMES))
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 49))
    red = shares[0, :, NAMES.index("red")].reshape(7, 7)
    expected = torch.zeros(7, 7)
    expected[:3, 0], expected[3, 0] = 0.5, 0.25
    torch.testing.assert_close(red, expected)
    assert shares[1, 48, NAMES.index("black")] == 9 / 16  # 24 x 24 of its 32 x 32 pixels
    assert shares[1].sum(0)[NAMES.index("white")] == 49 - 9 / 16


def naive_colours(shares: np.ndarray) -> np.ndarray:
    """Return what a picture's colours add to its vector: logarithms of ratios, of bounded length."""
    added = [
        PICTURE_WEIGHT * math.log((share + FLOOR) / (usual + FLOOR))
        for share, usual in zip(shares, TYPICAL, strict=True)
    ]
    length = math.sqrt(sum(value**2 for value in added))
    return np.array(added) * min(1, LENGTH / length)


def test_a_cosine_is_that_of_the_classes_and_what_the_named_colours_add() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, texts = (functional.normalize(torch.randn(20, 32, generator=generator), dim=1) for _ in range(2))
    shares = torch.softmax(torch.randn(20, len(NAMES), generator=generator) * 3, 1)
    named = (torch.rand(20, len(NAMES), generator=generator) < 0.15).float().numpy()
    found = add_picture_colours(pictures, shares).numpy() @ add_text_colours(texts.numpy(), named).T
    for picture_index, text_index in np.ndindex(20, 20):
        weights = [GREYISH_WEIGHT if name in ("black", "white", "grey") else TEXT_WEIGHT for name in NAMES]
        asked = named[text_index] * weights / max(1, named[text_index].sum() ** 0.5)
        total = float(pictures[picture_index] @ texts[text_index])
        total += naive_colours(shares[picture_index].numpy()) @ asked
        total /= math.hypot(1, LENGTH) * math.hypot(1, *asked)
        np.testing.assert_allclose(found[picture_index, text_index], total, atol=1e-6)


def test_vectors_have_unit_length_and_colourless_texts_keep_the_order_of_pictures() -> None:
    generator = torch.Generator().manual_seed(1)
    units = functional.normalize(torch.randn(50, 32, generator=generator), dim=1)
    shares = torch.eye(len(NAMES))[torch.randint(len(NAMES), (50,), generator=generator)]
    pictures = add_picture_colours(units, shares)
    assert pictures.shape == (50, 32 + NUM_ADDED)
    torch.testing.assert_close(pictures.norm(dim=1), torch.ones(50))
    text = add_text_colours(units[:1].numpy(), find_colours(["dog"]))
    np.testing.assert_array_equal(np.argsort(pictures.numpy() @ text[0]), np.argsort(units.numpy() @ units[0].numpy()))
    np.testing.assert_allclose(np.linalg.norm(text), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a red car and a golden , gray dog", {"red", "yellow", "grey"}),
        ("violet", {"purple"}),
        ("a reddish blackboard", set()),
        ("a black and white film", set()),
        ("a black - and - white film", set()),
        ("", set()),
    ],
)
def test_words_name_colours(words: str, expected: set[str]) -> None:
    found = find_colours(words.split())
    assert found.shape == (len(words.split()), len(NAMES))
    assert {NAMES[colour] for colour in np.flatnonzero(found.any(0))} == expected
    assert found.sum() == len([word for word in words.split() if word in WORDS and expected])


def test_a_named_colour_finds_its_film(tmp_path: Path) -> None:
    """Plain films have no object; only the colour tells them apart, also where a text has other words."""
    for colour in COLOURS:
        write_film(tmp_path / f"{colour}.mp4", (colour, 2))
    with Engine.open(tmp_path / "index", encoder=load_encoder(device="cpu")) as engine:
        engine.index([tmp_path])
        for colour in COLOURS:
            for query in (f"a {colour} wall", f"a man in a {colour} shirt"):
                assert Path(engine.search(query)[0].path).stem == colour, query
