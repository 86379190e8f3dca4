"""The README's Python sample runs as it stands, on real videos with the real starter."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from vidret.cli.demo import sample_videos

README = Path(__file__).parent.parent / "README.md"


def test_the_sample_runs_and_finds_the_right_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(samples) == 1
    assert len(samples[0].strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(sample_videos(), target_is_directory=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(samples[0], str(README), "exec"), {})
    lines = printed.getvalue().splitlines()
    assert lines[0] == "4 videos, 0 failed"
    assert "bikes.mp4" in lines[1]
    assert "bigbuckbunny.mp4" in lines[4]


def test_the_map_names_what_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"^(vidret/\w+/)", text, re.MULTILINE):
        assert (README.parent / name / "__init__.py").is_file()
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (README.parent / "tools" / name).is_file()
