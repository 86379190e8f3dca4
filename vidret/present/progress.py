"""Progress on stderr: a bar on a terminal, occasional lines in a log, or JSON lines for other programs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vidret.present.terminal import console, print_message, shows_bars
from vidret.text import format_time

if TYPE_CHECKING:
    from vidret.index.progress import Progress

LOG_INTERVAL_S = 10.0
JSON_INTERVAL_S = 1.0


@contextlib.contextmanager
def show_progress(*, as_json: bool = False) -> "Iterator[Callable[[Progress], None]]":
    """Show the progress of an indexing run: files done, failures, speed and the time left.

    Yields the callback that takes each ``Progress``. Without a terminal it prints lines at growing intervals. With
    ``as_json`` it prints one JSON object per second instead.
    """
    if as_json:
        yield _JsonLines().update
        return
    if not shows_bars():
        yield _LogLines().update
        return
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[summary]}"),
    )
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("indexing", total=1.0, summary="")
        yield lambda progress: bar.update(task, completed=progress.share, summary=_describe(progress))


@contextlib.contextmanager
def show_count(title: str, unit: str) -> "Iterator[Callable[[int, int], None]]":
    """Show how many items are done and the time left; ``unit`` names them in the plural.

    Yields the callback that takes the number done and the total. Without a terminal it prints a line every 10 seconds.
    """
    if not shows_bars():
        printed_at = started_at = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal printed_at
            if (now := time.monotonic()) - printed_at >= LOG_INTERVAL_S:
                printed_at = now
                left = f", {format_time((now - started_at) * (total - done) / done)} left" if done else ""
                print_message(f"{title}: {done} of {total} {unit}{left}")

        yield update
        return
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} " + unit))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _LogLines:
    """Prints progress as lines for a log, at growing intervals."""

    def __init__(self) -> None:
        self._next_s = LOG_INTERVAL_S

    def update(self, progress: "Progress") -> None:
        if progress.elapsed >= self._next_s:
            remaining_s = _estimate_remaining(progress)
            left = "" if remaining_s is None else f", {format_time(remaining_s)} left"
            print_message(f"{progress.share:4.0%} {_describe(progress)}{left}")
            self._next_s = progress.elapsed * 1.2 + LOG_INTERVAL_S


class _JsonLines:
    """Prints progress as lines of JSON for other programs."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def update(self, progress: "Progress") -> None:
        if progress.elapsed >= self._next_s:
            row = {
                "share": progress.share,
                "done": progress.done,
                "files": progress.num_files,
                "failed": progress.failed,
                "elapsed": progress.elapsed,
                "left": _estimate_remaining(progress),
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            self._next_s = progress.elapsed + JSON_INTERVAL_S


def _estimate_remaining(progress: "Progress") -> float | None:
    """Return the estimated seconds left, or None before any work is done."""
    return progress.elapsed * (1 - progress.share) / progress.share if progress.share else None


def _describe(progress: "Progress") -> str:
    speed = progress.seconds / progress.elapsed if progress.elapsed else 0.0
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.num_files} files{failed}, {speed:.0f}x real time"
