"""A report as a self-contained HTML page: tables, plots, and the worst queries with images."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from vidret.evaluate.markup import escape_text, write_document
from vidret.evaluate.plots import Point, plot_histogram, plot_recall, plot_thresholds
from vidret.evaluate.report import Report
from vidret.evaluate.tables import Facts, Table, describe_missing, make_tables, name_data
from vidret.evaluate.worst import render_worst
from vidret.metrics.retrieval import hits
from vidret.text import format_time

MAX_K = 100  # the largest K for which recall is plotted


def write_page(report: Report, out: Path) -> None:
    """Write a report as one HTML file that loads nothing.

    Raises:
        VidretError: The file cannot be written.
    """
    facts = report.to_dict()
    title = f"{facts['task']} on {name_data(facts['data'])}".capitalize()
    sections = [
        f"<h1>{escape_text(title)}</h1>",
        *render_summary(facts),
        *(
            element
            for name, table in make_tables(facts)
            for element in (f"<h2>{escape_text(name[0].upper() + name[1:])}</h2>", render_table(table))
        ),
        *render_plots(facts),
        *render_worst(facts, report.gallery.files),
        *render_details(facts),
    ]
    write_document(title, sections, out)


# Text and tables


def render_summary(facts: Facts) -> Iterator[str]:
    """Yield the data, model and duration of the evaluation, and notes on missing videos."""
    data, model, settings = facts["data"], facts["model"], facts["settings"]
    rows = data["num_captions"] or data["num_queries"]
    what = "captions" if data["num_captions"] else "queries"
    summary = {
        "data": f"{name_data(data)}: {rows} {what}, {data['num_found']} of {data['num_videos']} videos",
        "model": f"{model['name']}, segments {model['segments']}",
        "scored by": settings.get("rerank") or settings.get("by"),
        "time": ", ".join(f"{name} {format_time(seconds)}" for name, seconds in facts["seconds"].items()),
    }
    items = (f"<dt>{escape_text(name)}</dt><dd>{escape_text(value)}</dd>" for name, value in summary.items())
    yield f"<dl>{''.join(items)}</dl>"
    for line in (*describe_missing(data), *(f"Note: {note}" for note in data["notes"])):
        yield f'<p class="note">{escape_text(line)}</p>'


def render_table(table: Table) -> str:
    """Return a table in HTML; columns of numbers are aligned to the right."""
    columns, lines = table
    is_text = [any(line[index] and not is_number(line[index]) for line in lines) for index in range(len(columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ("" if text else ' class="number"' for text in is_text)
        return "".join(f"<{tag}{kind}>{escape_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{row(columns, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def is_number(text: str) -> bool:
    """Return whether a cell contains a number, which may have a sign and be a percentage."""
    return text.removesuffix(" %").lstrip("+-").replace(".", "", 1).isdigit()


def render_details(facts: Facts) -> Iterator[str]:
    """Yield the collapsed details: protocol, missing videos, files, model, settings and versions."""
    rows = facts["results"].get("rows", [])
    protocols = [facts["settings"]["protocol"]] if "protocol" in facts["settings"] else []
    protocols += dict.fromkeys(row["protocol"] for row in rows)
    ties = [f"{row['direction']}, {row['label']}: {row['num_ties']} tied queries" for row in rows]
    data = facts["data"]
    details = {
        "Protocol": [*protocols, *ties],
        "Missing videos": data["missing"],
        "Unreadable videos": [f"{name}: {reason}" for name, reason in data["failed"].items()],
        "Annotation files": data["files"],
        "Model": [f"{name}: {value}" for name, value in facts["model"].items() if name != "card"],
        "Settings": [f"{name}: {value}" for name, value in facts["settings"].items() if name != "protocol"],
        "Versions": [f"{name} {version}" for name, version in facts["versions"].items()],
    }
    yield "<h2>Details</h2>"
    for name, lines in details.items():
        if lines:
            items = "".join(f"<li>{escape_text(line)}</li>" for line in lines)
            yield f"<details><summary>{escape_text(name)}</summary><ul>{items}</ul></details>"


# Plots


def render_plots(facts: Facts) -> Iterator[str]:
    """Yield plots of recall over K in both directions, or of the overlaps of first spans."""
    rows, results = facts["per_query"], facts["results"]
    if "video_ranks" in results:
        ranks = {"text to video": [row["rank"] for row in rows], "video to text": [*results["video_ranks"].values()]}
        max_k = max(2, min(MAX_K, results["rows"][0]["gallery_size"]))
        yield '<div class="plots">'
        yield render_figure(
            plot_recall({name: trace_recall(np.array(values), max_k) for name, values in ranks.items()}),
            "Queries with the correct answer in the top K.",
        )
        yield "</div>"
    elif rows and "overlap" in rows[0]:
        overlaps = np.array([row["overlap"] for row in rows])
        yield '<div class="plots">'
        yield render_figure(plot_histogram(count_overlaps(overlaps)), "Overlap of first spans with true spans.")
        yield render_figure(plot_thresholds(trace_overlaps(overlaps)), "First spans with an overlap of t or more.")
        yield "</div>"


def render_figure(svg: str, caption: str) -> str:
    """Return a figure with a caption."""
    return f"<figure>{svg}<figcaption>{escape_text(caption)}</figcaption></figure>"


def trace_recall(ranks: np.ndarray, max_k: int) -> list[Point]:
    """Return the points (K, R@K) for each K up to ``max_k``."""
    return [(k, 100 * float(hits(ranks, k).mean())) for k in range(1, max_k + 1)]


def trace_overlaps(overlaps: np.ndarray) -> list[Point]:
    """Return the points (t, R1@t) in steps of 0.01, without t = 0, where R1 is always 100."""
    return [(t / 100, 100 * float((overlaps >= t / 100).mean())) for t in range(1, 101)]


def count_overlaps(overlaps: np.ndarray) -> list[int]:
    """Return the counts of ten equal bins of 0..1; the last bin includes 1."""
    edges = [*(index / 10 for index in range(10)), np.inf]
    return [int(((overlaps >= low) & (overlaps < high)).sum()) for low, high in pairwise(edges)]
