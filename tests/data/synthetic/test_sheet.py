"""tools/make_synthetic.py: its contact sheets show what the files contain."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tool_loading import load_tool
from vidret.data.benchmarks.splits import read_split
from vidret.data.synthetic.world import read_pairs
from vidret.video.reader import read_frames


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("make_synthetic")


def test_tool_writes_both_worlds_and_their_sheets(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--short", "2", "2", "4", "--films", "1", "1", "2", "--size", "48", "32", "--seed", "6"]
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), *counts])
    tool.main()
    output = capsys.readouterr()
    assert "short videos: 8, drawn now 8 in" in output.err
    assert "films: 4, drawn now 4 in" in output.err

    pairs = np.asarray(Image.open(tmp_path / "pairs.png"))
    height = 48 + tool.LINE + tool.GAP
    assert pairs.shape == (tool.GAP + 4 * height, tool.GAP + 6 * (48 + tool.GAP), 3)
    video = read_pairs(tmp_path / "msrvtt")[1].videos[0]
    frame = read_frames(str(tmp_path / "msrvtt" / "videos" / f"{video}.mp4"), indices=[4]).pixels[0]
    top, left = tool.GAP + 2 * height + tool.LINE, tool.GAP + 4 * (48 + tool.GAP)
    assert np.array_equal(pairs[top : top + 48, left : left + 48], frame)

    films = np.asarray(Image.open(tmp_path / "films.png"))
    first = read_split("moments", tmp_path / "qvhighlights").queries[0]
    bar = (films[tool.GAP + tool.THUMBNAIL + 3] == tool.BAR).all(axis=1)
    in_bar = [bool(bar[tool.GAP + round((time / 2) * tool.THUMBNAIL)]) for time in np.arange(1, first.duration or 0, 2)]
    expected = [any(start < time < end for start, end in first.spans) for time in np.arange(1, first.duration or 0, 2)]
    assert in_bar == expected


def test_tool_exits_with_message_on_invalid_numbers(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), "--short", "3", "2", "4"])
    with pytest.raises(SystemExit, match="num_train must be even and at least 2, got 3"):
        tool.main()
