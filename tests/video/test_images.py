"""Small grey pictures of frames, and image files as RGB."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video.films import read_number, write_video
from vidret.video.images import draw_frame, read_greys, read_image
from vidret.video.probe import probe
from vidret.video.reader import open_reader


@pytest.mark.parametrize("turn", [0, 90, 180])
def test_greys_are_the_brightness_of_the_displayed_picture(tmp_path: Path, turn: int) -> None:
    size = (96, 64) if turn % 180 == 0 else (64, 96)
    info = probe(write_video(tmp_path / "film.mp4", range(2741, 2753), rotation=turn, size=size))
    greys, times = read_greys(info, 0.0, 1.0, 10.0)
    assert len(greys) == len(times) > 3
    with open_reader(info) as reader:
        shown = np.asarray(reader.read([0]).pixels[0])
    expected = Image.fromarray(shown).convert("L").resize((64, 36), Image.Resampling.BOX)
    assert np.abs(greys[0].astype(int) - np.asarray(expected)).max() <= 6


def test_a_frame_is_drawn_until_the_next_one_is_shown(tmp_path: Path) -> None:
    info = probe(write_video(tmp_path / "slides.mkv", [10, 20, 30], pts=[0, 150, 1500]))
    drawn = [read_image(draw_frame(info, time_s, 64)) for time_s in (0.0, 5.0, 5.95, 6.0, 50.0, 59.8, 60.0, 70.0)]
    assert [read_number(picture) for picture in drawn] == [10, 10, 20, 20, 20, 20, 30, 30]


def test_grey_of_sixteen_bits_keeps_its_brightness() -> None:
    file = io.BytesIO()
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(file, "PNG")
    assert (read_image(file.getvalue()) == (levels >> 8)[:, :, None]).all()
