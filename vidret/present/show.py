"""Results for people: tables on stdout, progress and summaries on stderr."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vidret.present.terminal import console, say
from vidret.text import display_path, format_time, sanitize, strip_query

if TYPE_CHECKING:
    from vidret.index.merging import MergeReport
    from vidret.index.progress import IndexReport, Progress
    from vidret.store.records import StoreInfo
    from vidret.types import Hit, Moment

SHOWN_FILES = 5
QUIET = 10.0  # seconds between lines of progress in a log
PACE = 1.0  # and in what a program reads
# Columns of text; the others are numbers, and stand to the right.
TEXTS = {
    "",
    "video",
    "file",
    "reason",
    "direction",
    "scores",
    "bank",
    "true spans",
    "metric",
    "what",
    "level",
    "domain",
}
NO_VIDEOS = "no such videos in this index"
NOTHING_MATCHES = "Nothing in this index looks much like that: most unrelated queries score as high."
NEAREST = "The nearest are:"
SEE_WEAK = "--weak shows the nearest moments."

FOUND_BY = {
    "curve": "the curve of similarity (no trained head)",
    "head": "the trained grounding head; scores are probabilities",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> None:
    """Print columns to stdout, numbers to the right; the last column is never cut, so that it can be piped on."""
    if not rows:
        say(empty)
        return
    lines = [[sanitize(cell) for cell in row] for row in ([columns, *rows] if any(columns) else rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns) - 1)]
    for line in lines:
        cells = [
            cell.ljust(width) if name in TEXTS else cell.rjust(width)
            for cell, width, name in zip(line, widths, columns, strict=False)
        ]
        print("  ".join([*cells, line[-1]]))


def show_hits(hits: "Sequence[Hit]", *, explain: bool = False) -> None:
    """Print hits, best first, each copy below its video; ``explain`` adds what each score is made of."""
    if hits and all(hit.weak for hit in hits):
        say(f"{NOTHING_MATCHES} {NEAREST}", style="yellow")
    levels = list(hits[0].why) if hits and explain else []
    rows = []
    for rank, hit in enumerate(hits, start=1):
        why = [f"{hit.why[level]:.3f}" for level in levels]
        rows.append((str(rank), f"{hit.score:.3f}", *why, format_time(hit.time), display_path(hit.path)))
        rows += [("", "", *([""] * len(why)), "", f"= {display_path(copy)}") for copy in hit.copies]
    show_table(("rank", "score", *levels, "best at", "video"), rows, NO_VIDEOS)


def show_moments(moments: "Sequence[Moment]") -> None:
    """Print moments, best first: those of a curve with their similarity, those of a head with their probability."""
    if moments and all(moment.weak for moment in moments):
        say(f"{NOTHING_MATCHES} {NEAREST}", style="yellow")
    if moments:
        say(f"found by {FOUND_BY[moments[0].by]}", style="dim")
    name = "similarity" if moments and moments[0].similarity is not None else "score"
    rows = [
        (
            str(rank),
            f"{moment.score if moment.similarity is None else moment.similarity:.3f}",
            format_time(moment.start),
            format_time(moment.end),
            display_path(moment.path),
        )
        for rank, moment in enumerate(moments, start=1)
    ]
    show_table(("rank", name, "start", "end", "video"), rows, NO_VIDEOS)


def say_no_moments(nearest: "Sequence[Moment]") -> None:
    """Say why no moments are shown; ``nearest`` are the weak ones, if there are any."""
    if nearest:
        say(f"{NOTHING_MATCHES} {SEE_WEAK}", style="yellow")
    else:
        say(NO_VIDEOS)


def tell_vectors(info: "StoreInfo") -> str:
    """Say where an index's vectors are, of what kind, and what they were told to fit."""
    if info.store != "faiss":
        return info.store
    return info.vectors + ("" if info.memory is None else f", to fit {info.memory / 1e9:.3g} GB")


def show_info(info: "StoreInfo") -> None:
    """Print an index's numbers."""
    files = ", ".join(f"{count} {state}" for state, count in info.files.items() if count) or "none"
    rows = [
        ("index", info.path),
        ("files", files),
        ("videos", f"{info.videos}, {info.complete_videos} whole; {info.seconds / 3600:.2f} hours stored"),
        ("segments", f"{info.segments}, {info.searchable} searchable; {info.frames} frames"),
        ("size", f"{info.num_bytes / 1e6:.1f} MB"),
        ("encoder", f"{info.encoder_name}, {info.dim} dimensions"),
        ("vectors", tell_vectors(info)),
        *([("tokens", f"of {info.with_tokens} segments")] if info.with_tokens else []),
        ("format", str(info.format)),
    ]
    show_table(("", ""), rows)


def as_row(result: "Hit | Moment") -> dict[str, Any]:
    """Turn a result into what JSON can hold."""
    row = dataclasses.asdict(result)
    row["path"] = sanitize(row["path"])
    if "copies" in row:
        row["copies"] = [sanitize(copy) for copy in row["copies"]]
    return row


@contextlib.contextmanager
def show_progress(*, as_json: bool = False) -> "Iterator[Callable[[Progress], None]]":
    """Draw a bar with files, speed, failures and the time left; on no terminal say the same once in a while.

    ``as_json`` says it in a line of JSON a second instead, for programs.
    """
    if as_json:
        yield _JsonLines().advance
        return
    if not console.is_terminal:
        yield _Lines().advance
        return
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[told]}"),
    )
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("indexing", total=1.0, told="")
        yield lambda progress: bar.update(task, completed=progress.share, told=_tell(progress))


@contextlib.contextmanager
def show_count(title: str, things: str) -> "Iterator[Callable[[int, int], None]]":
    """Draw a bar of things done, with the time left; on no terminal say it once in a while."""
    if not console.is_terminal:
        said = started = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= QUIET:
                said = now
                left = f", {format_time((now - started) * (total - done) / done)} left" if done else ""
                say(f"{title}: {done} of {total} {things}{left}")

        yield advance
        return
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} " + things))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self) -> None:
        self._next = 10.0

    def advance(self, progress: "Progress") -> None:
        if progress.elapsed >= self._next:
            left = _left(progress)
            rest = "" if left is None else f", {format_time(left)} left"
            say(f"{progress.share:4.0%} {_tell(progress)}{rest}")
            self._next = progress.elapsed * 1.2 + 10


class _JsonLines:
    """Progress as lines of JSON, for programs."""

    def __init__(self) -> None:
        self._next = 0.0

    def advance(self, progress: "Progress") -> None:
        if progress.elapsed >= self._next:
            row = {
                "share": progress.share,
                "done": progress.done,
                "files": progress.num_files,
                "failed": progress.failed,
                "elapsed": progress.elapsed,
                "left": _left(progress),
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            self._next = progress.elapsed + PACE


def _left(progress: "Progress") -> float | None:
    """Guess the seconds left; None as long as nothing tells."""
    return progress.elapsed * (1 - progress.share) / progress.share if progress.share else None


def _tell(progress: "Progress") -> str:
    speed = progress.seconds / progress.elapsed if progress.elapsed else 0.0
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.num_files} files{failed}, {speed:.0f}x real time"


def tell_report(report: "IndexReport", index: Path) -> None:
    """Say what a run did, and what to do about what it could not."""
    speed = f", {report.seconds / report.elapsed:.0f}x real time" if report.num_segments else ""
    say(
        f"{'Interrupted: ' if report.interrupted else ''}{report.encoded} encoded, {report.linked} moved or copied, "
        f"{report.unchanged} unchanged, {report.missing} gone, {len(report.failed)} failed; "
        f"{report.num_segments} segments of {format_time(report.seconds)} in {format_time(report.elapsed)}{speed}."
    )
    for what, rate in report.speeds.items():
        say(f"  {what}: {rate:.3g}")
    for title, files in (("salvaged", report.salvaged), ("failed", report.failed)):
        for path, reason in files[:SHOWN_FILES]:
            say(f"  {title}: {display_path(strip_query(path))}: {reason}")
        if len(files) > SHOWN_FILES:
            more = f"  and {len(files) - SHOWN_FILES} more {title}"
            say(f"{more}: vidret info --failed --index {index}" if title == "failed" else more)
    if report.pruned is not None:
        pruned = report.pruned
        say(f"  pruned {pruned.files} files, {pruned.videos} videos, {pruned.segments} segments.")
    if report.unpruned:
        first, *others = report.unpruned
        more = f" and {len(others)} more" if others else ""
        say(
            f"  not pruned: {display_path(strip_query(first))}{more}: gone, but not from a folder of this run that "
            "still holds videos; a drive may be away."
        )
    if report.interrupted:
        say("  The index is good; run the same again to go on.")
    elif report.missing and report.pruned is None:
        say("  Files that are gone are not returned; --prune forgets them.")


def tell_merge(report: "MergeReport", index: Path) -> None:
    """Say what a merge did, and what is not in the merged index as it was in the others."""
    say(
        f"{'Interrupted: ' if report.interrupted else ''}{report.copied} videos copied, {report.completed} completed, "
        f"{report.known} there already; {report.num_segments} segments, {report.added} files added, {report.changed} "
        f"changed, {report.moments} kept moments, in {format_time(report.elapsed)}."
    )
    for title, files in (("not copied", report.damaged), ("told differently", report.disagreed)):
        for path, reason in files[:SHOWN_FILES]:
            say(f"  {title}: {display_path(path)}: {reason}")
        if len(files) > SHOWN_FILES:
            say(f"  and {len(files) - SHOWN_FILES} more {title}; --json names them all")
    if report.damaged:
        say(f"  What was not copied is encoded again by: vidret index PATH... --index {index}")
    for note in report.notes:
        say(f"  {note}")
    if report.interrupted:
        say("  The index is good; run the same again to go on.")
