"""A report as a self-contained HTML page: tables, plots in SVG, and the worst queries with images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidret.evaluate.report import Report
from vidret.evaluate.tables import Facts, describe_missing, make_tables, name_data
from vidret.present.html import FrameImages, escape_text, render_facts, render_table, write_document
from vidret.text import format_count, format_time

MAX_K = 100  # the largest K for which recall is plotted
WIDTH, HEIGHT = 460, 296  # of an SVG plot, in pixels
LEFT, TOP, RIGHT, BOTTOM = 44, 32, 448, 254  # of the plot area
Point = tuple[float, float]


def write_page(report: Report, out: Path) -> None:
    """Write a report as one self-contained HTML file.

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
    yield render_facts(summary.items())
    for line in (*describe_missing(data), *(f"Note: {note}" for note in data["notes"])):
        yield f'<p class="note">{escape_text(line)}</p>'


def render_details(facts: Facts) -> Iterator[str]:
    """Yield the collapsed details: protocol, missing videos, files, model, settings and versions."""
    rows = facts["results"].get("rows", [])
    protocols = [facts["settings"]["protocol"]] if "protocol" in facts["settings"] else []
    protocols += dict.fromkeys(row["protocol"] for row in rows)
    ties = [f"{row['direction']}, {row['label']}: {format_count(row['num_ties'], 'tied query')}" for row in rows]
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
        wrong = [row for row in rows if row["video"] is not None or not row["nothing"]]
        worst = sorted(wrong, key=_rate_answer)[:NUM_WORST]
        articles = [render_answered(row, images) for row in worst]
    elif rows and "overlap" in rows[0]:
        worst = sorted(rows, key=lambda row: (row["overlap"], -find_gap(row)))[:NUM_WORST]
        articles = [render_located(row, images) for row in worst]
    else:
        return
    if not articles:
        return
    yield f"<h2>The {format_count(len(articles), 'worst query')}</h2>"
    yield from articles


def render_ranked(row: Row, gallery_size: int, images: FrameImages) -> str:
    """Return a caption with its own video and the top videos."""
    true_video = images.render(
        row["video"], None, f"its video: {row['video']}", f"rank {row['rank']:g}, score {row['score']:.3f}", "right"
    )
    top = [
        images.render(
            video_id, None, f"{rank}. {video_id}", f"score {score:.3f}", "right" if video_id == row["video"] else ""
        )
        for rank, (video_id, score) in enumerate(row["top"][:NUM_HITS], start=1)
    ]
    return render_article(row, f"rank {row['rank']:g} of {gallery_size}", _group([true_video, *top]))


def render_located(row: Row, images: FrameImages) -> str:
    """Return a query with a timeline of its true spans and the predicted one, and frames of both."""
    true, found = row["true"], row["found"]
    # Videos may be longer than annotated.
    end = max([row["duration"] or 0, *(span[1] for span in true), *(found[1:2] if found else [])])
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
    """Return a query with a true span of its video, if it has one, and the first moments of all videos."""

    def render(video_id: str, span: Sequence[float], title: str, kind: str) -> str:
        start, end = span
        line = f"{format_time(start)} to {format_time(end)}"
        return images.render(video_id, (start + end) / 2, title, line, kind)

    top = [
        render(video_id, (start, end), f"{rank}. {video_id}", "right" if video_id == row["video"] else "")
        for rank, (video_id, start, end, _) in enumerate(row["moments"][:NUM_HITS], start=1)
    ]
    if row["video"] is None:
        return render_article(row, f"{row['kind']}: answered, but no video is correct", _group(top))
    true_moment = render(row["video"], row["true"][0], f"its video: {row['video']}", "right")
    rank_text = f"rank {row['rank']}" if row["rank"] else f"not among the first {len(row['top'])}"
    refused = "answered with 'nothing matches well'; " if row["nothing"] else ""
    summary = f"{row['kind']}: {refused}{rank_text}, overlap {row['best_overlap']:.2f}"
    return render_article(row, summary, _group([true_moment, *top]))


def _rate_answer(row: Row) -> tuple[float, float, float]:
    """Return a key that sorts answers from the worst: missed or absent videos come first, those with high scores."""
    missed = row["video"] is None or row["nothing"] or not row["rank"]
    return -math.inf if missed else -row["rank"], row.get("best_overlap", 0.0), -(row["score"] or 0.0)


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


class Scale(NamedTuple):
    """A mapping from values (``low`` to ``high``) to pixels (``start`` to ``end``), optionally logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value in pixels."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (at - low) / (high - low) if high > low else 0.0
        return round(self.start + (self.end - self.start) * share, 2)


def plot_recall(curves: Mapping[str, Sequence[Point]]) -> str:
    """Return a plot of R@K in percent over K, with one curve per name."""
    max_k = max(x for points in curves.values() for x, _ in points)
    x_scale, y_scale = Scale(1, max_k, LEFT, RIGHT, log=True), Scale(0, 100, BOTTOM, TOP)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= max_k]
    elements = [*_draw_axes(x_scale, ticks, y_scale, (0, 25, 50, 75, 100), "K", "R@K, percent")]
    elements += _draw_curves(curves, x_scale, y_scale)
    return _frame(elements, f"recall at K: {', '.join(curves)}")


def plot_thresholds(points: Sequence[Point]) -> str:
    """Return a plot of R1@t in percent over overlap thresholds t of 0..1."""
    x_scale, y_scale = Scale(0, 1, LEFT, RIGHT), Scale(0, 100, BOTTOM, TOP)
    x_ticks, y_ticks = (0, 0.3, 0.5, 0.7, 1), (0, 25, 50, 75, 100)
    elements = [*_draw_axes(x_scale, x_ticks, y_scale, y_ticks, "overlap t", "R1@t, percent")]
    elements += _draw_curves({"": points}, x_scale, y_scale)
    return _frame(elements, "queries whose first span reaches an overlap threshold")


def plot_histogram(counts: Sequence[int]) -> str:
    """Return a histogram of overlaps, with counts for equal bins of 0..1."""
    max_count, num_bins = max(1, *counts), len(counts)
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in steps if 5 * step >= max_count)
    x_scale, y_scale = Scale(0, 1, LEFT, RIGHT), Scale(0, max_count, BOTTOM, TOP + 14)
    x_ticks, y_ticks = (0, 0.2, 0.4, 0.6, 0.8, 1), range(0, max_count + 1, step)
    elements = [*_draw_axes(x_scale, x_ticks, y_scale, y_ticks, "overlap", "queries")]
    for index, count in enumerate(counts):
        low, high = index / num_bins, (index + 1) / num_bins
        left, right, top = x_scale(low) + 1.5, x_scale(high) - 1.5, y_scale(count)
        elements.append(
            f'<rect class="bar" x="{left:g}" y="{top:g}" width="{right - left:g}" height="{BOTTOM - top:g}">'
            f"<title>{low:g} to {high:g}: {count}</title></rect>"
        )
        if count:
            elements.append(f'<text x="{(left + right) / 2:g}" y="{top - 4:g}" text-anchor="middle">{count}</text>')
    return _frame(elements, "histogram of overlaps")


def plot_timeline(end: float, true: Sequence[Sequence[float]], found: Sequence[float] | None) -> str:
    """Return a timeline in seconds with the true spans above the predicted span, up to the end of the video."""
    width, left, right = 560, 52, 540
    x_scale = Scale(0, end, left, right)
    step = next((step_s for step_s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if end / step_s <= 6), 1800)
    elements = []
    for tick in range(0, int(end / step + 1e-6) * step + 1, step):
        x = x_scale(tick)
        elements.append(f'<line class="grid" x1="{x:g}" y1="4" x2="{x:g}" y2="52"/>')
        elements.append(f'<text x="{x:g}" y="68" text-anchor="middle">{format_time(tick).removesuffix(".0")}</text>')
    for y, name, spans in ((8, "true", true), (32, "found", [found] if found else [])):
        elements.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        elements.append(f'<rect class="lane" x="{left}" y="{y}" width="{right - left}" height="16" rx="3"/>')
        for span in spans:
            x, x_end = x_scale(max(span[0], 0)), x_scale(min(span[1], end))
            elements.append(
                f'<rect class="{name}" x="{x:g}" y="{y}" width="{max(x_end - x, 2):g}" height="16" rx="3">'
                f"<title>{format_time(span[0])} to {format_time(span[1])}</title></rect>"
            )
    return _frame(elements, "true spans and the first predicted span", width, 74, "timeline")


def _draw_axes(
    x_scale: Scale, x_ticks: Sequence[float], y_scale: Scale, y_ticks: Sequence[float], x_name: str, y_name: str
) -> Iterator[str]:
    for tick in y_ticks:
        y = y_scale(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:g}" x2="{RIGHT}" y2="{y:g}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
    for tick in x_ticks:
        x = x_scale(tick)
        yield f'<line class="tick" x1="{x:g}" y1="{BOTTOM}" x2="{x:g}" y2="{BOTTOM + 5}"/>'
        yield f'<text x="{x:g}" y="{BOTTOM + 19}" text-anchor="middle">{tick:g}</text>'
    yield f'<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/>'
    yield f'<text class="name" x="{RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>'
    yield f'<text class="name" x="0" y="12">{escape(y_name)}</text>'


def _draw_curves(curves: Mapping[str, Sequence[Point]], x_scale: Scale, y_scale: Scale) -> Iterator[str]:
    for index, (name, points) in enumerate(curves.items()):
        coordinates = " ".join(f"{x_scale(x):g},{y_scale(y):g}" for x, y in points)
        yield f'<polyline class="curve curve-{index}" points="{coordinates}"/>'
        if name:
            y = BOTTOM - 14 - 20 * (len(curves) - 1 - index)
            ends = f'x1="{RIGHT - 128}" y1="{y - 4}" x2="{RIGHT - 104}" y2="{y - 4}"'
            yield f'<line class="curve curve-{index}" {ends}/>'
            yield f'<text x="{RIGHT - 98}" y="{y}">{escape(name)}</text>'


def _frame(elements: Sequence[str], title: str, width: int = WIDTH, height: int = HEIGHT, kind: str = "plot") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(elements)}</svg>"
    )
