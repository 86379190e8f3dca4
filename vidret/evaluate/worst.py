"""The queries that went worst, as pictures: what was right, and what was found."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidret.errors import DecodeError
from vidret.evaluate.markup import say
from vidret.evaluate.plots import plot_timeline
from vidret.text import format_time
from vidret.video.decode import read_frames
from vidret.video.probe import probe

NUM_WORST, NUM_HITS = 12, 4
PICTURE = (256, 144)
QUALITY = 80
Row = Mapping[str, Any]


def show_worst(facts: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[str]:
    """Show the queries that went worst, for each what was right and what was found."""
    rows, pictures = facts["per_query"], Pictures(files)
    if facts["task"] == "retrieval":
        gallery = facts["results"]["rows"][0]["gallery_size"]
        worst = sorted(rows, key=lambda row: (-row["rank"], row["score"] - row["top"][0][1]))[:NUM_WORST]
        shown = [show_ranked(row, gallery, pictures) for row in worst]
    elif rows and "overlap" in rows[0]:
        worst = sorted(rows, key=lambda row: (row["overlap"], -find_gap(row)))[:NUM_WORST]
        shown = [show_found(row, pictures) for row in worst]
    else:
        return
    yield f"<h2>The {len(shown)} worst queries</h2>"
    yield from shown


def show_ranked(row: Row, gallery: int, pictures: "Pictures") -> str:
    """Show a caption, its own video, and the videos that came first."""
    own = pictures.show(
        row["video"], None, f"its video: {row['video']}", f"rank {row['rank']:g}, score {row['score']:.3f}", "right"
    )
    first = [
        pictures.show(name, None, f"{place}. {name}", f"score {score:.3f}", "right" if name == row["video"] else "")
        for place, (name, score) in enumerate(row["top"][:NUM_HITS], start=1)
    ]
    return as_article(row, f"rank {row['rank']:g} of {gallery}", [own, *first])


def show_found(row: Row, pictures: "Pictures") -> str:
    """Show a query's windows and what was found, on a line and as frames."""
    true, found = row["true"], row["found"]
    end = row["duration"] or max([*(span[1] for span in true), *(found[1:2] if found else [])])
    shots = [
        pictures.show(
            row["video"], start + share * (stop - start), name, f"{format_time(start)} to {format_time(stop)}", kind
        )
        for name, kind, (start, stop) in (("true", "right", true[0]), *([("found", "", found[:2])] if found else []))
        for share in (0.25, 0.75)
    ]
    facts = f"overlap {row['overlap']:.2f}, in {row['video']}" + ("" if found else "; nothing was found")
    return as_article(row, facts, [plot_timeline(end, true, found), f'<div class="shots">{"".join(shots)}</div>'])


def as_article(row: Row, facts: str, parts: Sequence[str]) -> str:
    """Put a query over its pictures."""
    inside = "".join(parts) if parts[0].startswith("<svg") else f'<div class="shots">{"".join(parts)}</div>'
    return f'<article><h3>{say(row["text"])}</h3><p class="facts">{say(facts)}</p>{inside}</article>'


def find_gap(row: Row) -> float:
    """Say how many seconds lie between what was found and the nearest true window; where nothing was, all there are."""
    if row["found"] is None:
        return float("inf")
    start, end = row["found"][:2]
    return float(min(max(true[0] - end, start - true[1], 0) for true in row["true"]))


class Pictures:
    """Frames of videos, each read once, as text that a page can hold."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Take the videos' files by name."""
        self._files = files
        self._known: dict[tuple[str, float | None], str] = {}

    def show(self, name: str, time: float | None, title: str, line: str, kind: str) -> str:
        """Show the frame at a time, or in the middle of the video, over two lines; a reason if it cannot be read."""
        if (name, time) not in self._known:
            self._known[name, time] = self._read(name, time)
        shown = self._known[name, time]
        words = f"<b>{say(title)}</b><br>{say(line)}"
        return f'<figure class="shot {kind}">{shown}<figcaption>{words}</figcaption></figure>'

    def _read(self, name: str, time: float | None) -> str:
        path = str(self._files[name])
        try:
            if time is None:
                info = probe(path)
                time = info.start + info.shown_seconds / 2
            pixels = read_frames(path, times=[time]).pixels[0]
        except DecodeError as error:
            return f'<p class="unread">{say(error.reason)}</p>'
        picture = Image.fromarray(np.asarray(pixels))
        picture.thumbnail(PICTURE)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        size = f'width="{picture.width}" height="{picture.height}"'
        return (
            f'<img {size} alt="{say(name)}" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
        )
