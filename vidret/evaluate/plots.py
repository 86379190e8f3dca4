"""Plots as SVG text, for a page: their colours and fonts are the page's, by class."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from vidret.text import format_time

WIDTH, HEIGHT = 460, 296
LEFT, TOP, RIGHT, BOTTOM = 44, 32, 448, 254
Point = tuple[float, float]


class Scale(NamedTuple):
    """Where values of ``low`` to ``high`` are, from ``start`` to ``end`` in the picture; by their logarithm if so."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Place a value."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (at - low) / (high - low) if high > low else 0.0
        return round(self.start + (self.end - self.start) * share, 2)


def plot_recall(curves: Mapping[str, Sequence[Point]]) -> str:
    """Plot per cent (0..100) over K (1 and more) for each name: how many are found among the first K."""
    most = max(x for points in curves.values() for x, _ in points)
    across, up = Scale(1, most, LEFT, RIGHT, log=True), Scale(0, 100, BOTTOM, TOP)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= most]
    parts = [*_draw_axes(across, ticks, up, (0, 25, 50, 75, 100), "K", "R@K, per cent")]
    parts += _draw_curves(curves, across, up)
    return _frame(parts, f"recall at K of {' and of '.join(curves)}")


def plot_thresholds(points: Sequence[Point]) -> str:
    """Plot per cent (0..100) over thresholds of 0..1: how many first spans overlap by that much."""
    across, up = Scale(0, 1, LEFT, RIGHT), Scale(0, 100, BOTTOM, TOP)
    parts = [*_draw_axes(across, (0, 0.3, 0.5, 0.7, 1), up, (0, 25, 50, 75, 100), "overlap t", "R1@t, per cent")]
    parts += _draw_curves({"": points}, across, up)
    return _frame(parts, "queries whose first span overlaps a true one by a threshold or more")


def plot_histogram(counts: Sequence[int]) -> str:
    """Plot how many queries fall into each of equal parts of 0..1."""
    most = max(1, *counts)
    step = next(each for power in range(9) for each in (10**power, 2 * 10**power, 5 * 10**power) if 5 * each >= most)
    across, up = Scale(0, 1, LEFT, RIGHT), Scale(0, most, BOTTOM, TOP + 14)
    parts = [*_draw_axes(across, (0, 0.2, 0.4, 0.6, 0.8, 1), up, range(0, most + 1, step), "overlap", "queries")]
    for number, count in enumerate(counts):
        left, right, top = across(number / len(counts)) + 1.5, across((number + 1) / len(counts)) - 1.5, up(count)
        parts.append(
            f'<rect class="bar" x="{left:g}" y="{top:g}" width="{right - left:g}" height="{BOTTOM - top:g}">'
            f"<title>{number / len(counts):g} to {(number + 1) / len(counts):g}: {count}</title></rect>"
        )
        if count:
            parts.append(f'<text x="{(left + right) / 2:g}" y="{top - 4:g}" text-anchor="middle">{count}</text>')
    return _frame(parts, "how many queries overlap by how much")


def plot_timeline(end: float, true: Sequence[Sequence[float]], found: Sequence[float] | None) -> str:
    """Plot true windows above the span found, in seconds, from 0 to the end of the video."""
    width, left, right = 560, 52, 540
    across = Scale(0, end, left, right)
    step = next((each for each in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if end / each <= 6), 1800)
    parts = []
    for number in range(int(end / step + 1e-6) + 1):
        x = across(number * step)
        parts.append(f'<line class="grid" x1="{x:g}" y1="4" x2="{x:g}" y2="52"/>')
        parts.append(
            f'<text x="{x:g}" y="68" text-anchor="middle">{format_time(number * step).removesuffix(".0")}</text>'
        )
    for y, name, kind, spans in ((8, "true", "true", true), (32, "found", "found", [found] if found else [])):
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        parts.append(f'<rect class="lane" x="{left}" y="{y}" width="{right - left}" height="16" rx="3"/>')
        for span in spans:
            x, far = across(max(span[0], 0)), across(min(span[1], end))
            parts.append(
                f'<rect class="{kind}" x="{x:g}" y="{y}" width="{max(far - x, 2):g}" height="16" rx="3">'
                f"<title>{format_time(span[0])} to {format_time(span[1])}</title></rect>"
            )
    return _frame(parts, "true windows and the span found", width, 74, "timeline")


def _draw_axes(
    across: Scale, x_ticks: Sequence[float], up: Scale, y_ticks: Sequence[float], x_name: str, y_name: str
) -> Iterator[str]:
    for tick in y_ticks:
        y = up(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:g}" x2="{RIGHT}" y2="{y:g}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
    for tick in x_ticks:
        x = across(tick)
        yield f'<line class="tick" x1="{x:g}" y1="{BOTTOM}" x2="{x:g}" y2="{BOTTOM + 5}"/>'
        yield f'<text x="{x:g}" y="{BOTTOM + 19}" text-anchor="middle">{tick:g}</text>'
    yield f'<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/>'
    yield f'<text class="name" x="{RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>'
    yield f'<text class="name" x="0" y="12">{escape(y_name)}</text>'


def _draw_curves(curves: Mapping[str, Sequence[Point]], across: Scale, up: Scale) -> Iterator[str]:
    for number, (name, points) in enumerate(curves.items()):
        places = " ".join(f"{across(x):g},{up(y):g}" for x, y in points)
        yield f'<polyline class="curve curve-{number}" points="{places}"/>'
        if name:
            y = BOTTOM - 14 - 20 * (len(curves) - 1 - number)
            ends = f'x1="{RIGHT - 128}" y1="{y - 4}" x2="{RIGHT - 104}" y2="{y - 4}"'
            yield f'<line class="curve curve-{number}" {ends}/>'
            yield f'<text x="{RIGHT - 98}" y="{y}">{escape(name)}</text>'


def _frame(parts: Sequence[str], title: str, width: int = WIDTH, height: int = HEIGHT, kind: str = "plot") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
