"""Plots in SVG for HTML pages, styled by the page's CSS classes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from vidret.text import format_time

WIDTH, HEIGHT = 460, 296
LEFT, TOP, RIGHT, BOTTOM = 44, 32, 448, 254
Point = tuple[float, float]


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
