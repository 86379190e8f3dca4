"""Summaries of indexing runs and merges, printed to stderr with advice on what to do next."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.channels.registry import KINDS
from vidret.present.progress import describe_speed
from vidret.present.terminal import print_message
from vidret.text import display_path, format_time

if TYPE_CHECKING:
    from vidret.index.importing import ImportReport
    from vidret.index.merging import MergeReport
    from vidret.index.options import IndexReport
    from vidret.language.describing import DescribeReport

MAX_LISTED = 5  # files of one kind
CONTINUE = "  The index is intact; run the same command again to continue."


def print_index_summary(report: "IndexReport", index: Path) -> None:
    """Print what an indexing run did, which files it could not index, and what to do about them."""
    speed = describe_speed(report.seconds, report.elapsed)
    print_message(
        f"{'Interrupted: ' if report.interrupted else ''}{report.encoded} encoded, {report.linked} moved or copied, "
        f"{report.unchanged} unchanged, {report.missing} missing, {len(report.failed)} failed; "
        f"{report.num_segments} segments of {format_time(report.seconds)} in {format_time(report.elapsed)}{speed}."
    )
    if report.texts:
        counts = [f"{number} of {KINDS[source].name}" for source, number in report.texts.items()]
        print_message(f"  texts read: {', '.join(counts)}.")
    for stage, rate in report.speeds.items():
        print_message(f"  {stage}: {rate:.3g}")
    _print_files("moved", [(old, f"now {display_path(new)}") for old, new in report.moved], "")
    _print_files("missing", [(path, "not at any other path") for path in report.gone], "")
    _print_files("salvaged", report.salvaged, "")
    _print_files("failed", report.failed, f": vidret info --failed --index {index}")
    if report.pruned is not None:
        pruned = report.pruned
        print_message(f"  pruned {pruned.files} files, {pruned.videos} videos, {pruned.segments} segments.")
    if report.unpruned:
        first, *others = report.unpruned
        more = f" and {len(others)} more" if others else ""
        print_message(
            f"  not pruned: {display_path(first)}{more}: missing, but not from a folder of this run that "
            "still contains videos; a drive may be disconnected."
        )
    if report.interrupted:
        print_message(CONTINUE)
    elif report.missing and report.pruned is None:
        print_message("  Searches do not return missing files; --prune removes them from the index.")


def print_describe_summary(report: "DescribeReport") -> None:
    """Print what a model described, what is left, and what failed."""
    empty = f", {report.empty} without anything to see" if report.empty else ""
    print_message(
        f"  {report.described} segments described{empty}; {report.calls} requests, {report.left} segments left."
    )
    if report.error:
        print_message(f"error: descriptions ended early: {report.error}")
    elif report.left:
        print_message("  --max-calls was reached; run the same command again to go on.")


def print_merge_summary(report: "MergeReport", index: Path) -> None:
    """Print what a merge did, and what differs in the merged index from its sources."""
    print_message(
        f"{'Interrupted: ' if report.interrupted else ''}{report.copied} videos copied, {report.completed} completed, "
        f"{report.known} already present; {report.num_segments} segments, {report.added} files added, "
        f"{report.changed} changed, {report.moments} prepared moments{_describe_kept(report)}, "
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
    """Print what an import did, what was changed of the vectors, and which videos are not in the index."""
    print_message(
        f"{report.imported} videos imported, {report.known} known before, with the vectors that they had; "
        f"{report.num_segments} segments, {len(report.failed)} videos failed."
    )
    if report.num_rescaled:
        print_message(f"  {report.num_rescaled} vectors were not of unit length, and were normalised.")
    _print_files("failed", report.failed, "; --json lists them all")
    if report.imported:
        print_message(f"  Search them: vidret search QUERY --index {index}")


def _describe_kept(report: "MergeReport") -> str:
    """Return the numbers of copied texts, concepts and watches, as far as there are any."""
    numbers = {"texts": report.texts, "concepts": report.concepts, "watches": report.watches}
    return "".join(f", {number} {name}" for name, number in numbers.items() if number)


def _print_files(title: str, files: "Sequence[tuple[str, str]]", advice: str) -> None:
    """Print the first paths with their reasons, and how many more there are."""
    for path, reason in files[:MAX_LISTED]:
        print_message(f"  {title}: {display_path(path)}: {reason}")
    if len(files) > MAX_LISTED:
        print_message(f"  and {len(files) - MAX_LISTED} more {title}{advice}")
