"""The worst queries of an evaluation in HTML, with images of the correct and the predicted answers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidret.evaluate.images import FrameImages
from vidret.evaluate.markup import escape_text
from vidret.evaluate.plots import plot_timeline
from vidret.text import format_time

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
