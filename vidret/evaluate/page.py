"""A report as one HTML file that needs nothing else: the tables, curves, and the worst queries as pictures."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from vidret.errors import VidretError
from vidret.evaluate.markup import STYLE, say
from vidret.evaluate.plots import Point, plot_histogram, plot_recall, plot_thresholds
from vidret.evaluate.report import Report
from vidret.evaluate.tables import Facts, Table, make_tables, name_data, tell_missing
from vidret.evaluate.worst import show_worst
from vidret.metrics.retrieval import hits
from vidret.text import format_time

MOST = 100  # the K up to which recall is drawn
# The page may load nothing, wherever a name in it points.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(report: Report, out: Path) -> None:
    """Write a report as a page that can be passed on: no file beside it, nothing loaded from anywhere.

    Raises:
        VidretError: It cannot be written.
    """
    facts = report.to_dict()
    title = f"{facts['task']} on {name_data(facts['data'])}".capitalize()
    parts = [
        f"<h1>{say(title)}</h1>",
        *tell_facts(facts),
        *(
            section
            for name, table in make_tables(facts)
            for section in (f"<h2>{say(name[0].upper() + name[1:])}</h2>", as_table(table))
        ),
        *draw_plots(facts),
        *show_worst(facts, report.gallery.files),
        *tell_details(facts),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{say(title)}</title><style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(parts)
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"{page}\n</main></body></html>\n", "utf-8")
    except OSError as error:
        raise VidretError(f"{out}: cannot be written ({error.strerror})") from error


# Words and tables


def tell_facts(facts: Facts) -> Iterator[str]:
    """Say what the numbers are of, and what is missing from it."""
    data, model, settings = facts["data"], facts["model"], facts["settings"]
    rows = data["num_captions"] or data["num_queries"]
    what = "captions" if data["num_captions"] else "queries"
    told = {
        "data": f"{name_data(data)}: {rows} {what}, {data['num_found']} of {data['num_videos']} videos",
        "model": f"{model['name']}, segments {model['segments']}",
        "scored by": settings.get("rerank") or settings.get("by"),
        "time": ", ".join(f"{name} {format_time(seconds)}" for name, seconds in facts["seconds"].items()),
    }
    yield "<dl>" + "".join(f"<dt>{say(name)}</dt><dd>{say(value)}</dd>" for name, value in told.items()) + "</dl>"
    for line in (*tell_missing(data), *(f"Note: {note}" for note in data["notes"])):
        yield f'<p class="note">{say(line)}</p>'


def as_table(table: Table) -> str:
    """Make a table; columns of numbers stand to the right."""
    columns, lines = table
    words = [any(line[number] and not is_number(line[number]) for line in lines) for number in range(len(columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ("" if word else ' class="number"' for word in words)
        return "".join(f"<{tag}{kind}>{say(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{row(columns, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def is_number(text: str) -> bool:
    """Say whether a cell holds a number."""
    return text.replace(".", "", 1).isdigit()


def tell_details(facts: Facts) -> Iterator[str]:
    """Give what few people read: protocol, missing videos, files, versions."""
    rows = facts["results"].get("rows", [])
    protocols = [facts["settings"]["protocol"]] if "protocol" in facts["settings"] else []
    protocols += dict.fromkeys(row["protocol"] for row in rows)
    ties = [f"{row['direction']}, {row['label']}: {row['num_ties']} queries share their rank" for row in rows]
    data = facts["data"]
    told = {
        "Protocol": [*protocols, *ties],
        "Missing videos": data["missing"],
        "Unreadable videos": [f"{name}: {reason}" for name, reason in data["failed"].items()],
        "Annotation files": data["files"],
        "Model": [f"{name}: {value}" for name, value in facts["model"].items() if name != "card"],
        "Settings": [f"{name}: {value}" for name, value in facts["settings"].items() if name != "protocol"],
        "Versions": [f"{name} {version}" for name, version in facts["versions"].items()],
    }
    yield "<h2>Details</h2>"
    for name, lines in told.items():
        if lines:
            items = "".join(f"<li>{say(line)}</li>" for line in lines)
            yield f"<details><summary>{say(name)}</summary><ul>{items}</ul></details>"


# Curves


def draw_plots(facts: Facts) -> Iterator[str]:
    """Draw recall over K in both directions, or how much first spans overlap."""
    rows, results = facts["per_query"], facts["results"]
    if "video_ranks" in results:
        ranks = {"text to video": [row["rank"] for row in rows], "video to text": [*results["video_ranks"].values()]}
        most = max(2, min(MOST, results["rows"][0]["gallery_size"]))
        yield '<div class="plots">'
        yield as_figure(
            plot_recall({name: trace_recall(np.array(own), most) for name, own in ranks.items()}),
            "How many queries find their answer among the first K.",
        )
        yield "</div>"
    elif rows and "overlap" in rows[0]:
        overlaps = np.array([row["overlap"] for row in rows])
        yield '<div class="plots">'
        yield as_figure(
            plot_histogram(count_overlaps(overlaps)), "How much the first span of a query overlaps a true one."
        )
        yield as_figure(plot_thresholds(trace_overlaps(overlaps)), "How many first spans overlap by t or more.")
        yield "</div>"


def as_figure(picture: str, caption: str) -> str:
    """Put words below a picture."""
    return f"<figure>{picture}<figcaption>{say(caption)}</figcaption></figure>"


def trace_recall(ranks: np.ndarray, most: int) -> list[Point]:
    """Give R@K for each K up to ``most``."""
    return [(k, 100 * float(hits(ranks, k).mean())) for k in range(1, most + 1)]


def trace_overlaps(overlaps: np.ndarray) -> list[Point]:
    """Give R1@t at steps of 0.01, without 0, which all reach."""
    return [(t / 100, 100 * float((overlaps >= t / 100).mean())) for t in range(1, 101)]


def count_overlaps(overlaps: np.ndarray) -> list[int]:
    """Count overlaps by tenths; the last holds 1, too."""
    edges = [*(number / 10 for number in range(10)), np.inf]
    return [int(((overlaps >= low) & (overlaps < high)).sum()) for low, high in pairwise(edges)]
