"""Messages on the terminal: all of them pass here, so that no name from disk can act on the terminal.

A file's name may hold escape sequences, line ends and Rich markup. Whatever cannot be printed becomes a mark, a message
stays one line, and markup is never interpreted.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from vidret.text import sanitize

console = Console(stderr=True)


def say(message: str, *, style: str = "") -> None:
    """Print a message of one line to stderr."""
    console.print(Text(sanitize(message), style), soft_wrap=True)


def say_error(message: str) -> None:
    """Print why the program ends without success."""
    console.print(Text.assemble(("error:", "bold red"), f" {sanitize(message)}"), soft_wrap=True)


@contextmanager
def logs_said() -> Iterator[None]:
    """Print warnings and errors of all loggers inside as ``say`` does, above a progress bar where there is one."""
    handler, root = _Said(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Said(logging.Handler):
    """Print records, with the traceback of those that have one."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname}: {record.getMessage()}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                say(line)
