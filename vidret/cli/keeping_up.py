"""The option ``--watch`` of ``vidret index``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from vidret.errors import MissingExtraError, VidretError
from vidret.present.terminal import print_failure, print_message


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOutcome:
    """The exit code of an indexing run, and whether Ctrl-C interrupted it."""

    code: int
    interrupted: bool


def read_watched(paths: list[str]) -> list[str]:
    """Return the absolute paths of the folders and files to watch.

    Raises:
        typer.BadParameter: One cannot be watched.
        MissingExtraError: The extra ``watch`` is not installed.
    """
    from vidret.index.changes import check_watchable

    try:
        return check_watchable(paths)
    except MissingExtraError:
        raise
    except VidretError as error:
        raise typer.BadParameter(str(error), param_hint="--watch") from error


def keep_up(index_once: Callable[[], IndexOutcome], watched: list[str], index: Path) -> int:
    """Index, and again after each change until Ctrl-C; return the exit code, which is that of a run it interrupts.

    Whatever a run reports or a later run stops at, such as a full disk or a missing drive, the next change starts
    another.
    """
    from vidret.index.changes import iterate_changes

    for number, _ in enumerate(iterate_changes(watched, index)):
        try:
            outcome = index_once()
        except VidretError as error:
            if not number:
                raise
            print_failure(error)
            continue
        if outcome.interrupted:
            return outcome.code
        if not number:
            print_message("Watching for changes (press Ctrl-C to stop).")
    return 0
