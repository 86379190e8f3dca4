"""Tests of vidret/present/sheet.py and drawing.py."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from vidret.present.drawing import fit_text
from vidret.present.sheet import TILE, draw_sheet, tiles_of_hits
from vidret.types import Hit, Segment


@pytest.mark.parametrize("width", [0, 3, 10, 11, 40, 150, 320, 1100])
def test_text_is_cut_to_a_width(width: int) -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), ImageFont.load_default(13)
    assert fit_text(pen, "", font, width) == ""
    text = "a long query " * 20
    cut = fit_text(pen, text, font, width)
    assert pen.textlength(cut, font) <= width
    if cut:
        assert cut.endswith("...")
        assert text.startswith(cut.removesuffix("..."))
        assert pen.textlength(text[: len(cut) - 2] + "...", font) > width, "no shorter than it must be"
    assert fit_text(pen, "a", font, 320) == "a"


def test_long_names_are_cut_to_their_tile(tmp_path: Path) -> None:
    hits = [Hit(1, f"/films/{'holiday ' * 30}.mp4", Segment(1, 0, 0.0, 1.0), 0.5, 0.25)]
    draw_sheet(tiles_of_hits(hits), "a heading " * 40, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = sheet.convert("L")
    right = pixels.crop((8 + TILE[0] + 1, 60, pixels.width, pixels.height))
    assert right.getextrema() == (250, 250), "nothing is written beyond the tile"
