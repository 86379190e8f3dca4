"""Hits and moments as tables on stdout, and as plain dicts."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from vidret.errors import MissingExtraError
from vidret.present.terminal import print_message
from vidret.text import (
    display_path,
    escape_formula,
    format_count,
    format_probability,
    format_time,
    map_texts,
    sanitize,
    show_path,
    strip_query,
)
from vidret.types import ALL_VIDEOS, SOURCE_LABELS, Hit, Moment, to_row

if TYPE_CHECKING:
    import pandas

    from vidret.language.judging import JudgedHit
    from vidret.search.query.grammar import Interpretation
    from vidret.store.identities.upkeep import IdentityCounts
    from vidret.store.lookup import MomentCounts
    from vidret.store.records import StoreInfo
    from vidret.store.sounds import WindowCounts
    from vidret.store.texts.store import TextCounts
    from vidret.types import EventSpan, Evidence, LocateOptions, SearchOptions

T = TypeVar("T")

# Columns of text. All others hold numbers and are right-aligned.
LEFT_ALIGNED = {
    *("", "video", "file", "reason", "source", "direction", "scores", "bank", "true spans", "metric", "what", "level"),
    *("name", "domain", "and", "match", "found", "tag", "who", "task", "kind", "query", "model"),
}
NOTHING_FOUND = "Nothing was found."
NOTHING_MATCHES = "Nothing matches well. The nearest are:"
MAX_LINE = 100  # characters of words below a result
MIN_SHARE = 0.15  # least share of a result's score for a channel to be named
LOCATED_BY = {
    "curve": "the similarity curve (no trained head)",
    "head": "the trained grounding head",
    "picture": "pictures",
    "speech": "speech",
    "screen": "on-screen text",
    "subtitles": "subtitles",
    "generated": "descriptions",
    "sound": "sounds",
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


def print_json(value: Any, *, digits: int | None = None) -> None:
    """Print a value to stdout as JSON; dataclasses, such as results, become objects with their fields."""
    print(json.dumps(value, indent=2, default=lambda result: to_row(result, "json", show_path, digits=digits)))


def print_result(
    value: T,
    show: Callable[[T], object],
    *,
    as_json: bool,
    as_row: Callable[[T], Any] = lambda value: value,
    digits: int | None = None,
) -> None:
    """Print a value as JSON, converted by ``as_row``, or let ``show`` print it for people."""
    if as_json:
        print_json(as_row(value), digits=digits)
    else:
        show(value)


def format_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a header and one line per row (RFC 4180); a quote is put before a text that reads as a formula."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    for row in rows:
        table.writerow({name: escape_formula(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    return text.getvalue()


def show_hits(
    hits: "Sequence[Hit]",
    *,
    explain: bool = False,
    judged: "Sequence[JudgedHit]" = (),
    first_rank: int = 1,
    empty: str = NOTHING_FOUND,
) -> None:
    """Print hits, best first, with copies of a video below it, or the message ``empty`` if there are none.

    The likelihood of a hit is shown, or its score if it has no probability. For an index with words, the channels that
    found each hit are shown, too. ``explain`` adds the score and its parts, and with ``judged``, the hits in the order
    of a judge, their former ranks and the judge's reasons.
    """
    warn_of_nothing(hits, first_rank)
    shows_scores = explain or all(hit.probability is None for hit in hits)
    levels = list(dict.fromkeys(level for hit in hits for level in hit.why)) if explain else []
    rows: list[dict[str, str]] = []
    for rank, hit in enumerate(hits, start=first_rank):
        row = {"rank": str(rank), "match": describe_match(hit), "score": f"{hit.score:.3f}" if shows_scores else ""}
        row |= {level: f"{score:.3f}" for level, score in hit.why.items()}
        row |= {"found": name_channels(hit.evidence), "best at": format_time(hit.time), "video": display_path(hit.path)}
        rows.append(row)
        if explain and judged:
            row["was"], reason = str(judged[rank - first_rank].old_rank), judged[rank - first_rank].reason
            rows += [{"video": f"  judged: {reason}"}] if reason else []
        rows += [{"video": f"= {display_path(copy)}"} for copy in hit.copies]
        below = [(copy.time, f"~ {display_path(copy.path)}") for copy in hit.near_copies]
        below += [(event.start, f"  {line}") for event, line in describe_events(hit.events)]
        below += describe_evidence(hit.evidence, explain=explain)
        rows += [{"best at": format_time(time_s), "video": line} for time_s, line in below]
    show_cells(("rank", "was", "match", "score", *levels, "found", "best at", "video"), rows, empty)


def show_cells(columns: Sequence[str], rows: Sequence[Mapping[str, str]], empty: str) -> None:
    """Print a table of rows given as dicts, without the columns that are empty in all rows. See ``show_table``."""
    filled = [name for name in columns if any(row.get(name) for row in rows)]
    show_table(filled, [[row.get(name, "") for name in filled] for row in rows], empty)


def show_moments(moments: "Sequence[Moment]", *, first_rank: int = 1) -> None:
    """Print moments, best first, with the likelihood of their videos and their scores."""
    if moments:
        print_message(f"located by {name_locators(moments)}", style="dim")
    warn_of_nothing(moments, first_rank)
    rows: list[dict[str, str]] = []
    for rank, moment in enumerate(moments, start=first_rank):
        row = {"rank": str(rank), "match": describe_match(moment), "found": name_channels(moment.evidence)}
        rows.append(row | cells_of_span(moment) | {"video": display_path(moment.path)})
        rows += list_below(moment, describe_evidence(moment.evidence))
    show_cells(("rank", "match", "score", "found", "start", "end", "video"), rows, NOTHING_FOUND)


def name_locators(moments: "Sequence[Moment]") -> str:
    """Return what located moments, such as "the trained grounding head, speech"."""
    names: dict[str, None] = {}
    for moment in moments:
        pictures = moment.by if moment.by in LOCATED_BY else "picture"
        for piece in choose_telling(moment.evidence):
            by = pictures if piece.source == "picture" else piece.source
            names["people" if piece.person else LOCATED_BY[by]] = None
        if not moment.evidence:
            names[LOCATED_BY.get(moment.by, moment.by)] = None
    return ", ".join(names)


def cells_of_span(moment: "Moment") -> dict[str, str]:
    """Return the cells of a moment: its score, its start and its end."""
    return {"score": f"{moment.score:.3f}", "start": format_time(moment.start), "end": format_time(moment.end)}


def list_below(
    moment: "Moment", evidence: Sequence[tuple[float, str]] = (), *, indent: str = ""
) -> list[dict[str, str]]:
    """Return the rows below a moment: the events of its query, its evidence, and its copies in other videos."""
    return [
        *(
            {"start": format_time(event.start), "end": format_time(event.end), "video": f"  {line}"}
            for event, line in describe_events(moment.events)
        ),
        *({"end": format_time(time_s), "video": line} for time_s, line in evidence),
        *(
            {"start": format_time(copy.time), "video": f"{indent}~ {display_path(copy.path)}"}
            for copy in moment.near_copies
        ),
    ]


def warn_of_nothing(results: "Sequence[Hit | Moment]", first_rank: int) -> None:
    """Print to stderr that nothing matches well, if all results are weak and the list begins with the best one."""
    if first_rank == 1 and results and all(result.weak for result in results):
        print_message(NOTHING_MATCHES, style="yellow")


def describe_match(result: "Hit | Moment") -> str:
    """Return the likelihood of a result, such as "65 % possible"; empty without a probability."""
    if result.probability is None:
        return ""
    return f"{format_probability(result.probability):>5} {result.likelihood}"


def explain_nothing(options: "SearchOptions | LocateOptions") -> str:
    """Return why there are no results with these options."""
    if options.offset:
        return f"No results after the first {options.offset}."
    if options.at_least:
        return f"No match has a probability of {format_probability(options.at_least)} or more."
    return NOTHING_FOUND if options.filters == ALL_VIDEOS else "No video matches these filters."


def describe_events(events: "Sequence[EventSpan]") -> "list[tuple[EventSpan, str]]":
    """Return each event of a query with a line to show for it."""
    return [(event, f"{event_number}. {event.text}") for event_number, event in enumerate(events, start=1)]


def show_interpretation(interpretation: "Interpretation") -> None:
    """Print the interpretation of a query to stderr, unless it is plain words."""
    if text := interpretation.describe():
        print_message(text, style="dim")


def describe_evidence(evidence: "Sequence[Evidence]", *, explain: bool = False) -> list[tuple[float, str]]:
    """Return (time, line) for the best words of the evidence, or with ``explain`` for all evidence, with its shares."""
    words = [piece for piece in evidence if piece.text]
    lines = []
    for piece in [entry for entry in evidence if entry.person]:
        how = "seen" if piece.source == "picture" else "heard"
        span = f"{format_time(piece.start)} to {format_time(piece.end)}"
        lines.append((piece.start, f"  @{piece.person} {how} {span}"))
    for piece in [entry for entry in evidence if not entry.person] if explain else words[:1]:
        share = f"{100 * piece.share:.0f} % " if explain else ""
        text = f': "{mark_words(piece)}"' if piece.text else ""
        lines.append((piece.start, f"  {share}{SOURCE_LABELS[piece.source]}{text}"))
    return lines


def name_channels(evidence: "Sequence[Evidence]") -> str:
    """Return the channels that found a result, such as "said, seen", the best first; empty without evidence."""
    return ", ".join(dict.fromkeys(SOURCE_LABELS[piece.source] for piece in choose_telling(evidence)))


def choose_telling(evidence: "Sequence[Evidence]") -> "Sequence[Evidence]":
    """Return the evidence that has a share worth naming, or else the best; empty without evidence."""
    return [piece for piece in evidence if piece.share >= MIN_SHARE or piece.person] or evidence[:1]


def mark_words(evidence: "Evidence") -> str:
    """Return the words of the evidence, matches between asterisks, cut to one line around the first match."""
    marks = evidence.matches or ((0, 0),)
    first = max(0, marks[0][0] - MAX_LINE // 3)
    start = evidence.text.rfind(" ", 0, first) + 1 if first else 0
    parts, at = [], start
    for begin, end in evidence.matches:
        parts += [evidence.text[at:begin], "*", evidence.text[begin:end], "*"]
        at = end
    line = "".join([*parts, evidence.text[at:]])
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE].rsplit(' ', 1)[0]} ..."
    return f"... {line}" if start else line


def show_info(
    info: "StoreInfo",
    words: "Sequence[TextCounts]" = (),
    moments: "MomentCounts | None" = None,
    identities: "Sequence[IdentityCounts]" = (),
    windows: "Sequence[WindowCounts]" = (),
    calibrated: "Sequence[str]" = (),
    sentence_model: str = "",
) -> None:
    """Print counts of the contents of an index: videos, words, moments, faces, voices and audio."""
    files = ", ".join(f"{count} {state}" for state, count in info.files.items() if count) or "none"
    limit = "" if info.memory is None else f", memory limit {info.memory / 1e9:.3g} GB"
    prepared = []
    if moments is not None and moments.videos:
        size = f"{moments.num_bytes / 1e6:.1f} MB, {moments.bytes_per_hour / 1e6:.3g} MB per hour"
        prepared = [("moments", f"of {format_count(moments.videos, 'video')}, for the grounding head; {size}")]
    videos = partial(format_count, noun="video")
    imported = [("imported", f"{videos(info.imported)}, with vectors of another program")] if info.imported else []
    rows = [
        ("index", info.path),
        ("files", files),
        ("videos", f"{info.videos}, {info.complete_videos} complete; {format_time(info.seconds)} in total"),
        *imported,
        ("segments", f"{info.segments}, {info.searchable} searchable; {format_count(info.frames, 'frame')}"),
        ("cut", {"shots": "where shots change", "grid": "at fixed lengths"}.get(info.segment_rule, info.segment_rule)),
        *([("sampling", f"{info.sampling}, of new videos")] if info.sampling != "exact" else []),
        ("size", f"{info.num_bytes / 1e6:.1f} MB"),
        ("encoder", f"{info.encoder_name}, {info.dim} dimensions"),
        ("vectors", info.vectors + limit if info.store == "faiss" else info.store),
        *([("tokens", f"of {format_count(info.with_tokens, 'segment')}")] if info.with_tokens else []),
        *([("calibrated", "; ".join(calibrated))] if calibrated else []),
        *prepared,
        *[
            (word.source, f"{format_count(word.texts, 'text')}, of {videos(word.videos)}; {word.complete} complete")
            for word in words
        ],
        *([("meaning", f"of texts by {sentence_model}")] if sentence_model else []),
        *[
            (
                f"{counts.kind}s",
                f"{counts.tracks}, of {format_count(counts.persons, 'person')}, in {videos(counts.videos)}",
            )
            for counts in identities
        ],
        *[
            ("audio", f"{format_count(counts.windows, 'window')} by {counts.model}, of {videos(counts.videos)}")
            for counts in windows
        ],
        ("format", str(info.format)),
    ]
    show_table(("", ""), rows)


def run_to_dict(report: Any) -> dict[str, Any]:
    """Return the report of a run, a dataclass, as a dict for JSON, with URLs without their query strings."""
    rows: dict[str, Any] = map_texts(strip_query, dataclasses.asdict(report))
    return rows


def result_to_dict(result: "Hit | Moment") -> dict[str, Any]:
    """Return a hit or a moment as a dict that JSON can represent."""
    return to_row(result, "json", show_path)


def group_by_video(moments: "Sequence[Moment]") -> "list[list[Moment]]":
    """Return the moments of each video, best first, in the order of the best moment of each video."""
    groups: dict[int, list[Moment]] = {}
    for moment in moments:
        groups.setdefault(moment.video, []).append(moment)
    return list(groups.values())


def video_to_dict(moments: "Sequence[Moment]") -> dict[str, Any]:
    """Return a video with its moments as a dict that JSON can represent."""
    rows = [result_to_dict(moment) for moment in moments]
    shared = {name: rows[0][name] for name in ("video", "path", "probability", "likelihood")}
    moment_rows = [{name: value for name, value in row.items() if name not in shared} for row in rows]
    return {**shared, "score": rows[0]["score"], "moments": moment_rows}


def show_grouped_moments(moments: "Sequence[Moment]", *, first_rank: int = 1, empty: str = NOTHING_FOUND) -> None:
    """Print moments below their videos, with their ranks among all moments, or the message ``empty``."""
    warn_of_nothing(moments, first_rank)
    ranks = {id(moment): rank for rank, moment in enumerate(moments, start=first_rank)}
    rows: list[dict[str, str]] = []
    for group in group_by_video(moments):
        rows.append({"match": describe_match(group[0]), "video": display_path(group[0].path)})
        for moment in group:
            words = describe_evidence(moment.evidence)
            text = words[0][1].strip() if words else name_channels(moment.evidence)
            rows.append({"rank": str(ranks[id(moment)]), **cells_of_span(moment), "video": f"  {text}".rstrip()})
            rows += list_below(moment, indent="  ")
    show_cells(("rank", "match", "score", "start", "end", "video"), rows, empty)


def to_dicts(results: Iterable[Hit | Moment]) -> list[dict[str, Any]]:
    """Return hits or moments as dicts for JSON, as ``vidret search --json`` prints them."""
    return [result_to_dict(result) for result in results]


def to_pandas(results: Iterable[Hit | Moment]) -> "pandas.DataFrame":
    """Return hits or moments as a table, one row each, with the columns of ``to_dicts``.

    Raises:
        MissingExtraError: The extra ``pandas`` is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("to_pandas", "pandas") from None
    return pandas.DataFrame(to_dicts(results))
