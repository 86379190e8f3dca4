"""The command line: data to stdout, talk to stderr; exit codes 0 (done), 1 (it did not work), 2 (wrong use)."""

import logging
import os
import sys

from rich.markup import escape

from vidret.cli import convert, demo, evaluate, index, locate, merge, search, serve, store, train
from vidret.cli.app import app
from vidret.errors import VidretError
from vidret.show import talk

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


def main() -> None:
    """Run the program; what can go wrong is told in one sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except VidretError as error:
        talk.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
