"""Export of moments: JSON, CSV, timelines for editing programs, chapters, SubRip, and an HTML page."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vidret.errors import VidretError
from vidret.present.contents import to_transcript
from vidret.present.editors import TIMELINES
from vidret.present.editors.edl import to_edl, to_markers
from vidret.present.editors.fcpxml import to_fcpxml
from vidret.present.editors.otio import to_otio
from vidret.present.editors.timeline import list_remarks, plan_timeline, read_footage
from vidret.present.show import format_csv
from vidret.present.terminal import writing
from vidret.text import file_name, format_count, format_time, sanitize, show_path, strip_query
from vidret.types import Moment, TimedText, list_row_fields, to_row

COLUMNS = ("rank", "query", *(field.name for field in list_row_fields(Moment, "csv")))
FORMATS = ("json", "csv", *TIMELINES, "chapters", "srt", "html")
NO_SUFFIX = ("chapters", "markers")
PAGE_FRAME = (640, 360)
PAGE_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); gap: 16px; }
.cards article { margin: 0; padding: 0 0 4px; overflow: hidden; break-inside: avoid; }
.cards a { color: inherit; text-decoration: none; }
.cards .shot img, .cards .unread { margin: 0; border-radius: 0; }
.cards figcaption, .cards p:not(.unread) { margin: 8px 14px; }
.cards .unread { aspect-ratio: 16 / 9; }
.cards p { overflow-wrap: anywhere; }
"""
SUFFIXES = {f".{form}": form for form in FORMATS if form not in NO_SUFFIX} | {".ffmeta": "chapters"}


def write_moments(
    moments: Sequence[Moment], out: str | Path, *, query: str, fps: float | None = None, handles_s: float = 0.0
) -> None:
    """Write moments to a file in the format of its suffix; an existing file is replaced.

    Args:
        moments: The moments, best first.
        out: Path that ends in .json, .csv, .otio, .fcpxml, .edl, .srt or .html, or in .ffmeta for chapters.
        query: The query that the moments answer.
        fps: As in ``format_moments``.
        handles_s: As in ``format_moments``.

    Raises:
        VidretError: ``out`` has another suffix or cannot be written, or the format cannot represent these moments.
    """
    out = Path(out)
    form = SUFFIXES.get(out.suffix.lower())
    if form is None:
        suffixes = ", ".join(SUFFIXES)
        raise VidretError(f"out must end in one of {suffixes}, got {sanitize(str(out))}")
    text = format_moments(moments, form, query=query, fps=fps, handles_s=handles_s)
    with writing(out):  # a path in a CSV that is not valid text keeps its bytes on disk
        out.write_bytes(text.encode("utf-8", "surrogateescape"))


def format_moments(
    moments: Sequence[Moment],
    form: str,
    *,
    query: str,
    first_rank: int = 1,
    fps: float | None = None,
    handles_s: float = 0.0,
    clip_url: str = "",
) -> str:
    """Return moments in one of ``FORMATS``.

    ``TIMELINES`` read the videos, for their frame rates, durations and timecodes. What is assumed or shortened is
    logged once as a warning.

    Args:
        moments: The moments, best first.
        form: The format.
        query: The query that the moments answer.
        first_rank: Rank of the first one, in CSV, JSON and on a page.
        fps: The frame rate of a timeline, in frames per second; None for that of most moments.
        handles_s: Seconds of the video, at most, that a timeline shows before and after each moment.
        clip_url: URL of a moment's clip on a page, with ``{video}``, ``{start}`` and ``{end}``; empty for none.

    Raises:
        VidretError: The format cannot represent these moments, or needs an extra that is not installed.
        ValueError: There is no such format.
    """
    if form not in FORMATS:
        raise ValueError(f"form must be one of {', '.join(FORMATS)}, got {form}")
    match form:
        case "json":
            return to_json(moments, query=query, first_rank=first_rank)
        case "csv":
            return to_csv(moments, query=query, first_rank=first_rank)
        case "chapters":
            return to_chapters(moments, query=query)
        case "srt":
            return to_srt(moments, query=query)
        case "html":
            return to_page(moments, query=query, first_rank=first_rank, clip_url=clip_url)
    check_moments(moments)
    footage = {path: read_footage(path) for path in dict.fromkeys(moment.path for moment in moments)}
    timeline = plan_timeline(moments, footage, query=query, fps=fps, handles_s=handles_s)
    return {"otio": to_otio, "fcpxml": to_fcpxml, "edl": to_edl, "markers": to_markers}[form](timeline)


def to_json(moments: Sequence[Moment], *, query: str, first_rank: int = 1) -> str:
    """Return a JSON list of objects in plain ASCII, so that every path survives a round trip."""
    return json.dumps(moment_rows(moments, query, first_rank), indent=2) + "\n"


def to_csv(moments: Sequence[Moment], *, query: str, first_rank: int = 1) -> str:
    """Return a header and one line per moment (RFC 4180); a quote is put before a query that reads as a formula."""
    has_notes = any(moment.note for moment in moments)
    columns = [column for column in COLUMNS if has_notes or column != "note"]
    rows = moment_rows(moments, query, first_rank)
    return format_csv(columns, [{name: row[name] for name in columns} for row in rows])


def moment_rows(moments: Sequence[Moment], query: str, first_rank: int) -> list[dict[str, Any]]:
    """Return one dict of ``COLUMNS`` per moment, with times in seconds rounded to the microsecond."""
    rows = [to_row(moment, "csv", strip_query, digits=6) for moment in moments]
    return [{"rank": rank, "query": query, **row} for rank, row in enumerate(rows, start=first_rank)]


def to_chapters(moments: Sequence[Moment], *, query: str) -> str:
    """Return the moments of one video as chapters in ffmpeg's metadata format, ordered by time.

    To add them to the video: ``ffmpeg -i video.mp4 -i out.ffmeta -map_metadata 1 -codec copy with-chapters.mp4``. A
    chapter lasts at least a millisecond. Several chapters are numbered, because all of them have the query as title.
    Chapters without a title fill the time before and between them, since MP4 files have no gaps between chapters.

    Raises:
        VidretError: The moments are of several videos, or overlap: players show one chapter at a time.
    """
    check_moments(moments)
    check_one_video(moments, "chapters")
    ordered = sorted(moments, key=lambda moment: (moment.start, moment.end))
    for one, other in pairwise(ordered):
        if other.start < one.end:
            spans = " and ".join(f"{format_time(moment.start)} to {format_time(moment.end)}" for moment in (one, other))
            raise VidretError(f"chapters must not overlap, got {spans}")
    lines, last_ms = [";FFMETADATA1"], 0
    for chapter_number, moment in enumerate(ordered, start=1):
        start_ms = round(moment.start * 1000)
        end_ms = max(round(moment.end * 1000), start_ms + 1)
        title = escape_metadata(query if len(ordered) == 1 else f"{query} ({chapter_number})")
        lines += list_chapter(last_ms, start_ms, "") if start_ms > last_ms else []
        lines += list_chapter(start_ms, end_ms, title)
        last_ms = end_ms
    return "\n".join(lines) + "\n"


def list_chapter(start_ms: int, end_ms: int, title: str) -> list[str]:
    """Return the lines of a chapter, given its title with escapes."""
    return ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start_ms}", f"END={end_ms}", f"title={title}"]


def escape_metadata(text: str) -> str:
    """Return text with a backslash before each character that is special in ffmpeg's metadata format."""
    escaped = "".join(f"\\{letter}" if letter in "=;#\\\n" else letter for letter in text)
    return escaped + " " if text.endswith("\\") else escaped  # ffmpeg reads any final backslash as a continued line


def check_moments(moments: Sequence[Moment]) -> None:
    """Raise ValueError unless each moment has a positive, finite duration and starts at 0 or later."""
    for moment in moments:
        if not 0 <= moment.start < moment.end < float("inf"):
            raise ValueError(f"moments must have 0 <= start < end, got {moment}")


def to_srt(moments: Sequence[Moment], *, query: str) -> str:
    """Return the moments of one video as SubRip subtitles: each shows the query, how likely it is, and the words.

    Raises:
        VidretError: The moments are of several videos.
    """
    check_moments(moments)
    check_one_video(moments, "srt")
    cues = [
        TimedText(moment.start, moment.end, ", ".join([query, *list_remarks(moment)]), "subtitles")
        for moment in moments
    ]
    return to_transcript(cues, "srt")


def to_page(moments: Sequence[Moment], *, query: str, first_rank: int = 1, clip_url: str = "") -> str:
    """Return a self-contained page: the middle frame of each moment, its video, its times, and its facts.

    A frame that cannot be read is a tile with the reason.
    """
    from vidret.present.html import FrameImages, escape_text, render_document

    frames = FrameImages(size=PAGE_FRAME)
    length_s = sum(moment.end - moment.start for moment in moments)
    cards = []
    for rank, moment in enumerate(moments, start=first_rank):
        name = f"{rank}. {Path(file_name(moment.path)).stem}"
        span = f"{format_time(moment.start)} to {format_time(moment.end)}"
        shot = frames.render(moment.path, (moment.start + moment.end) / 2, name, span, "")
        if clip_url:
            url = clip_url.format(video=moment.video, start=moment.start, end=moment.end)
            shot = f'<a href="{escape_text(url)}">{shot}</a>'
        remarks = "".join(f"<p>{escape_text(line)}</p>" for line in list_remarks(moment))
        cards.append(f'<article>{shot}{remarks}<p class="facts">{escape_text(show_path(moment.path))}</p></article>')
    count = format_count(len(moments), "moment")
    facts = f'<p class="facts">{count}, {format_time(length_s)} in all</p>'
    grid = f'<div class="cards">{"".join(cards)}</div>'
    return render_document(query, [f"<h1>{escape_text(query)}</h1>", facts, grid], style=PAGE_STYLE)


def check_one_video(moments: Sequence[Moment], form: str) -> None:
    """Raise VidretError unless all moments are of one video."""
    paths = sorted({moment.path for moment in moments})
    if len(paths) > 1:
        first = show_path(paths[0])
        raise VidretError(f"{form} must be of one video, got {len(paths)}, among them {first}; locate in one of them")
