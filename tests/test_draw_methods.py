"""The pictures of docs/how-it-works.md: what is drawn is what was computed."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tool_loading import load_tool


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("draw_methods")


def test_first_results_are_framed_and_counted(tool: Any) -> None:
    sheet, pen = tool.start_sheet(300, "title", "note")
    scores = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    tool.draw_matrix(pen, (100, 100), scores)
    framed = [
        [sheet.getpixel((100 + tool.CELL * column, 100 + tool.CELL * (row + 1))) == tool.AMBER for column in (0, 1)]
        for row in (0, 1)
    ]
    assert framed == [[True, False], [True, False]]
    assert tool.count_right(torch.from_numpy(scores)) == 1


def test_hot_patches_are_tinted_and_cold_ones_grey(tool: Any) -> None:
    picture = np.full((4, 4, 3), (90, 60, 30), np.uint8)
    tinted = np.asarray(tool.tint_patches(picture, np.array([[0.0, 1.0], [0.0, 0.0]])))
    assert tinted[0, 0].tolist() == [60, 60, 60]
    assert np.abs(tinted[0, 3] - (0.25 * 60 + 0.75 * np.array(tool.AMBER))).max() < 1


def test_head_and_correction_are_drawn(tool: Any) -> None:
    for sheet in (tool.draw_head(), tool.draw_sinkhorn()):
        assert isinstance(sheet, Image.Image)
        assert (np.asarray(sheet) == tool.AMBER).all(axis=-1).any()
