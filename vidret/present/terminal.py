"""Messages on the terminal, and data on stdout and in files.

All messages go through this module, since file names may contain escape sequences, line breaks and Rich markup.
Unprintable characters are replaced, a message is always one line, and markup is never interpreted.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.errors import VidretError, is_disk_full
from vidret.text import sanitize

if TYPE_CHECKING:
    from rich.console import Console  # takes a fifth of a command's start-up time
    from rich.text import Text

SLOW_S = 5.0
LEVELS = ("debug", "info", "warning", "error")


class _Format:
    """The format of messages, JSON or text, which ``set_log_format`` sets for a command."""

    is_json = False


@cache
def load_console() -> "Console":
    """Return Rich's console on stderr."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise  # else Rich would end the program, and its data on stdout

    return _Console(stderr=True)


def set_log_format(level: str, *, as_json: bool) -> None:
    """Set the log level until ``log_to_terminal`` ends, and whether messages are lines of JSON.

    The level is that of vidret's loggers; those of other packages start at ``warning``. An object has the ``time`` (ISO
    8601, UTC), ``level``, ``logger`` and ``message``.
    """
    logging.getLogger("vidret").setLevel(level.upper())
    _Format.is_json = as_json


def shows_bars() -> bool:
    """Return whether to draw progress bars: stderr is a terminal, and messages are not JSON."""
    return not _Format.is_json and load_console().is_terminal


@contextmanager
def show_status(text: str, *, slow: str = "") -> Iterator[None]:
    """Show a status if stderr is a terminal; print the reason ``slow`` if the block takes longer than ``SLOW_S``."""
    timer = threading.Timer(SLOW_S, print_message, (slow,), {"style": "dim"})
    timer.daemon = True
    if slow:
        timer.start()
    try:
        with load_console().status(text) if shows_bars() else nullcontext():
            yield
    finally:
        timer.cancel()


def print_message(message: str, *, style: str = "", level: str = "info") -> None:
    """Print one line to stderr."""
    if _Format.is_json:
        _print_json(level, "vidret", message)
        return
    from rich.text import Text

    _print(Text(sanitize(message), style))


def _print(text: "Text") -> None:
    with suppress(OSError):  # a closed stderr must not stop the run
        load_console().print(text, soft_wrap=True)


def _print_json(level: str, logger: str, message: str, **fields: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = {"time": stamp, "level": level, "logger": logger, "message": sanitize(message), **fields}
    write_stderr(json.dumps(row, ensure_ascii=False))


def write_stderr(line: str) -> None:
    """Write a line to stderr, if that is possible."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def write_stdout(text: str) -> None:
    """Write data to stdout; paths that are not valid text keep the bytes that they have on disk."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Create the folder of a file that the block writes; raise VidretError if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise VidretError(f"{sanitize(str(out))}: cannot be written: {error.strerror or error}") from error


def print_error(message: str) -> None:
    """Print one line to stderr, marked as an error."""
    if _Format.is_json:
        print_message(message, level="error")
        return
    from rich.text import Text

    _print(Text.assemble(("error:", "bold red"), f" {sanitize(message)}"))


def print_failure(error: BaseException) -> None:
    """Print an error that ends a command or a run, with advice if the cause is a full disk."""
    print_error(_describe(error))
    if is_disk_full(error):
        print_message(
            "The disk is full. Free some space and run the same command again; what was stored before is kept. df -h "
            "shows the space on each disk; TMPDIR=DIR puts temporary files elsewhere."
        )


def _describe(error: BaseException) -> str:
    """Return the message of an error; a system error has its file, but not its number.

    >>> _describe(FileNotFoundError(2, "No such file or directory", "a.mp4")), _describe(ValueError("b"))
    ('a.mp4: No such file or directory', 'b')
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print the warnings and errors of all loggers with ``print_message``, above a progress bar if there is one.

    ``set_log_format`` changes the level and the format until the end.
    """
    handler, root = _TerminalHandler(), logging.getLogger()
    level = logging.getLogger("vidret").level
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.getLogger("vidret").setLevel(level)
        _Format.is_json = False


class _TerminalHandler(logging.Handler):
    """Prints log records, with their traceback if they have one."""

    def emit(self, record: logging.LogRecord) -> None:
        if _Format.is_json:
            trace = {"traceback": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
            _print_json(record.levelname.lower(), record.name, record.getMessage(), **trace)
            return
        print_message(f"{record.levelname}: {record.getMessage().strip()}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                print_message(line)
