"""The command line: data to stdout, messages to stderr; exit codes 0 (done), 1 (it did not work), 2 (wrong use)."""

import os
import sys
from typing import Any

import typer

from vidret.cli import convert, demo, evaluate, index, locate, merge, search, serve, store, train
from vidret.cli.app import app
from vidret.errors import VidretError
from vidret.present.terminal import logs_said, say, say_error

__all__ = [
    "app",
    "convert",
    "demo",
    "evaluate",
    "index",
    "locate",
    "main",
    "merge",
    "search",
    "serve",
    "store",
    "train",
]


# The order in which people meet them.
COMMANDS = ("index", "search", "locate", "serve", "calibrate", "info", "merge", "convert", "train", "demo")
app.registered_commands.sort(key=lambda command: COMMANDS.index(getattr(command.callback, "__name__", "")))
UsageError: Any = typer.BadParameter.__base__  # click's own or the copy in typer, as the version has it


def main() -> None:
    """Run the program and exit; an expected error is one sentence on stderr."""
    try:
        with logs_said():
            # In standalone mode typer would print errors itself, with the names in them as they are.
            code = app(prog_name="vidret", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        if message := error.format_message():  # empty after the help that a bare `vidret` prints
            say(error.ctx.get_usage().strip())
            say(f"Help: {error.ctx.command_path} --help")
            say_error(message)
        sys.exit(error.exit_code)
    except VidretError as error:
        say_error(str(error))
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
