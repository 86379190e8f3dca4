"""Tests of commands without ``--index``."""

import os
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from vidret.cli import options as default_index


def test_the_index_of_the_folder_comes_before_that_of_the_user(
    run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_index, "find_own_index", lambda: tmp_path / "own")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run.run_raw("index", films / "red.mp4")
    assert (code, err.splitlines()[0]) == (0, f"Index: {tmp_path / 'own'}")
    code, out, err = run("search", "red")
    assert (code, err) == (0, f"Index: {tmp_path / 'own'}")
    assert out.splitlines()[1].endswith("red.mp4")
    assert run("index", films / "blue.mp4", "--index", "vidret-index")[0] == 0
    code, out, err = run("search", "blue")
    assert (err, "red.mp4" in out, "blue.mp4" in out) == ("", False, True)
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "own"))
    assert run("search", "red")[2] == ""
    monkeypatch.delenv("VIDRET_INDEX")
    monkeypatch.chdir(tmp_path)
    assert "Index:" not in run("search", "red", "--server", "http://127.0.0.1:1")[2], "a server needs none"


def test_the_own_index_is_with_the_data_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("platformdirs")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # of Linux
    assert default_index.find_own_index().name == "index"
    assert "vidret" in default_index.find_own_index().parts


def test_several_indexes_are_not_the_path_of_one(
    run: Runner, films: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRET_INDEX", os.pathsep.join([str(index), str(tmp_path / "other")]))
    for command in (("index", films), ("info",), ("collection", "list"), ("merge", index)):
        run.check_refusal(command, 2, "--index: must be one index for this command; VIDRET_INDEX names several")
    assert run("info", "--index", index)[0] == 0
    monkeypatch.setenv("VIDRET_INDEX", str(index.rename(tmp_path / f"a{os.pathsep}b")))
    assert run("info")[0] == 0, "it is the name of a folder"
