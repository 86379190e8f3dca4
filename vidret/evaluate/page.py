"""A report as a self-contained HTML page: tables, plots, and the worst queries with images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidret.evaluate.plots import Point, plot_histogram, plot_recall, plot_thresholds, plot_timeline
from vidret.evaluate.report import Report
from vidret.evaluate.tables import Facts, describe_missing, make_tables, name_data
from vidret.present.html import FrameImages, escape_text, render_table, write_document
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
    return [(k, 100 * float((ranks <= k).mean())) for k in range(1, max_k + 1)]


def trace_overlaps(overlaps: np.ndarray) -> list[Point]:
    """Return the points (t, R1@t) in steps of 0.01, without t = 0, where R1 is always 100."""
    return [(t / 100, 100 * float((overlaps >= t / 100).mean())) for t in range(1, 101)]


def count_overlaps(overlaps: np.ndarray) -> list[int]:
    """Return the counts of ten equal bins of 0..1; the last bin includes 1."""
    counts: list[int] = np.histogram(overlaps, [index / 10 for index in range(11)])[0].tolist()
    return counts


NUM_WORST, NUM_HITS = 12, 4
Row = Mapping[str, Any]


def render_worst(facts: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[str]:
    """Yield the worst queries, each with its correct and its predicted answers."""
    rows, images = facts["per_query"], FrameImages(files)
    if facts["task"] == "retrieval":
        gallery_size = facts["results"]["rows"][0]["gallery_size"]
        worst = sorted(rows, key=lambda row: (-row["rank"], row["score"] - row["top"][0][1]))[:NUM_WORST]
        articles = [render_ranked(row, gallery_size, images) for row in worst]
    elif facts["task"] == "queries":
        answerable = [row for row in rows if row["video"] is not None]
        worst = sorted(answerable, key=lambda row: (-_count_before(row), row["best_overlap"]))[:NUM_WORST]
        articles = [render_answered(row, images) for row in worst]
    elif rows and "overlap" in rows[0]:
        worst = sorted(rows, key=lambda row: (row["overlap"], -find_gap(row)))[:NUM_WORST]
        articles = [render_located(row, images) for row in worst]
    else:
        return
    if not articles:
        return
    yield f"<h2>The {len(articles)} worst queries</h2>"
    yield from articles


def render_ranked(row: Row, gallery_size: int, images: FrameImages) -> str:
    """Return a caption with its own video and the top videos."""
    own = images.render(
        row["video"], None, f"its video: {row['video']}", f"rank {row['rank']:g}, score {row['score']:.3f}", "right"
    )
    top = [
        images.render(
            video_id, None, f"{rank}. {video_id}", f"score {score:.3f}", "right" if video_id == row["video"] else ""
        )
        for rank, (video_id, score) in enumerate(row["top"][:NUM_HITS], start=1)
    ]
    return render_article(row, f"rank {row['rank']:g} of {gallery_size}", _group([own, *top]))


def render_located(row: Row, images: FrameImages) -> str:
    """Return a query with a timeline of its true spans and the predicted one, and frames of both."""
    true, found = row["true"], row["found"]
    end = row["duration"] or max([*(span[1] for span in true), *(found[1:2] if found else [])])
    shots = [
        images.render(
            row["video"], start + share * (stop - start), name, f"{format_time(start)} to {format_time(stop)}", kind
        )
        for name, kind, (start, stop) in (("true", "right", true[0]), *([("found", "", found[:2])] if found else []))
        for share in (0.25, 0.75)
    ]
    summary = f"overlap {row['overlap']:.2f}, in {row['video']}" + ("" if found else "; no span found")
    return render_article(row, summary, plot_timeline(end, true, found) + _group(shots))


def render_answered(row: Row, images: FrameImages) -> str:
    """Return a query with a true span of its video and the first moments of all videos."""

    def render(video_id: str, span: Sequence[float], title: str, kind: str) -> str:
        start, end = span
        line = f"{format_time(start)} to {format_time(end)}"
        return images.render(video_id, (start + end) / 2, title, line, kind)

    own = render(row["video"], row["true"][0], f"its video: {row['video']}", "right")
    top = [
        render(video_id, (start, end), f"{rank}. {video_id}", "right" if video_id == row["video"] else "")
        for rank, (video_id, start, end, _) in enumerate(row["moments"][:NUM_HITS], start=1)
    ]
    place = f"rank {row['rank']}" if row["rank"] else f"not among the first {len(row['top'])}"
    refused = "answered with 'nothing matches well'; " if row["nothing"] else ""
    summary = f"{row['kind']}: {refused}{place}, overlap {row['best_overlap']:.2f}"
    return render_article(row, summary, _group([own, *top]))


def _count_before(row: Row) -> float:
    """Return how many videos come before the correct one; infinity if it is not found."""
    return float("inf") if row["nothing"] or not row["rank"] else row["rank"] - 1


def render_article(row: Row, summary: str, content: str) -> str:
    """Return a query's text and summary above the content."""
    heading = f'<h3>{escape_text(row["text"])}</h3><p class="facts">{escape_text(summary)}</p>'
    return f"<article>{heading}{content}</article>"


def _group(shots: Sequence[str]) -> str:
    return f'<div class="shots">{"".join(shots)}</div>'


def find_gap(row: Row) -> float:
    """Return the seconds between the predicted span and the nearest true span; infinity if there is no prediction."""
    if row["found"] is None:
        return float("inf")
    start, end = row["found"][:2]
    return float(min(max(true[0] - end, start - true[1], 0) for true in row["true"]))
