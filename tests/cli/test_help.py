"""Tests of the help: every command, argument and option is described, and flags show no type."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.cli.runner import Runner
from vidret.cli import app


def list_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from list_commands(each, (*path, name))


COMMANDS = [each for each in list_commands(typer.main.get_command(app)) if each[0] != ("train",)]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) or "vidret" for path, _ in COMMANDS])
def test_help_describes_everything(
    path: tuple[str, ...], command: Any, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    assert "<bool>" not in out
    assert command.help.endswith(".")
    for param in command.params:
        assert param.help.endswith("."), param.name
        assert param.metavar is not None or param.is_flag, param.name
        assert param.opts[0] in out or param.metavar in out


def test_commands_come_in_the_order_of_their_use() -> None:
    names = [path[0] for path, _ in COMMANDS if path]
    assert names[:4] == ["index", "search", "locate", "serve"]
