"""Messages on the terminal, and data on stdout. All messages pass here, so that no file name can control the terminal.

A file name may contain escape sequences, line ends and Rich markup. Unprintable characters are replaced, a message is
always one line, and markup is never interpreted.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from vidret.text import sanitize

console = Console(stderr=True)


def print_message(message: str, *, style: str = "") -> None:
    """Print one line to stderr."""
    console.print(Text(sanitize(message), style), soft_wrap=True)


def write_stdout(text: str) -> None:
    """Write data to stdout; paths that are not valid text keep the bytes that they have on disk."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def print_error(message: str) -> None:
    """Print one line to stderr, marked as an error."""
    console.print(Text.assemble(("error:", "bold red"), f" {sanitize(message)}"), soft_wrap=True)


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print the warnings and errors of all loggers with ``print_message``, above a progress bar if there is one."""
    handler, root = _TerminalHandler(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _TerminalHandler(logging.Handler):
    """Prints log records, with their traceback if they have one."""

    def emit(self, record: logging.LogRecord) -> None:
        print_message(f"{record.levelname}: {record.getMessage()}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                print_message(line)
