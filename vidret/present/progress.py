"""Progress of runs on stderr, as a bar, log lines or JSON, and summaries with advice on what to do next."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from vidret.present.terminal import load_console, print_message, shows_bars, write_stderr
from vidret.text import display_path, format_count, format_time, show_path

if TYPE_CHECKING:
    from vidret.index.importing import ImportReport
    from vidret.index.merging import MergeReport
    from vidret.index.options import IndexReport, Progress
    from vidret.language.describing import DescribeReport

LOG_INTERVAL_S = 10.0
JSON_INTERVAL_S = 1.0


@contextlib.contextmanager
def show_progress(*, as_json: bool = False) -> "Iterator[Callable[[Progress], None]]":
    """Show the progress of an indexing run: files done, failures, speed and the time left.

    Yields the callback that takes each ``Progress``. With ``as_json`` it prints one JSON object per second.
    """
    remaining, next_s = RemainingTime(), 0.0

    def print_line(progress: "Progress") -> None:
        nonlocal next_s
        left_s = remaining.estimate(progress.share, progress.elapsed)
        if progress.elapsed >= next_s:
            next_s = progress.elapsed + JSON_INTERVAL_S
            _print_json(progress, left_s)

    if as_json:
        yield print_line
        return
    with _show_share("indexing") as show:

        def update(progress: "Progress") -> None:
            left = describe_remaining(remaining.estimate(progress.share, progress.elapsed))
            summary = f"{progress.share:4.0%} {_describe(progress)}{'' if progress.interrupted else left}"
            show(progress.share, progress.elapsed, summary, "stopping" if progress.interrupted else "indexing")

        yield update


@contextlib.contextmanager
def show_count(title: str, unit: str) -> "Iterator[Callable[[int, int], None]]":
    """Show how many items are done and the time left; ``unit`` names them in the plural.

    Yields the callback that takes the number done and the total.
    """
    remaining, started_at = RemainingTime(), time.monotonic()
    with _show_share(title, f"{title}: ") as show:

        def update(done: int, total: int) -> None:
            share, elapsed_s = done / total if total else 1.0, time.monotonic() - started_at
            left = describe_remaining(remaining.estimate(share, elapsed_s))
            show(share, elapsed_s, f"{done} of {total} {unit}{left}", title)

        yield update


@contextlib.contextmanager
def _show_share(title: str, prefix: str = "") -> "Iterator[Callable[[float, float, str, str], None]]":
    """Yield a function that shows progress, given the share done, the seconds elapsed, a summary and a title.

    On a terminal it draws a bar. Elsewhere it prints lines at growing intervals, which begin with ``prefix``.
    """
    if shows_bars():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[summary]}"))
        with Bar(*columns, console=load_console(), transient=True) as bar:
            task = bar.add_task(title, total=1.0, summary="")
            yield lambda share, _, summary, title: bar.update(task, description=title, completed=share, summary=summary)
        return
    next_s = LOG_INTERVAL_S

    def log(_share: float, elapsed_s: float, summary: str, _title: str) -> None:
        nonlocal next_s
        if elapsed_s >= next_s:
            next_s = elapsed_s * 1.2 + LOG_INTERVAL_S
            print_message(f"{prefix}{summary}")

    yield log


class RemainingTime:
    """An estimate of the time left, by the speed since the first progress.

    Counting the time before it, such as that of starting processes, would make early estimates too long.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # share done and seconds elapsed

    def estimate(self, share: float, elapsed_s: float) -> float | None:
        """Return the seconds left, None until the speed is known; call it at each step."""
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
    """Return the time left as text to end a line with; empty if it is unknown."""
    return "" if seconds is None else f", {format_time(seconds)} left"


def _print_json(progress: "Progress", left_s: float | None) -> None:
    row = {
        "share": progress.share,
        "done": progress.done,
        "files": progress.num_files,
        "failed": progress.failed,
        "elapsed": progress.elapsed,
        "left": left_s,
        "file": show_path(progress.file),
    }
    write_stderr(json.dumps(row))


def _describe(progress: "Progress") -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.num_files} files{failed}{describe_speed(progress.seconds, progress.elapsed)}"


def describe_speed(video_s: float, elapsed_s: float) -> str:
    """Return the indexing speed as text to end a line with; empty before anything is indexed.

    >>> describe_speed(90, 2), describe_speed(3, 10), describe_speed(0, 10)
    (', 45x real time', ', 0.3x real time', '')
    """
    speed = video_s / elapsed_s if elapsed_s else 0.0
    if not speed:
        return ""
    return f", {speed:.0f}x real time" if speed >= 10 else f", {speed:.2g}x real time"


MAX_LISTED = 5  # files per kind
CONTINUE = "  The index is intact; run the same command again to continue."


def print_index_summary(report: "IndexReport", index: Path) -> None:
    """Print the results of an indexing run, the files that it could not index, and what to do about them."""
    speed = describe_speed(report.seconds, report.elapsed)
    segments = format_count(report.num_segments, "segment")
    encoded = f"; {segments} of {format_time(report.seconds)} in {format_time(report.elapsed)}{speed}"
    print_message(
        f"{'Interrupted: ' if report.interrupted else ''}{report.encoded} encoded, {report.linked} moved or copied, "
        f"{report.unchanged} unchanged, {report.missing} missing, {len(report.failed)} failed"
        f"{encoded if report.num_segments else ''}."
    )
    if not (report.encoded or report.linked or report.unchanged or report.failed or report.interrupted):
        away = "Their drive may be disconnected: index again once it is back."
        suffixes = "In folders, suffixes tell what is a video, such as .mp4 or .mkv."
        print_message(f"  No videos were found. {away if report.missing else suffixes}")
    from vidret.channels.identities import TRACK_KINDS
    from vidret.channels.registry import KINDS

    if report.texts:
        counts = [f"{num_texts} of {KINDS[source].name}" for source, num_texts in report.texts.items()]
        print_message(f"  texts read: {', '.join(counts)}.")
    if any(report.tracks.values()):
        counts = [f"{num_tracks} of {TRACK_KINDS[kind].name}" for kind, num_tracks in report.tracks.items()]
        print_message(f"  tracks read: {', '.join(counts)}.")
    if report.workers:
        print_message(f"  {report.workers}.")
    for stage, rate in report.speeds.items():
        print_message(f"  {stage}: {rate:.3g}")
    _print_files("moved", [(old, f"now {display_path(new)}") for old, new in report.moved], "")
    _print_files("deleted", [(old, f"a copy is at {display_path(copy)}") for old, copy in report.deleted_copies], "")
    _print_files("missing", [(path, "not at any other path") for path in report.gone], "")
    _print_files("salvaged", report.salvaged, "")
    _print_files("failed", report.failed, f": vidret info --failed --index {index}")
    if report.junk:
        print_message(f"  left out: {_name_first(report.junk)}: thumbnails, deleted files or the like.")
    if report.pruned is not None:
        pruned = report.pruned
        removed = {"file": pruned.files, "video": pruned.videos, "segment": pruned.segments}
        print_message(f"  pruned {', '.join(format_count(count, noun) for noun, count in removed.items())}.")
    if report.unpruned:
        print_message(
            f"  not pruned: {_name_first(report.unpruned)}: missing, but not from a folder of this run that "
            "still contains videos; a drive may be disconnected. If none is, index a folder above that has a video."
        )
    if report.interrupted:
        print_message(CONTINUE)
    elif report.missing and report.pruned is None:
        print_message("  Searches do not return missing files; --prune removes them from the index.")


def print_describe_summary(report: "DescribeReport") -> None:
    """Print how many segments a model described, how many are left, and what failed."""
    empty = f", {report.empty} without anything to see" if report.empty else ""
    print_message(
        f"  {format_count(report.described, 'segment')} described{empty}; {format_count(report.calls, 'request')}, "
        f"{format_count(report.left, 'segment')} left."
    )
    if report.error:
        print_message(f"error: descriptions ended early: {report.error}")
    elif report.left > report.missing:
        print_message("  --max-calls was reached; run the same command again to continue.")
    if report.missing:
        print_message(f"  {format_count(report.missing, 'segment')} left, of files that are missing now.")


def print_merge_summary(report: "MergeReport", index: Path) -> None:
    """Print the results of a merge, and how the merged index differs from its sources."""
    print_message(
        f"{'Interrupted: ' if report.interrupted else ''}{format_count(report.copied, 'video')} copied, "
        f"{report.completed} completed, {report.known} already present; "
        f"{format_count(report.num_segments, 'segment')}, {format_count(report.added, 'file')} added, "
        f"{report.changed} changed, {format_count(report.moments, 'prepared moment')}{_describe_kept(report)}, "
        f"in {format_time(report.elapsed)}."
    )
    _print_files("not copied", report.damaged, "; --json lists them all")
    _print_files("conflict", report.disagreed, "; --json lists them all")
    if report.damaged:
        print_message(f"  To encode again what was not copied: vidret index PATH... --index {index}")
    for note in report.notes:
        print_message(f"  {note}")
    if report.interrupted:
        print_message(CONTINUE)


def print_import_summary(report: "ImportReport", index: Path) -> None:
    """Print the results of an import, the changes to the vectors, and the videos that are not in the index."""
    print_message(
        f"{format_count(report.imported, 'video')} imported, {report.known} known before, "
        f"with the vectors that they had; "
        f"{format_count(report.num_segments, 'segment')}, {format_count(len(report.failed), 'video')} failed."
    )
    if report.num_rescaled:
        print_message(f"  normalised, since not of unit length: {format_count(report.num_rescaled, 'vector')}.")
    _print_files("failed", report.failed, "; --json lists them all")
    if report.imported:
        print_message(f"  Search them: vidret search QUERY --index {index}")


def _describe_kept(report: "MergeReport") -> str:
    """Return the numbers of texts, concepts, watches, collections and tracks that were copied, without zeros."""
    numbers = {
        ("text", "texts"): report.texts,
        ("concept", "concepts"): report.concepts,
        ("watch", "watches"): report.watches,
        ("collection", "collections"): report.collections,
        ("track of a face or voice", "tracks of faces and voices"): report.identities,
    }
    return "".join(f", {count} {name[count > 1]}" for name, count in numbers.items() if count)


def _name_first(paths: Sequence[str]) -> str:
    """Return the first path, and how many more there are."""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{display_path(paths[0])}{more}"


def _print_files(title: str, files: "Sequence[tuple[str, str]]", advice: str) -> None:
    """Print the first paths with their reasons, and how many more there are."""
    for path, reason in files[:MAX_LISTED]:
        print_message(f"  {title}: {display_path(path)}: {reason}")
    if len(files) > MAX_LISTED:
        print_message(f"  and {len(files) - MAX_LISTED} more {title}{advice}")
