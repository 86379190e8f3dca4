"""Shots of a video for people and other programs: a table, CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from vidret.present.show import show_table
from vidret.text import format_time
from vidret.types import Shot

FORMATS = ("table", "csv", "json")
COLUMNS = ("shot", "start", "end", "length", "begins_with")


def format_shots(shots: Sequence[Shot], form: str) -> str:
    """Return shots as ``csv``, as specified in RFC 4180, or as ``json``: numbered from 1, times in seconds."""
    rows = _list_rows(shots)
    if form == "json":
        return json.dumps(rows, indent=2) + "\n"
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def show_shots(shots: Sequence[Shot]) -> None:
    """Print shots as a table."""
    rows = [
        (
            str(number),
            format_time(shot.start),
            format_time(shot.end),
            f"{shot.end - shot.start:.1f} s",
            shot.begins_with or "",
        )
        for number, shot in enumerate(shots, start=1)
    ]
    show_table(("shot", "start", "end", "length", "begins with"), rows)


def _list_rows(shots: Sequence[Shot]) -> list[dict[str, Any]]:
    """Return one dict of ``COLUMNS`` per shot, with times rounded to the microsecond."""
    return [
        {
            "shot": number,
            "start": round(shot.start, 6),
            "end": round(shot.end, 6),
            "length": round(shot.end - shot.start, 6),
            "begins_with": shot.begins_with,
        }
        for number, shot in enumerate(shots, start=1)
    ]
