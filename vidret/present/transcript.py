"""Transcripts of videos for people and other programs: plain text, SubRip, WebVTT and JSON."""

import json
import re
from collections.abc import Sequence

from vidret.text import format_time
from vidret.types import TimedText, to_row

FORMATS = ("txt", "srt", "vtt", "json")
# Control characters, which could control a terminal, and surrogates, which no encoding has.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_OVERRIDE = re.compile(r"\{(?=\\)")  # {\an8} would move a text in players
# SubRip has no escapes: characters that look alike keep a text from being read as times or as a tag.
_SRT = str.maketrans("<>", "\u2039\u203a")
_VTT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})

GENERATED = "generated"
Lines = Sequence[tuple[TimedText, str]]


def to_transcript(texts: Sequence[TimedText], form: str) -> str:
    """Return a transcript in one of ``FORMATS``, by time, each text on one line.

    In SubRip, which cannot represent ``<`` and ``>``, characters that look alike replace them.
    """
    lines = [(text, line) for text in sorted(texts, key=lambda each: (each.start, each.end)) if (line := _clean(text))]
    return {"srt": _to_srt, "vtt": _to_vtt, "json": _to_json}.get(form, _to_txt)(lines)


def _to_srt(lines: Lines) -> str:
    cues = [
        f"{number}\n{_times(text, ',')}\n{_mark(text)}{_OVERRIDE.sub('{ ', line.translate(_SRT))}\n"
        for number, (text, line) in enumerate(lines, start=1)
    ]
    return "\n".join(cues)


def _to_vtt(lines: Lines) -> str:
    return "\n".join(
        ["WEBVTT\n", *(f"{_times(text, '.')}\n{_mark(text)}{line.translate(_VTT)}\n" for text, line in lines)]
    )


def _to_json(lines: Lines) -> str:
    return json.dumps([to_row(text, "json", str) | {"text": line} for text, line in lines], indent=2) + "\n"


def _to_txt(lines: Lines) -> str:
    """Return a line for each text: its start, its source if there are several or it is generated, and its words."""
    sources = {text.source for text, _ in lines}
    are_named = len(sources) > 1 or GENERATED in sources
    width = max(map(len, sources), default=0)
    starts = [format_time(text.start) for text, _ in lines]
    start_width = max(map(len, starts), default=0)
    rows = []
    for start, (text, line) in zip(starts, lines, strict=True):
        source = f"{text.source.ljust(width)}  " if are_named else ""
        rows.append(f"{start.rjust(start_width)}  {source}{line}\n")
    return "".join(rows)


def _clean(text: TimedText) -> str:
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.text.split()))


def _mark(text: TimedText) -> str:
    """Return what says in subtitles, which name no source, that a model generated a text."""
    return f"[{GENERATED}] " if text.source == GENERATED else ""


def _times(text: TimedText, point: str) -> str:
    """Return the line of times of a cue, which lasts at least a millisecond."""
    start_ms = max(0, round(text.start * 1000))
    end_ms = max(start_ms + 1, round(text.end * 1000))
    return f"{_stamp(start_ms, point)} --> {_stamp(end_ms, point)}"


def _stamp(time_ms: int, point: str) -> str:
    """Return a time of a cue.

    >>> _stamp(3_723_004, ",")
    '01:02:03,004'
    """
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}"
