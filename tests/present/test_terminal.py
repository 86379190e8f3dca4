"""Tests of vidret/present/terminal.py: hostile file names cannot control the terminal, in any message."""

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from vidret.errors import VidretError
from vidret.present import terminal
from vidret.present.show import show_table
from vidret.present.terminal import log_to_terminal, print_error, print_message, show_status

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[31m\x9b2J\rred\n[bold]b\u202e.mp4"
SHOWN = "\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}red"
SHOWN += "\N{REPLACEMENT CHARACTER}[bold]b\N{REPLACEMENT CHARACTER}.mp4"


def test_a_slow_start_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with show_status("loading", slow="the first start is slow"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(terminal, "SLOW_S", 0.01)
    said = threading.Event()

    def say(message: str, *, style: str) -> None:
        print_message(message, style=style)
        said.set()

    monkeypatch.setattr(terminal, "print_message", say)
    with show_status("loading", slow="the first start is slow"):
        assert said.wait(10)
    assert "the first start is slow" in capsys.readouterr().err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run command lines with an encoder of colours, and check that all of their output is printable."""
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    runner = Runner(monkeypatch, capsys)

    def run(*arguments: object) -> tuple[int, str]:
        code, out, err = runner.run_raw(*arguments)
        assert all(line.isprintable() for line in (out + err).split("\n")), out + err
        return code, out + err

    return run


def test_messages_are_one_line_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_message(f"{HOSTILE}: is empty")
    print_error(f"{HOSTILE}: is empty" + " so long" * 40)
    show_table(("file", "reason"), [(HOSTILE, f"{HOSTILE} is bad")])
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"{SHOWN}: is empty", f"error: {SHOWN}: is empty" + " so long" * 40]
    assert out.splitlines()[1:] == [f"{SHOWN}  {SHOWN} is bad"]


def test_log_records_are_printed_once_and_only_inside(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("vidret.anything")
    with log_to_terminal():
        logger.warning("%s: is empty", HOSTILE)
        logger.info("not printed")
        try:
            raise VidretError(HOSTILE)
        except VidretError:
            logger.exception("\nit broke")  # as Lightning begins some messages
    logger.warning("after the end")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"WARNING: {SHOWN}: is empty", "ERROR: it broke", "Traceback (most recent call last):"]
    assert "after the end" not in "".join(lines)
    assert all(line.isprintable() for line in lines)


def test_hostile_names_in_every_command(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "[red]index"
    write_film(films / "red.mp4", ("red", 2)).rename(films / HOSTILE)
    (films / f"2{HOSTILE}").write_text("no video")
    code, written = run("index", films, "--index", index)
    assert code == 0
    assert f"2{SHOWN}: " in written
    assert "2" + SHOWN in run("info", "--failed", "--index", index)[1]
    assert SHOWN in run("search", "red", "--index", index)[1]
    assert SHOWN in run("locate", "red", "--index", index)[1]
    assert f"score curve: {index}" in run("locate", "red", "--index", index, "--curve", index / "c.png")[1]
    (films / HOSTILE).unlink()
    assert f"WARNING: left out, its file is gone: {films}/{SHOWN}" in run("search", "red", "--index", index)[1]
    code, written = run("locate", "red", tmp_path / HOSTILE, "--index", index)
    assert (code, f"error: {tmp_path}/{SHOWN}: not in the index" in written) == (1, True)


def test_usage_errors_quote_hostile_arguments_safely(run: Callable[..., tuple[int, str]]) -> None:
    for arguments in (("locate", "red", "one.mp4", HOSTILE), ("search", f"--{HOSTILE}"), (HOSTILE,)):
        code, written = run(*arguments)
        assert (code, "Usage: vidret" in written, "error: " in written, "[bold]b" in written) == (2, True, True, True)


def test_many_missing_files_are_one_line(
    run: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for film_index in range(9):
        write_film(tmp_path / "films" / f"{film_index}.mp4", ("red", 1), salt=film_index)
    run("index", "films", "--index", "index")
    for film_index in range(8):
        (tmp_path / "films" / f"{film_index}.mp4").unlink()
    code, written = run("search", "red", "--index", "index")
    assert code == 0
    gone = [line for line in written.splitlines() if "gone" in line]
    assert len(gone) == 1
    files = r"films/\d.mp4, films/\d.mp4 and 6 more"
    advice = "their drive may be disconnected; index again to find those that were moved"
    assert re.fullmatch(f"WARNING: left out, 8 files are gone: {files}; {advice}", gone[0])
    (tmp_path / "films" / "8.mp4").unlink()
    for command in (("search", "red"), ("locate", "red"), ("search", "red", "--by", "moment")):
        written = run(*command, "--index", "index")[1]
        assert "Nothing was found." in written, "whether the missing videos match is not known"
        assert "Nothing matches" not in written


def test_commands_print_through_the_terminal_module() -> None:
    for path in sorted((ROOT / "vidret" / "cli").glob("*.py")):
        source = path.read_text("utf-8")
        assert "console.print" not in source, f"{path} must print its messages with print_message"
        assert "rich.markup" not in source, f"{path} must leave markup to print_message"
