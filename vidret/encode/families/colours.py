"""Basic colours as dimensions of the starter's vectors, since a classifier of objects is trained to ignore them.

A picture's vector gets the share of each colour in it, relative to a typical share, and a text's vector the colours
that it names. Their cosine thus also says how much more of these colours the picture has than usual.

References: Berlin and Kay 1969, "Basic Color Terms", for the colours; van de Weijer et al. 2009, "Learning Color Names
for Real-World Applications", for naming the colours of pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float32

from vidret.encode.sentences import scale_to_unit

if TYPE_CHECKING:  # a search by text needs no torch
    from torch import Tensor

BLACK, WHITE, GREY, RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, PINK, BROWN = range(11)
# Geometric means of share + FLOOR over frames of clips of many kinds, less FLOOR.
TYPICAL = (0.079, 0.037, 0.139, 0.015, 0.006, 0.010, 0.010, 0.035, 0.003, 0.007, 0.079)
WORDS = {
    "black": BLACK,
    "white": WHITE,
    **dict.fromkeys(("grey", "gray", "silver"), GREY),
    "red": RED,
    "orange": ORANGE,
    **dict.fromkeys(("yellow", "gold", "golden"), YELLOW),
    "green": GREEN,
    **dict.fromkeys(("blue", "turquoise"), BLUE),
    **dict.fromkeys(("purple", "violet"), PURPLE),
    "pink": PINK,
    "brown": BROWN,
}
HUES = (15.0, 42.0, 70.0, 165.0, 255.0, 300.0, 345.0)  # degrees, between the colours of the next line
HUE_NAMES = (RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, PINK, RED)
FLOOR = 0.02  # added to shares, so that a few pixels count little
PICTURE_WEIGHT, TEXT_WEIGHT = 0.05, 0.4  # of the colours, against 1 of the classes or the words
GREYISH_WEIGHT = 0.2  # of black, white and grey in a text: whether pixels have them depends on the light
LENGTH = 0.35  # of what a picture's vector gets: enough for the colours of nearly all pictures
NUM_ADDED = 16  # a multiple of 16, without which FAISS compares float16 vectors 14 times slower
DETAIL = 4  # pixels a side that are averaged before they are named
IDENTITY = (
    TYPICAL,
    tuple(WORDS.items()),
    HUES,
    FLOOR,
    PICTURE_WEIGHT,
    TEXT_WEIGHT,
    GREYISH_WEIGHT,
    LENGTH,
    NUM_ADDED,
    DETAIL,
)


def measure_colours(pixels: "Tensor", num_cells: int) -> "Tensor":
    """Return the share of each colour in the cells of pictures.

    ``pixels`` are uint8 (picture, height, width, 3), with sides divisible by ``DETAIL * num_cells``; the result is
    float32 (picture, cell, colour), for ``num_cells`` rows of as many cells.
    """
    from torch.nn import functional

    blocks = functional.avg_pool2d(rearrange(pixels, "picture h w c -> picture c h w").float() / 255, DETAIL)
    shown = functional.one_hot(name_pixels(*blocks.unbind(1)), len(TYPICAL)).float()
    grid = "picture (row h) (column w) colour -> picture (row column) colour"
    return reduce(shown, grid, "mean", row=num_cells, column=num_cells)


def name_pixels(red: "Tensor", green: "Tensor", blue: "Tensor") -> "Tensor":
    """Return the colour of each pixel, whose channels are in [0, 1], by hue in degrees, saturation and value."""
    import torch

    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation, unit = spread / value.clamp(min=1e-6), spread.clamp(min=1e-6)
    from_green = torch.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit)
    hue = 60 * torch.where(value == red, ((green - blue) / unit) % 6, from_green)
    names = torch.tensor(HUE_NAMES, device=hue.device)[torch.bucketize(hue, hue.new_tensor(HUES), right=True)]
    names[((hue >= 320) | (hue < 15)) & (value > 0.7) & (saturation < 0.55)] = PINK
    names[(hue >= 8) & (hue < 48) & ((value < 0.6) | (saturation < 0.5))] = BROWN
    names[(hue >= 300) & (hue < 330) & (value < 0.6)] = PURPLE
    is_pale = saturation < 0.18
    names[is_pale] = GREY
    names[is_pale & (value > 0.8)] = WHITE
    names[(value < 0.2) | (is_pale & (value < 0.3))] = BLACK
    return names


def add_picture_colours(units: "Tensor", shares: "Tensor") -> "Tensor":
    """Return unit vectors (..., dim + NUM_ADDED) of pictures with these shares (..., colour).

    One more dimension makes what is added equally long for all pictures, and thus keeps the order of other cosines.
    """
    import torch
    from torch.nn import functional

    typical = shares.new_tensor(TYPICAL)
    colours = PICTURE_WEIGHT * ((shares + FLOOR) / (typical + FLOOR)).log()
    colours = colours * (LENGTH / colours.norm(dim=-1, keepdim=True)).clamp(max=1)
    rest = (LENGTH**2 - colours.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
    joined = torch.cat([units, colours, rest], -1)
    return functional.normalize(functional.pad(joined, (0, NUM_ADDED - len(TYPICAL) - 1)), dim=-1)


def find_colours(words: Sequence[str]) -> Float32[np.ndarray, "word colour"]:
    """Return ones for the colours that lower-case words name; none for "black and white"."""
    found = np.zeros((len(words), len(TYPICAL)), np.float32)
    if "black and white" in " ".join(word for word in words if word != "-"):
        return found
    for row, word in zip(found, words, strict=True):
        if word in WORDS:
            row[WORDS[word]] = 1
    return found


def add_text_colours(
    units: Float32[np.ndarray, "row dim"], colours: Float32[np.ndarray, "row colour"]
) -> Float32[np.ndarray, "row dim_and_added"]:
    """Return unit vectors of texts or words with the colours that each names."""
    weights = np.full(NUM_ADDED, TEXT_WEIGHT, np.float32)
    weights[[BLACK, WHITE, GREY]] = GREYISH_WEIGHT
    added = np.pad(scale_to_unit(colours), ((0, 0), (0, NUM_ADDED - len(TYPICAL)))) * weights
    return scale_to_unit(np.concatenate([units, added], 1))
