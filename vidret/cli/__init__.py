"""The command line. Data goes to stdout, messages to stderr; exit codes are 0 (success), 1 (failure) and 2 (usage).

A usage error is a value that is invalid for any index and any file. ``vidret index --exit-code`` also has 3: a new
video matches a watch.
"""

import os
import shlex
import signal
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

__all__ = ["main"]

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ends


def main() -> None:
    """Run the program and exit; an expected error is printed to stderr as one sentence."""
    _open_streams()
    try:
        code = _run()
    except KeyboardInterrupt:  # while modules are imported
        print("error: interrupted", file=sys.stderr)
        code = INTERRUPTED
    error = _flush(sys.stdout)
    if error and not code and not isinstance(error, BrokenPipeError):  # a pipe's reader, as `head`, may stop early
        from vidret.present.terminal import print_failure

        print_failure(error)
    _flush(sys.stderr)
    sys.exit(code or int(error is not None))


def _open_streams() -> None:
    """Open the null device in place of closed streams, and replace characters that stdout cannot encode.

    Files and pipes are written as UTF-8, the encoding of JSON, on Windows too.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for stream in (sys.stdout, sys.stderr):
        if sys.platform == "win32" and isinstance(stream, TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8")


def _flush(stream: TextIO) -> OSError | None:
    """Flush a stream; return the error if that fails, else None."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python flushes again at exit
        return error
    return None


def _run() -> int:
    """Run the command of ``sys.argv``; return the exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        for name in ("SIGHUP", "SIGBREAK"):  # sent when the terminal closes; SIGBREAK is that of Windows
            signal_number = getattr(signal, name, None)
            if signal_number is not None and signal.getsignal(signal_number) == signal.SIG_DFL:  # nohup ignores it
                signal.signal(signal_number, _interrupt)
    import typer

    from vidret.cli.app import USAGE_ERROR, program
    from vidret.cli.options import name_index
    from vidret.errors import MissingIndexError, OptionError, VidretError, is_disk_full, is_memory_short, read_fault
    from vidret.present.terminal import log_to_terminal, print_error, print_failure, print_message

    with log_to_terminal():
        try:
            # In standalone mode typer would print errors itself, without replacing unprintable characters.
            code = program(prog_name="vidret", standalone_mode=False)
            if code == INTERRUPTED:  # newer versions of typer return this after Ctrl-C; older ones raise
                raise KeyboardInterrupt
        except USAGE_ERROR as error:
            if message := error.format_message():  # empty after the help that `vidret` without arguments prints
                print_message(error.ctx.get_usage().strip())
                print_message(f"Help: {error.ctx.command_path} --help")
                print_error(message)
                if hint := suggest(error, sys.argv[1:]):
                    print_message(hint)
            return int(error.exit_code)
        except MissingIndexError as error:
            print_error(f"{error}; make one with: vidret index PATH...{name_index(error.path)}")
            return 1
        except VidretError as error:
            print_failure(error)
            return 2 if isinstance(error, OptionError) else 1
        except (OSError, MemoryError, ImportError) as error:
            if is_memory_short(error):
                print_error(f"there is too little memory, or it is limited (ulimit -v): {read_fault(error)}")
                return 1
            if getattr(error, "filename", None) is None and not is_disk_full(error):
                raise
            print_failure(error)
            return 1
        except (typer.Abort, KeyboardInterrupt):
            print_error("interrupted")
            return INTERRUPTED
        return code if isinstance(code, int) else 0


def suggest(error: Any, arguments: list[str]) -> str:
    """Return a hint how to write a query that was parsed as options or as several arguments; else an empty text."""
    command = getattr(error.ctx, "command", None)
    asked = {param.metavar for param in getattr(command, "params", ())} & {"QUERY", "QUESTION"}
    short = getattr(error, "option_name", "")
    query = next((argument for argument in arguments if argument.startswith(short[:2])), "-WORD")
    is_letter = short.startswith("-") and not short.startswith("--")
    if asked and is_letter and len(query) > 2:  # not -k of another command
        return f"A query that starts with a minus goes last, after --: {error.ctx.command_path} -- {shlex.quote(query)}"
    if "QUERY" in asked and error.format_message().startswith("Got unexpected extra argument"):
        return f'A query of several words goes in quotes: {error.ctx.command_path} "A DOG RUNS"'
    return ""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: work in progress is finished or rolled back."""
    raise KeyboardInterrupt
