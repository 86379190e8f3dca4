"""Progress on stderr: a bar on a terminal, occasional lines in a log, or JSON lines for other programs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from vidret.present.terminal import console, print_message, shows_bars
from vidret.text import format_time

if TYPE_CHECKING:
    from vidret.index.options import Progress

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
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[summary]}"),
    )
    remaining = RemainingTime()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("indexing", total=1.0, summary="")

        def update(progress: "Progress") -> None:
            left = describe_remaining(remaining.estimate(progress.share, progress.elapsed))
            title, left = ("stopping", "") if progress.interrupted else ("indexing", left)
            bar.update(task, description=title, completed=progress.share, summary=_describe(progress) + left)

        yield update


@contextlib.contextmanager
def show_count(title: str, unit: str) -> "Iterator[Callable[[int, int], None]]":
    """Show how many items are done and the time left; ``unit`` names them in the plural.

    Yields the callback that takes the number done and the total. Without a terminal it prints a line every 10 seconds.
    """
    remaining = RemainingTime()
    printed_at = started_at = time.monotonic()

    def describe(done: int, total: int) -> str:
        left_s = remaining.estimate(done / total if total else 1.0, time.monotonic() - started_at)
        return f"{done} of {total} {unit}{describe_remaining(left_s)}"

    if not shows_bars():

        def log(done: int, total: int) -> None:
            nonlocal printed_at
            summary = describe(done, total)
            if (now := time.monotonic()) - printed_at >= LOG_INTERVAL_S:
                printed_at = now
                print_message(f"{title}: {summary}")

        yield log
        return
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.fields[summary]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0, summary="")
        yield lambda done, total: bar.update(task, completed=done, total=total, summary=describe(done, total))


class RemainingTime:
    """Estimates the time left from the fraction that is done, at the speed since the first work was done.

    What comes before it, such as starting processes, would make early estimates too long.
    """

    def __init__(self) -> None:
        """Start without an estimate."""
        self._first: tuple[float, float] | None = None  # fraction done and seconds elapsed

    def estimate(self, share: float, elapsed_s: float) -> float | None:
        """Return the seconds left, None before there is a speed; call it for each step."""
        if share >= 1:
            return 0.0
        if self._first is None and share > 0:
            self._first = share, elapsed_s
        if self._first is None:
            return None
        first_share, first_s = self._first
        if share <= first_share or elapsed_s <= first_s:
            return None
        return (elapsed_s - first_s) * (1 - share) / (share - first_share)


def describe_remaining(seconds: float | None) -> str:
    """Return the time left as the end of a line, empty if it is unknown."""
    return "" if seconds is None else f", {format_time(seconds)} left"


class _LogLines:
    """Prints progress as lines for a log, at growing intervals."""

    def __init__(self) -> None:
        self._next_s = LOG_INTERVAL_S
        self._remaining = RemainingTime()

    def update(self, progress: "Progress") -> None:
        left_s = self._remaining.estimate(progress.share, progress.elapsed)
        if progress.elapsed >= self._next_s:
            left = describe_remaining(left_s)
            print_message(f"{progress.share:4.0%} {_describe(progress)}{left}")
            self._next_s = progress.elapsed * 1.2 + LOG_INTERVAL_S


class _JsonLines:
    """Prints progress as lines of JSON for other programs."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._remaining = RemainingTime()

    def update(self, progress: "Progress") -> None:
        left_s = self._remaining.estimate(progress.share, progress.elapsed)
        if progress.elapsed >= self._next_s:
            row = {
                "share": progress.share,
                "done": progress.done,
                "files": progress.num_files,
                "failed": progress.failed,
                "elapsed": progress.elapsed,
                "left": left_s,
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            self._next_s = progress.elapsed + JSON_INTERVAL_S


def _describe(progress: "Progress") -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.num_files} files{failed}{describe_speed(progress.seconds, progress.elapsed)}"


def describe_speed(video_s: float, elapsed_s: float) -> str:
    """Return how fast video was indexed as the end of a line, empty before anything was.

    >>> describe_speed(90, 2), describe_speed(3, 10), describe_speed(0, 10)
    (', 45x real time', ', 0.3x real time', '')
    """
    speed = video_s / elapsed_s if elapsed_s else 0.0
    if not speed:
        return ""
    return f", {speed:.0f}x real time" if speed >= 10 else f", {speed:.2g}x real time"
