"""Moments for other programs: JSON, CSV, an edit decision list, chapters, and the pieces of video themselves."""

import csv
import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from vidret.errors import VidretError
from vidret.text import file_name, format_time, is_url, sanitize, strip_query
from vidret.types import Moment
from vidret.video.probe import probe

COLUMNS = ("rank", "query", "path", "start", "end", "score", "weak", "by", "similarity")
NUMBERS = ("start", "end", "score", "similarity")
MAX_EVENTS = 999  # an event number has three digits
MAX_TITLE = 70
REEL_LETTERS = 8
DAY = 24 * 3600
STEM_LETTERS = 50
RUN_UP = 5_000_000  # microseconds
# Microseconds that a frame may come early: ffmpeg subtracts the start of the container in whole ticks of the stream.
OFF_BEAT = 500
MPEG_SUFFIXES = {".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"}
NO_FFMPEG = "cutting needs ffmpeg 5.1 or later: install it, or the Python package imageio-ffmpeg, which brings one"

# Texts


def write_moments(moments: Sequence[Moment], out: str | Path, *, query: str, fps: float = 25.0) -> None:
    """Write moments, best first, in the form that the name of ``out`` asks for; a file that is there is replaced.

    Args:
        moments: What ``locate`` gave.
        out: Ends in .json, .csv, .edl, or .ffmeta for chapters.
        query: What they answer.
        fps: The frame rate that the timecodes of an .edl count in.

    Raises:
        VidretError: ``out`` ends otherwise or cannot be written, or the form cannot hold these moments.
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
            raise VidretError(f"an export must end in .json, .csv, .edl or .ffmeta, got {sanitize(str(out))}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A path that is no text goes into a CSV as the bytes it has on disk.
        out.write_bytes(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(out, error) from error


def to_json(moments: Sequence[Moment], *, query: str) -> str:
    """Write a list of objects; plain ASCII, so that any path comes back as it is."""
    return json.dumps(list_rows(moments, query), indent=2) + "\n"


def to_csv(moments: Sequence[Moment], *, query: str) -> str:
    """Write a header and a line a moment, as RFC 4180 has it."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows({**row, "weak": "true" if row["weak"] else "false"} for row in list_rows(moments, query))
    return text.getvalue()


def list_rows(moments: Sequence[Moment], query: str) -> list[dict[str, Any]]:
    """Turn moments into columns; times in seconds, to the microsecond."""
    rows = []
    for rank, moment in enumerate(moments, start=1):
        row: dict[str, Any] = {"rank": rank, "query": query} | dataclasses.asdict(moment)
        row |= {name: round(row[name], 6) for name in NUMBERS if row[name] is not None}
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def to_chapters(moments: Sequence[Moment], *, query: str) -> str:
    """Write moments of one video as its chapters, in the order of time, in ffmpeg's metadata format.

    ``ffmpeg -i video.mp4 -i out.ffmeta -map_metadata 1 -codec copy with-chapters.mp4`` puts them into the video. A
    chapter lasts a millisecond at least. Several are numbered, since all of them answer one query.

    Raises:
        VidretError: The moments are of several videos, or overlap: a player is in one chapter at a time.
    """
    check_moments(moments)
    paths = sorted({moment.path for moment in moments})
    if len(paths) > 1:
        first = sanitize(strip_query(paths[0]))
        raise VidretError(f"chapters must be of one video, got {len(paths)}, {first} among them; locate in one of them")
    ordered = sorted(moments, key=lambda moment: (moment.start, moment.end))
    for one, other in pairwise(ordered):
        if other.start < one.end:
            spans = " and ".join(f"{format_time(each.start)} to {format_time(each.end)}" for each in (one, other))
            raise VidretError(f"chapters must not overlap, got {spans}")
    lines = [";FFMETADATA1"]
    for number, moment in enumerate(ordered, start=1):
        start = round(moment.start * 1000)
        end = max(round(moment.end * 1000), start + 1)
        title = escape_metadata(query if len(ordered) == 1 else f"{query} ({number})")
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}", f"title={title}"]
    return "\n".join(lines) + "\n"


def escape_metadata(text: str) -> str:
    """Put a backslash before what ffmpeg's metadata format would read as its own."""
    escaped = "".join(f"\\{letter}" if letter in "=;#\\\n" else letter for letter in text)
    return escaped + " " if text.endswith("\\") else escaped  # it takes any backslash at the end for one before a line


def check_moments(moments: Sequence[Moment]) -> None:
    """Refuse what is no stretch of time."""
    for moment in moments:
        if not 0 <= moment.start < moment.end < float("inf"):
            raise ValueError(f"moments must have 0 <= start < end, got {moment}")


# The edit decision list


def to_edl(moments: Sequence[Moment], *, query: str, fps: float) -> str:
    """Write an edit of the moments, one after another, best first: a CMX 3600 list, whose timecodes drop no frame.

    Boundaries go to the nearest frame, and a moment has a frame at least. Source times count from 0 where a player's
    clock does. Each video has a reel of its own, and each event names the file, for editing programs find it by that.

    Args:
        moments: At most 999.
        query: The title.
        fps: A whole number up to 100, or 1000/1001 of one as in 29.97. Frames are counted at that rate; timecodes
            number them at the whole one.

    Raises:
        VidretError: The format cannot hold it: the rate, the number of moments, or a time of 24 hours or more.
    """
    check_moments(moments)
    rate = find_rate(fps)
    if len(moments) > MAX_EVENTS:
        raise VidretError(f"an EDL must have at most {MAX_EVENTS} moments, got {len(moments)}")
    reels = name_reels([moment.path for moment in moments])
    lines = [f"TITLE: {sanitize(query)[:MAX_TITLE]}", "FCM: NON-DROP FRAME", ""]
    record = 0
    for number, moment in enumerate(moments, start=1):
        start = nearest_frame(moment.start, rate)
        end = max(nearest_frame(moment.end, rate), start + 1)
        codes = [timecode(frame, rate) for frame in (start, end, record, record + end - start)]
        record += end - start
        name = sanitize(file_name(moment.path))
        lines.append(f"{number:03}  {reels[moment.path]:<{REEL_LETTERS}} V     C        {' '.join(codes)}")
        lines.append(f"* FROM CLIP NAME: {name}")
        lines.append(f"* COMMENT: SCORE {moment.score:.3f}{', WEAK' if moment.weak else ''}")
    return "\n".join(lines) + "\n"


def find_rate(fps: float) -> Fraction:
    """Give a frame rate exactly: 29.97 is 30000/1001."""
    if 0.9 < fps < 100.01:
        whole = round(fps)
        for rate in (Fraction(whole), Fraction(whole * 1000, 1001)):
            if abs(fps - rate) < 0.001:
                return rate
    raise VidretError(f"fps must be a whole number in 1..100, or 1000/1001 of one, for an EDL, got {fps:g}")


def nearest_frame(seconds: float, rate: Fraction) -> int:
    """Give the frame that begins nearest to a time; of two, the later."""
    return int(Fraction(seconds) * rate + Fraction(1, 2))


def timecode(frame: int, rate: Fraction) -> str:
    """Write a frame's number as hours:minutes:seconds:frames.

    >>> timecode(90061, Fraction(25))
    '01:00:02:11'
    """
    seconds, frames = divmod(frame, round(rate))
    if seconds >= DAY:
        raise VidretError(f"the times of an EDL must be below 24 hours, got {format_time(seconds)}")
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"


def name_reels(paths: Sequence[str]) -> dict[str, str]:
    """Give each video a name of up to eight letters and digits, no two the same."""
    reels: dict[str, str] = {}
    taken = {"BL", "AX"}  # black, and no reel at all
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


# Pieces of video


def cut_moments(
    moments: Sequence[Moment],
    folder: str | Path,
    *,
    copy: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Cut each moment out of its video with ffmpeg, into a file of its own named by rank, video and times.

    A piece appears under its name once it is whole. Pieces of an AVI may begin and end a frame or two early.

    Args:
        moments: What to cut, best first.
        folder: Where the pieces go; made if need be.
        copy: Do not encode again, and keep the container: quick, and nothing is lost, but a piece then begins and ends
            where its codec lets it, seconds off at times. Otherwise pieces are H.264 and AAC in MP4, and begin and end
            at the exact frame.
        overwrite: Replace pieces that are there.
        on_progress: Called with how many are done, and of how many, after each.

    Returns:
        The pieces' paths, in the order of the moments.

    Raises:
        VidretError: There is no ffmpeg, a video lies at an address, a piece is there already, or one cannot be cut;
            those before it stay.
    """
    check_moments(moments)
    for moment in moments:
        if is_url(moment.path):
            raise VidretError(
                f"{sanitize(strip_query(moment.path))}: lies at an address, and only files here are cut: copy it here"
            )
    folder = Path(folder)
    ffmpeg = find_ffmpeg()
    pieces = [folder / name for name in name_pieces(moments, copy=copy)]
    for piece in pieces:
        if not overwrite and os.path.lexists(piece):
            raise VidretError(f"{sanitize(str(piece))}: is there already; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cutting-", dir=folder) as scratch:
            for done, (moment, piece) in enumerate(zip(moments, pieces, strict=True), start=1):
                unfinished = Path(scratch) / piece.name
                cut(moment, unfinished, ffmpeg, copy=copy)
                unfinished.replace(piece)
                if on_progress is not None:
                    on_progress(done, len(pieces))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return pieces


def find_ffmpeg() -> str:
    """Find ffmpeg: the machine's own, else the one in the package imageio-ffmpeg."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise VidretError(NO_FFMPEG) from error


def name_pieces(moments: Sequence[Moment], *, copy: bool) -> list[str]:
    """Name the pieces so that any file system takes them and a listing has them best first.

    The second moment of ``My trip.mov``, from 75.25 s to 80 s, is ``02_My_trip_75.25-80.00.mp4``.
    """
    names = []
    digits = max(2, len(str(len(moments))))
    for rank, moment in enumerate(moments, start=1):
        path = Path(moment.path)
        stem = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in path.stem)[:STEM_LETTERS]
        suffix = (path.suffix if path.suffix[1:].isalnum() else ".mkv") if copy else ".mp4"
        names.append(f"{rank:0{digits}}_{stem}_{moment.start:.2f}-{moment.end:.2f}{suffix}")
    return names


def cut(moment: Moment, out: Path, ffmpeg: str, *, copy: bool) -> None:
    """Cut one moment into a new file that holds a frame at least."""
    path = sanitize(moment.path)
    if not Path(moment.path).is_file():
        raise VidretError(f"{path}: is no longer there")
    is_joined = Path(moment.path).suffix.lower() in MPEG_SUFFIXES and probe(moment.path).clock_restarts > 0
    if is_joined and copy:
        raise VidretError(f"{path}: is made of joined recordings, which are cut by encoding again only, not by copying")
    command = [ffmpeg, *list_arguments(moment, out, copy=copy, can_jump=not is_joined)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.strip() and line != "Conversion failed!"]
        reason = sanitize(reasons[-1].strip()) if reasons else f"exit code {done.returncode}"
        raise VidretError(
            f"{path}: ffmpeg cannot cut {format_time(moment.start)} to {format_time(moment.end)}: {reason}"
        )
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    ended = told.get("out_time_us", "N/A")
    # A copy of what lies past the end is of the last keyframe, long before the start.
    if told.get("frame") == "0" or ended == "N/A" or int(ended) < -1_000_000:
        raise VidretError(f"{path}: has no frame from {format_time(moment.start)} to {format_time(moment.end)}")


def list_arguments(moment: Moment, out: Path, *, copy: bool, can_jump: bool = True) -> list[str]:
    """Say to ffmpeg what to cut and how; file: and whole paths keep odd names from being read as options or links.

    Without ``can_jump`` it decodes from the file's start, as it must where a clock restarts: it jumps by what the file
    says, and goes on counting at a restart only in what it reads.
    """
    # Microseconds, rounded down: a frame that starts at a boundary is then after it, never lost to the rounding.
    start, end = (int(Fraction(time) * 1_000_000) for time in (moment.start, moment.end))
    # Encoding, a jump goes well before the start, and the filters drop what comes until then: right after a jump into
    # an open group of pictures some frames cannot be decoded.
    jump = start if copy else max(start - RUN_UP, 0) if can_jump else 0
    first = max(start - jump - OFF_BEAT, 0)
    trim = f"trim=start={first}us:end={max(end - jump - OFF_BEAT, first + 1)}us"
    # A frame that came early begins the piece: before its beginning a player would not show it.
    begin = f"setpts='max(PTS,ceil({start - jump}/1000000/TB))'"
    # Frames keep their own times, to 1/90000 s, which all usual rates divide; picture and sound move back together.
    timing = ["-fps_mode", "vfr", "-enc_time_base:v", "1:90000", "-output_ts_offset", f"{jump - start}us"]
    # H.264 in its common form wants even sides.
    picture = ["-vf", f"{trim},{begin},crop=trunc(iw/2)*2:trunc(ih/2)*2", "-pix_fmt", "yuv420p", "-c:v", "libx264"]
    quality = ["-preset", "veryfast", "-crf", "18", "-movflags", "+faststart"]
    encode = [*timing, *picture, *quality, "-af", f"a{trim}", "-c:a", "aac"]
    source, target = (f"file:{os.path.abspath(path)}" for path in (moment.path, out))  # noqa: PTH100 keeps links
    talk = ["-hide_banner", "-loglevel", "error", "-nostdin", "-progress", "pipe:1", "-nostats"]
    # A jump to the beginning is none: some containers would take it for one to the second keyframe.
    reach = [*(["-ss", f"{jump}us"] if jump else []), "-t", f"{max(end, start + 1) - jump}us", "-i", source]
    # The first true video stream, for a cover picture is one as well, and all sound.
    return [*talk, *reach, "-map", "0:V:0", "-map", "0:a?", *(["-c", "copy"] if copy else encode), target]


def cannot_write(path: Path, error: OSError) -> VidretError:
    """Say in one sentence why a place cannot be written."""
    return VidretError(f"{sanitize(str(path))}: cannot be written: {error.strerror or error}")
