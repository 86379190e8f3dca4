"""Moments as text for other programs: JSON, CSV, chapters for ffmpeg, and edit decision lists."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from vidret.errors import VidretError
from vidret.text import file_name, format_time, sanitize, strip_query
from vidret.types import Moment

COLUMNS = ("rank", "query", "path", "start", "end", "score", "weak", "by", "similarity")
ROUNDED_COLUMNS = ("start", "end", "score", "similarity")
MAX_EVENTS = 999  # event numbers of an EDL have three digits
MAX_TITLE_LETTERS = 70
REEL_LETTERS = 8
DAY_S = 24 * 3600


def write_moments(moments: Sequence[Moment], out: str | Path, *, query: str, fps: float = 25.0) -> None:
    """Write moments to a file in the format of its suffix; an existing file is replaced.

    Args:
        moments: The moments, best first.
        out: Path that ends in .json, .csv, .edl, or .ffmeta for chapters.
        query: The query that the moments answer.
        fps: Frame rate of the timecodes of an .edl, in frames per second.

    Raises:
        VidretError: ``out`` has another suffix or cannot be written, or the format cannot represent these moments.
    """
    out = Path(out)
    match out.suffix.lower():
        case ".json":
            text = to_json(moments, query=query)
        case ".csv":
            text = to_csv(moments, query=query)
        case ".edl":
            text = to_edl(moments, query=query, fps=fps)
        case ".ffmeta":
            text = to_chapters(moments, query=query)
        case _:
            raise VidretError(f"out must end in .json, .csv, .edl or .ffmeta, got {sanitize(str(out))}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A path in a CSV that is not valid text keeps the bytes that it has on disk.
        out.write_bytes(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(out, error) from error


def to_json(moments: Sequence[Moment], *, query: str) -> str:
    """Return a JSON list of objects in plain ASCII, so that every path survives a round trip."""
    return json.dumps(moment_rows(moments, query), indent=2) + "\n"


def to_csv(moments: Sequence[Moment], *, query: str) -> str:
    """Return a header and one line per moment, as specified in RFC 4180."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows({**row, "weak": "true" if row["weak"] else "false"} for row in moment_rows(moments, query))
    return text.getvalue()


def moment_rows(moments: Sequence[Moment], query: str) -> list[dict[str, Any]]:
    """Return one dict of ``COLUMNS`` per moment, with times in seconds rounded to the microsecond."""
    rows = []
    for rank, moment in enumerate(moments, start=1):
        row: dict[str, Any] = {"rank": rank, "query": query} | dataclasses.asdict(moment)
        row |= {name: round(row[name], 6) for name in ROUNDED_COLUMNS if row[name] is not None}
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def to_chapters(moments: Sequence[Moment], *, query: str) -> str:
    """Return the moments of one video as chapters in ffmpeg's metadata format, ordered by time.

    To add them to the video: ``ffmpeg -i video.mp4 -i out.ffmeta -map_metadata 1 -codec copy with-chapters.mp4``. A
    chapter lasts at least a millisecond. Several chapters are numbered, because all of them have the query as title.

    Raises:
        VidretError: The moments are of several videos, or overlap: players show one chapter at a time.
    """
    check_moments(moments)
    paths = sorted({moment.path for moment in moments})
    if len(paths) > 1:
        first = sanitize(strip_query(paths[0]))
        raise VidretError(f"chapters must be of one video, got {len(paths)}, among them {first}; locate in one of them")
    ordered = sorted(moments, key=lambda moment: (moment.start, moment.end))
    for one, other in pairwise(ordered):
        if other.start < one.end:
            spans = " and ".join(f"{format_time(each.start)} to {format_time(each.end)}" for each in (one, other))
            raise VidretError(f"chapters must not overlap, got {spans}")
    lines = [";FFMETADATA1"]
    for number, moment in enumerate(ordered, start=1):
        start_ms = round(moment.start * 1000)
        end_ms = max(round(moment.end * 1000), start_ms + 1)
        title = escape_metadata(query if len(ordered) == 1 else f"{query} ({number})")
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start_ms}", f"END={end_ms}", f"title={title}"]
    return "\n".join(lines) + "\n"


def escape_metadata(text: str) -> str:
    """Return text with a backslash before each character that is special in ffmpeg's metadata format."""
    escaped = "".join(f"\\{letter}" if letter in "=;#\\\n" else letter for letter in text)
    return escaped + " " if text.endswith("\\") else escaped  # ffmpeg takes any final backslash for a continued line


def check_moments(moments: Sequence[Moment]) -> None:
    """Raise ValueError unless each moment has a positive, finite duration and starts at 0 or later."""
    for moment in moments:
        if not 0 <= moment.start < moment.end < float("inf"):
            raise ValueError(f"moments must have 0 <= start < end, got {moment}")


def to_edl(moments: Sequence[Moment], *, query: str, fps: float) -> str:
    """Return an edit of the moments one after another, best first, as a CMX 3600 list with non-drop timecodes.

    Boundaries are rounded to the nearest frame; a moment has at least one frame. Source times count from the zero of a
    player's clock. Each video has its own reel, and each event names the file, by which editing programs find it.

    Args:
        moments: At most 999 moments.
        query: The title.
        fps: A whole frame rate up to 100, or 1000/1001 of one, such as 29.97. Frames are counted at the exact rate;
            timecodes number them at the whole one.

    Raises:
        VidretError: The format cannot represent the frame rate, the number of moments, or a time of 24 hours or more.
    """
    check_moments(moments)
    rate = exact_frame_rate(fps)
    if len(moments) > MAX_EVENTS:
        raise VidretError(f"an EDL must have at most {MAX_EVENTS} moments, got {len(moments)}")
    reels = name_reels([moment.path for moment in moments])
    lines = [f"TITLE: {sanitize(query)[:MAX_TITLE_LETTERS]}", "FCM: NON-DROP FRAME", ""]
    record = 0
    for number, moment in enumerate(moments, start=1):
        start = nearest_frame(moment.start, rate)
        end = max(nearest_frame(moment.end, rate), start + 1)
        codes = [format_timecode(frame, rate) for frame in (start, end, record, record + end - start)]
        record += end - start
        name = sanitize(file_name(moment.path))
        lines.append(f"{number:03}  {reels[moment.path]:<{REEL_LETTERS}} V     C        {' '.join(codes)}")
        lines.append(f"* FROM CLIP NAME: {name}")
        lines.append(f"* COMMENT: SCORE {moment.score:.3f}{', WEAK' if moment.weak else ''}")
    return "\n".join(lines) + "\n"


def exact_frame_rate(fps: float) -> Fraction:
    """Return a frame rate as a fraction: 29.97 is 30000/1001.

    Raises:
        VidretError: It is neither a whole number in 1..100 nor 1000/1001 of one.
    """
    if 0.9 < fps < 100.01:
        whole = round(fps)
        for rate in (Fraction(whole), Fraction(whole * 1000, 1001)):
            if abs(fps - rate) < 0.001:
                return rate
    raise VidretError(f"fps must be a whole number in 1..100, or 1000/1001 of one, for an EDL, got {fps:g}")


def nearest_frame(time_s: float, rate: Fraction) -> int:
    """Return the index of the frame that starts nearest to a time; the later one of two."""
    return int(Fraction(time_s) * rate + Fraction(1, 2))


def format_timecode(frame_index: int, rate: Fraction) -> str:
    """Return the timecode of a frame as hours:minutes:seconds:frames.

    >>> format_timecode(90061, Fraction(25))
    '01:00:02:11'
    """
    seconds, frames = divmod(frame_index, round(rate))
    if seconds >= DAY_S:
        raise VidretError(f"the times of an EDL must be below 24 hours, got {format_time(seconds)}")
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"


def name_reels(paths: Sequence[str]) -> dict[str, str]:
    """Return a unique reel name of up to eight letters and digits for each path."""
    reels: dict[str, str] = {}
    taken = {"BL", "AX"}  # reserved: black, and no reel
    for path in dict.fromkeys(paths):
        stem = (
            "".join(letter for letter in Path(file_name(path)).stem.upper() if letter.isascii() and letter.isalnum())
            or "REEL"
        )
        reel, number = stem[:REEL_LETTERS], 1
        while reel in taken:
            number += 1
            reel = stem[: REEL_LETTERS - len(str(number))] + str(number)
        taken.add(reel)
        reels[path] = reel
    return reels


def cannot_write(path: Path, error: OSError) -> VidretError:
    """Return the error for a path that cannot be written."""
    return VidretError(f"{sanitize(str(path))}: cannot be written: {error.strerror or error}")
