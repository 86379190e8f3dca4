"""What reaches the terminal: hostile file names lose what could act on it, in whatever message they come."""

import logging
import re
import sys
from pathlib import Path

import pytest

import vidret.engine
from tests.colours import ColourEncoder, write_film
from vidret import cli
from vidret.errors import VidretError
from vidret.present.show import show_table
from vidret.present.terminal import logs_said, say, say_error

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[31m\x9b2J\rred\n[bold]b\u202e.mp4"
SHOWN = "\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}red"
SHOWN += "\N{REPLACEMENT CHARACTER}[bold]b\N{REPLACEMENT CHARACTER}.mp4"


class Runner:
    """Run command lines in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())

    def __call__(self, *arguments: object) -> tuple[int, str]:
        """Return the exit code, and all that was written, after a look at its characters."""
        self.monkeypatch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = "".join(self.capsys.readouterr())
        assert all(line.isprintable() for line in written.split("\n")), written
        return int(ended.value.code or 0), written


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


def test_a_message_is_one_line_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}: is empty")
    say_error(f"{HOSTILE}: is empty" + " so long" * 40)
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{SHOWN}: is empty"
    assert second == f"error: {SHOWN}: is empty" + " so long" * 40


def test_a_logged_message_is_said_once_and_only_inside(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("vidret.anything")
    with logs_said():
        logger.warning("%s: is empty", HOSTILE)
        logger.info("nothing of this")
        try:
            raise VidretError(HOSTILE)
        except VidretError:
            logger.exception("it broke")
    logger.warning("nor of this")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"WARNING: {SHOWN}: is empty", "ERROR: it broke", "Traceback (most recent call last):"]
    assert "nor of this" not in "".join(lines)
    assert all(line.isprintable() for line in lines)


def test_a_table_keeps_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("file", "reason"), [(HOSTILE, f"{HOSTILE} is bad")])
    assert capsys.readouterr().out.splitlines()[1:] == [f"{SHOWN}  {SHOWN} is bad"]


def test_hostile_names_in_every_message(run: Runner, tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "[red]index"
    write_film(films / "red.mp4", ("red", 2)).rename(films / HOSTILE)
    (films / f"2{HOSTILE}").write_text("no video")
    code, written = run("index", films, "--index", index)
    assert code == 0
    assert f"2{SHOWN}: " in written
    assert "2" + SHOWN in run("info", "--failed", "--index", index)[1]
    assert SHOWN in run("search", "red", "--index", index)[1]
    assert SHOWN in run("locate", "red", "--index", index)[1]
    assert f"written to {index}" in run("locate", "red", "--index", index, "--curve", index / "c.png")[1].replace(
        "score curve: ", "written to "
    )
    (films / HOSTILE).unlink()
    assert f"WARNING: left out, its file is gone: {films}/{SHOWN}" in run("search", "red", "--index", index)[1]
    code, written = run("locate", "red", tmp_path / HOSTILE, "--index", index)
    assert (code, f"error: {tmp_path}/{SHOWN}: not in the index" in written) == (1, True)


@pytest.mark.parametrize("arguments", [("locate", "red", "one.mp4", HOSTILE), ("search", f"--{HOSTILE}"), (HOSTILE,)])
def test_wrong_use_quotes_what_was_given_without_its_teeth(arguments: tuple[str, ...], run: Runner) -> None:
    code, written = run(*arguments)
    assert code == 2
    assert "Usage: vidret" in written
    assert "error: " in written
    assert "[bold]b" in written


def test_many_missing_files_are_one_line(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        write_film(tmp_path / "films" / f"{number}.mp4", ("red", 1), salt=number)
    run("index", "films", "--index", "index")
    for number in range(8):
        (tmp_path / "films" / f"{number}.mp4").unlink()
    code, written = run("search", "red", "--index", "index")
    assert code == 0
    gone = [line for line in written.splitlines() if "gone" in line]
    assert len(gone) == 1
    assert re.fullmatch(r"WARNING: left out, 8 files are gone: films/\d.mp4, films/\d.mp4 and 6 more", gone[0])


def test_nothing_else_prints_to_the_terminal() -> None:
    for path in sorted((ROOT / "vidret" / "cli").glob("*.py")):
        source = path.read_text("utf-8")
        assert "console.print" not in source, f"{path} must print its messages by say"
        assert "rich.markup" not in source, f"{path} must leave markup to say"
