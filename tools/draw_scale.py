"""Draw what ``bench_scale.py`` measured of stores: each number over the size, a curve a kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANELS = (
    ("build_seconds", "vectors built, seconds"),
    ("p50_ms_at_10", "search for 10, median ms"),
    ("p50_ms_at_200", "search for 200, median ms"),
    ("recall_at_10_texts", "recall at 10 of texts"),
    ("ram_mb", "RAM of a searching process, MB"),
    ("disk_mb", "disk without features, MB"),
    ("open_ms", "open to first answer, ms"),
    ("p99_ms_at_10", "search for 10, 99th percentile ms"),
)
COLOURS = {
    "flat": (110, 110, 120),
    "ivf": (38, 84, 160),
    "ivf-rabitq2": (226, 130, 30),
    "ivf-rabitq1": (190, 50, 60),
    "milvus": (40, 140, 90),
}
INK, FAINT, PAPER, GRID = (24, 24, 28), (110, 110, 120), (250, 250, 248), (226, 226, 224)
WIDTH, HEIGHT, COLUMNS, MARGIN, HEAD, FINE = 360, 280, 4, 46, 64, 3


def draw_curves(cells: dict[str, dict[str, Any]], out: Path) -> None:
    """Draw each number over the size, both by their logarithms; recall as it is."""
    size = (COLUMNS * WIDTH, HEAD + -(-len(PANELS) // COLUMNS) * HEIGHT)
    picture = Image.new("RGB", (FINE * size[0], FINE * size[1]), PAPER)
    for number, (key, _) in enumerate(PANELS):
        draw_panel(ImageDraw.Draw(picture), cells, key, place(number))
    picture = picture.resize(size, Image.Resampling.BOX)
    pen, small, bold = ImageDraw.Draw(picture), ImageFont.load_default(12), ImageFont.load_default(16)
    pen.text((MARGIN, 10), "What a store takes as it grows", INK, bold)
    left = float(MARGIN)
    for kind in kinds(cells):
        pen.line((left, 46, left + 18, 46), COLOURS[kind], 3)
        pen.text((left + 24, 46), kind, INK, small, anchor="lm")
        left += 44 + pen.textlength(kind, small)
    for number, (key, title) in enumerate(PANELS):
        box = place(number)
        pen.text((box[0], box[1] - 20), title, INK, small)
        across, up = scales(cells, key, box)
        for value in across.ticks():
            pen.text((across(value), box[3] + 6), brief(value), FAINT, small, anchor="mt")
        for value in up.ticks():
            pen.text((box[0] - 6, up(value)), brief(value), FAINT, small, anchor="rm")
    picture.save(out)


def draw_panel(pen: ImageDraw.ImageDraw, cells: dict[str, dict[str, Any]], key: str, box: tuple[int, ...]) -> None:
    """Draw the grid and the curves of one number, ``FINE`` times as large."""
    across, up = scales(cells, key, tuple(FINE * side for side in box))
    for value in across.ticks():
        pen.line((across(value), FINE * box[1], across(value), FINE * box[3]), GRID, FINE)
    for value in up.ticks():
        pen.line((FINE * box[0], up(value), FINE * box[2], up(value)), GRID, FINE)
    for kind in kinds(cells):
        named = {int(name.split("/")[0]): cell for name, cell in cells.items() if name.split("/")[1] == kind}
        points, colour = [(across(size), up(named[size][key])) for size in sorted(named)], COLOURS[kind]
        pen.line(points, colour, 2 * FINE, joint="curve")
        for point in points:
            pen.circle(point, 3 * FINE, colour)


def kinds(cells: dict[str, dict[str, Any]]) -> list[str]:
    """List the kinds that were measured, always in one order."""
    measured = {name.split("/")[1] for name in cells}
    return [kind for kind in COLOURS if kind in measured]


@dataclass(frozen=True)
class Scale:
    """Where values are between two places, by their logarithm or, of recall, as they are."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        """Place a value; one beyond an end is at it."""
        value = min(max(value, self.low), self.high)
        share = np.log(value / self.low) / np.log(self.high / self.low) if self.log else (value - self.low)
        return float(self.start + (self.end - self.start) * (share if self.log else share / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """List the values that have a line."""
        if not self.log:
            return [float(each) for each in np.linspace(self.low, self.high, 6)]
        powers = range(round(np.log10(self.low)), round(np.log10(self.high)) + 1)
        return [10.0**power for power in powers]


def scales(cells: dict[str, dict[str, Any]], key: str, box: tuple[int, ...]) -> tuple[Scale, Scale]:
    """Make the scales of a panel."""
    sizes = [int(name.split("/")[0]) for name in cells]
    across = Scale(*decades(sizes), box[0], box[2], log=True)
    values = [cell[key] for cell in cells.values()]
    if key.startswith("recall"):
        return across, Scale(np.floor(10 * min(*values, 0.9)) / 10, 1.0, box[3], box[1], log=False)
    return across, Scale(*decades([max(value, 0.01) for value in values]), box[3], box[1], log=True)


def decades(values: list[int] | list[float]) -> tuple[float, float]:
    """Give the powers of ten around some values."""
    low, high = np.floor(np.log10(min(values)) + 1e-9), np.ceil(np.log10(max(values)) - 1e-9)
    return float(10.0**low), float(10.0 ** max(high, low + 1))


def place(number: int) -> tuple[int, ...]:
    """Give a panel's box: left, top, right, bottom."""
    left, top = number % COLUMNS * WIDTH + MARGIN, HEAD + number // COLUMNS * HEIGHT + 26
    return left, top, left + WIDTH - MARGIN - 20, top + HEIGHT - 70


def brief(value: float) -> str:
    """Write a tick's value shortly."""
    for unit_value, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit_value:
            return f"{value / unit_value:g}{name}"
    return f"{value:g}"
