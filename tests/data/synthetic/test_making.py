"""tools/make_synthetic.py writes both worlds."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tool_loading import load_tool
from vidret.data.benchmarks.splits import read_split


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("make_synthetic")


def test_tool_writes_both_worlds(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--short", "2", "2", "4", "--films", "1", "1", "2", "--size", "48", "32", "--seed", "6"]
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), *counts])
    tool.main()
    output = capsys.readouterr()
    assert "short videos: 8, drawn now 8 in" in output.err
    assert "films: 4, drawn now 4 in" in output.err
    assert len(load_tool("worlds").read_pairs(tmp_path / "msrvtt")) > 0
    assert len(read_split("moments", tmp_path / "qvhighlights").queries) > 0


def test_tool_exits_with_message_on_invalid_numbers(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), "--short", "3", "2", "4"])
    with pytest.raises(SystemExit, match="num_train must be even and at least 2, got 3"):
        tool.main()
