"""Tables on stdout: hits, moments and the contents of an index."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidret.present.terminal import print_message
from vidret.text import display_path, format_time, sanitize

if TYPE_CHECKING:
    from vidret.store.records import StoreInfo
    from vidret.store.text_upkeep import TextCounts
    from vidret.types import Hit, Moment

# Columns of text. All others hold numbers and are aligned to the right.
LEFT_ALIGNED = {
    "",
    "video",
    "file",
    "reason",
    "source",
    "direction",
    "scores",
    "bank",
    "true spans",
    "metric",
    "what",
    "level",
    "domain",
}
NO_VIDEOS = "No matching videos in this index."
NO_GOOD_MATCH = "No good match in this index: most unrelated queries score as high."
NEAREST = "The nearest are:"
TRY_WEAK = "--weak shows the nearest moments."

LOCATED_BY = {
    "curve": "the similarity curve (no trained head)",
    "head": "the trained grounding head; scores are probabilities",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> None:
    """Print a table to stdout, or the message ``empty`` to stderr if there are no rows.

    The last column is neither padded nor cut, so that it can be piped to other programs.
    """
    if not rows:
        print_message(empty)
        return
    lines = [[sanitize(cell) for cell in row] for row in ([columns, *rows] if any(columns) else rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns) - 1)]
    for line in lines:
        cells = [
            cell.ljust(width) if name in LEFT_ALIGNED else cell.rjust(width)
            for cell, width, name in zip(line, widths, columns, strict=False)
        ]
        print("  ".join([*cells, line[-1]]))


def show_hits(hits: "Sequence[Hit]", *, explain: bool = False) -> None:
    """Print hits, best first, with copies of a video below it; ``explain`` adds the score of each level."""
    if hits and all(hit.weak for hit in hits):
        print_message(f"{NO_GOOD_MATCH} {NEAREST}", style="yellow")
    levels = list(hits[0].why) if hits and explain else []
    rows = []
    for rank, hit in enumerate(hits, start=1):
        level_scores = [f"{hit.why[level]:.3f}" for level in levels]
        rows.append((str(rank), f"{hit.score:.3f}", *level_scores, format_time(hit.time), display_path(hit.path)))
        rows += [("", "", *([""] * len(levels)), "", f"= {display_path(copy)}") for copy in hit.copies]
    show_table(("rank", "score", *levels, "best at", "video"), rows, NO_VIDEOS)


def show_moments(moments: "Sequence[Moment]") -> None:
    """Print moments, best first: those of the curve with their similarity, those of a head with their probability."""
    if moments and all(moment.weak for moment in moments):
        print_message(f"{NO_GOOD_MATCH} {NEAREST}", style="yellow")
    if moments:
        print_message(f"located by {LOCATED_BY[moments[0].by]}", style="dim")
    measure = "similarity" if moments and moments[0].similarity is not None else "score"
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
    show_table(("rank", measure, "start", "end", "video"), rows, NO_VIDEOS)


def explain_no_moments(weak_moments: "Sequence[Moment]") -> None:
    """Print why no moments are shown: all of them are weak, or there are none."""
    if weak_moments:
        print_message(f"{NO_GOOD_MATCH} {TRY_WEAK}", style="yellow")
    else:
        print_message(NO_VIDEOS)


def show_info(info: "StoreInfo", words: "Sequence[TextCounts]" = ()) -> None:
    """Print the contents of an index as numbers; ``words`` are the counts of its timed texts by source."""
    files = ", ".join(f"{count} {state}" for state, count in info.files.items() if count) or "none"
    rows = [
        ("index", info.path),
        ("files", files),
        ("videos", f"{info.videos}, {info.complete_videos} complete; {info.seconds / 3600:.2f} hours"),
        ("segments", f"{info.segments}, {info.searchable} searchable; {info.frames} frames"),
        ("size", f"{info.num_bytes / 1e6:.1f} MB"),
        ("encoder", f"{info.encoder_name}, {info.dim} dimensions"),
        ("vectors", describe_vectors(info)),
        *([("tokens", f"of {info.with_tokens} segments")] if info.with_tokens else []),
        *[(each.source, f"{each.texts} texts, of {each.tracks} videos; {each.complete} complete") for each in words],
        ("format", str(info.format)),
    ]
    show_table(("", ""), rows)


def describe_vectors(info: "StoreInfo") -> str:
    """Return where the vectors of an index are, of which kind they are, and their memory limit."""
    if info.store != "faiss":
        return info.store
    return info.vectors + ("" if info.memory is None else f", memory limit {info.memory / 1e9:.3g} GB")


def result_to_dict(result: "Hit | Moment") -> dict[str, Any]:
    """Return a hit or a moment as a dict that JSON can represent."""
    row = dataclasses.asdict(result)
    row["path"] = sanitize(row["path"])
    if "copies" in row:
        row["copies"] = [sanitize(copy) for copy in row["copies"]]
    return row
