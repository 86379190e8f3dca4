"""Tests of vidret shots."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner, run_without_torch
from tests.followed import follow_shots
from tests.scripted_server import VIDEO, Reply, serve
from vidret.present import sheet
from vidret.types import ShotChange


@pytest.fixture
def followed(index: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an index that knows the two shots of one of its films, and go to its films."""
    monkeypatch.chdir(films)
    monkeypatch.setenv("VIDRET_INDEX", str(index))
    follow_shots(index, films / "red.mp4", [ShotChange(3.0, 3.0, "cut")], duration_s=6.0)
    return index


@pytest.mark.usefixtures("followed")
def test_shots_are_printed(run: Runner) -> None:
    code, out, err = run("shots", "red.mp4")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["shot", "start", "end", "length", "begins", "with"],
        ["1", "0:00.0", "0:03.0", "3.0", "s"],
        ["2", "0:03.0", "0:06.0", "3.0", "s", "cut"],
    ]
    assert json.loads(run("shots", "red.mp4", "--format", "json")[1])[1]["begins_with"] == "cut"
    assert run("shots", "red.mp4", "--format", "csv")[1].splitlines()[2] == "2,3.0,6.0,3.0,cut"


@pytest.mark.usefixtures("followed")
def test_storyboard_shows_the_middle_of_each_shot(run: Runner, tmp_path: Path) -> None:
    code, out, err = run("shots", "red.mp4", "--sheet", tmp_path / "new" / "board.png")
    assert (code, err) == (0, f"storyboard: {tmp_path / 'new' / 'board.png'}")
    assert out.startswith("shot ")
    with Image.open(tmp_path / "new" / "board.png") as board:
        pixels = np.asarray(board.convert("RGB"), np.int64)
    first, second = pixels[130, 168], pixels[130, 168 + sheet.TILE[0] + sheet.GAP]
    assert first[0] > 150 > first[1], "red"
    assert second.max() < 60, "black"


def test_what_there_is_not_is_said(run: Runner, followed: Path, films: Path) -> None:
    follow_shots(followed, films / "blue.mp4", None, duration_s=3.0)
    for command, code, sentence in (
        (
            ("blue.mp4",),
            1,
            "blue.mp4: the index has no shots of this video, which it cut at fixed lengths; to find them, ",
        ),
        (("bad.mp4",), 1, "bad.mp4: not in the index ("),
        (("red.mp4", "--format", "doc"), 2, "must be one of table, csv, json, got doc"),
        (("red.mp4", "--token", "secret"), 2, "needs --server URL"),
        (
            ("red.mp4", "--server", "http://here", "--sheet", "a.png"),
            2,
            "--sheet: needs a local index, got --server URL",
        ),
        (("red.mp4", "--sheet", "a.unknown"), 2, "--sheet: must end with .jpg, .jpeg, .png, .webp, got a.unknown"),
    ):
        status, _, err = run("shots", *command)
        assert status == code
        assert sentence in err


def test_long_storyboard_shows_the_longest_shots(
    run: Runner, followed: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [ShotChange(time, time, "cut") for time in (1.0, 1.5, 3.0)]
    follow_shots(followed, films / "blue.mp4", changes, duration_s=3.2)
    monkeypatch.setattr(sheet, "MAX_SHOTS", 2)
    _, _, err = run("shots", "blue.mp4", "--sheet", tmp_path / "board.png")
    assert err.startswith("the storyboard shows the 2 longest of 4 shots storyboard: ")


def test_a_server_is_asked(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        server.replies = [
            Reply({"videos": [VIDEO], "next": None}),
            Reply({"shots": [{"start": 0, "end": 2, "begins_with": None}]}),
        ]
        code, out, _ = run("shots", "/films/red.mp4", "--server", server.url, "--format", "csv")
    assert (code, out.splitlines()[1]) == (0, "1,0,2,2,")
    assert server.asked[1].line == "GET /api/videos/7/shots"


def test_no_model_is_loaded(followed: Path, films: Path) -> None:
    out = run_without_torch("shots", films / "red.mp4", "--index", followed, "--format", "csv")
    assert out.splitlines()[-1:] == ["2,3.0,6.0,3.0,cut"]
