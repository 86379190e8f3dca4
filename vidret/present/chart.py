"""A query's score over a whole video as a picture, with the moments that were chosen in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vidret.present.drawing import FAINT, INK, PAPER, Font, fit_text
from vidret.text import format_time, sanitize
from vidret.types import Moment

SIZE = (1200, 420)
LEFT, TOP, RIGHT, BOTTOM = 64, 156, 1164, 384  # the plot
TYPICAL = "typical of other queries"
DASH = 4  # pixels
LANE, NUM_LANES = 19, 5  # moments are named above the plot, in lanes
FINE = 4  # the plot is drawn this many times larger, then shrunk, for smooth lines
GRID = (226, 226, 224)
CURVE, CLOUD = (38, 84, 160), (178, 198, 228)
BAND, EDGE, WEAK_BAND, WEAK_EDGE = (253, 236, 194), (226, 160, 40), (236, 236, 234), (170, 170, 170)
DOT_GAP = 10  # pixels between frames from which each is shown as a dot
CROWD = 2  # frames a pixel: beyond, the curve is their mean over two pixels, in a cloud of their range
SMALLEST_RANGE = 0.02  # so that a flat curve looks flat
CLOCK_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Axes:
    """Where times of 0..``end`` and scores of ``low``..``high`` are in a plot of these sides, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    end: float
    low: float
    high: float

    def x(self, time: float) -> float:
        """Place a time; one outside the video is at its edge."""
        return self.left + (self.right - self.left) * min(max(time / self.end, 0.0), 1.0)

    def y(self, score: float) -> float:
        """Place a score."""
        return self.bottom - (self.bottom - self.top) * (score - self.low) / (self.high - self.low)


def draw_curve(
    times: Float[np.ndarray, " frame"],
    scores: Float[np.ndarray, " frame"],
    moments: Sequence[tuple[int, Moment]],
    out: str | Path,
    *,
    query: str,
    title: str,
    end: float,
    typical: float | None = None,
) -> None:
    """Write a chart as a picture, in the format that the name of ``out`` asks for.

    Args:
        times: When the frames are, in seconds, rising.
        scores: The query's score at each.
        moments: Those chosen in this video with their ranks, best first: bands, yellow, or grey where weak.
        out: Where the picture goes.
        query: The heading.
        title: The line below it, such as the video's name.
        end: Where the video ends, in seconds: the axis runs from 0 to it.
        typical: The score that few other queries reach: a line, which the scale always includes.

    Raises:
        OSError: ``out`` cannot be written.
        ValueError: A value breaks its rule, or no picture format has the suffix of ``out``.
    """
    if np.ndim(times) != 1 or np.shape(times) != np.shape(scores) or len(times) == 0:
        raise ValueError(f"times and scores must be of one length above 0, got {np.shape(times)}, {np.shape(scores)}")
    if not (np.isfinite(times).all() and np.isfinite(scores).all() and 0 < end < math.inf):
        raise ValueError(f"times, scores and end must be finite, and end above 0, got an end of {end}")
    low, high = find_range(scores if typical is None else np.append(scores, typical))
    axes = Axes(LEFT, TOP, RIGHT, BOTTOM, end, low, high)
    picture = Image.new("RGB", SIZE, PAPER)
    picture.paste(draw_plot(times, scores, [moment for _, moment in moments], axes, typical), (LEFT, TOP))
    pen = ImageDraw.Draw(picture)
    bold, small = ImageFont.load_default(17), ImageFont.load_default(13)
    pen.text((LEFT, 12), fit_text(pen, sanitize(query), bold, RIGHT - LEFT), INK, bold)
    pen.text((LEFT, 38), fit_text(pen, sanitize(title), small, RIGHT - LEFT), FAINT, small)
    step = score_step(low, high)
    for score in list_ticks(low, high, step):
        text = f"{score:.{max(0, -math.floor(math.log10(step)))}f}"
        pen.text((LEFT - 8, axes.y(score)), text, FAINT, small, anchor="rm")
    for time in list_ticks(0, end, clock_step(end)):
        pen.line((axes.x(time), BOTTOM, axes.x(time), BOTTOM + 4), FAINT)
        pen.text((axes.x(time), BOTTOM + 10), brief(time), FAINT, small, anchor="mt")
    label_moments(pen, moments, axes, small)
    if typical is not None:
        label_typical(pen, axes.y(typical), small)
    picture.save(out)


def draw_plot(
    times: Float[np.ndarray, " frame"],
    scores: Float[np.ndarray, " frame"],
    moments: Sequence[Moment],
    axes: Axes,
    typical: float | None,
) -> Image.Image:
    """Draw bands, grid, curve and the line of a typical score: the inside of the plot."""
    size = (RIGHT - LEFT, BOTTOM - TOP)
    fine = Axes(0, 0, FINE * size[0], FINE * size[1], axes.end, axes.low, axes.high)
    plot = Image.new("RGB", (FINE * size[0], FINE * size[1]), PAPER)
    pen = ImageDraw.Draw(plot)
    bands = [(fine.x(moment.start), fine.x(moment.end), moment.weak) for moment in moments]
    for start, end, weak in bands:
        pen.rectangle((start, 0, end, fine.bottom), WEAK_BAND if weak else BAND)
    for score in list_ticks(axes.low, axes.high, score_step(axes.low, axes.high)):
        pen.line((0, fine.y(score), fine.right, fine.y(score)), GRID, FINE)
    for start, end, weak in bands:
        for x in (start, end):
            pen.line((x, 0, x, fine.bottom), WEAK_EDGE if weak else EDGE, FINE)
    if typical is not None:
        for left in range(0, round(fine.right), 2 * DASH * FINE):
            pen.line((left, fine.y(typical), left + DASH * FINE, fine.y(typical)), FAINT, FINE)
    draw_scores(pen, np.array([fine.x(time) for time in times]), np.array([fine.y(score) for score in scores]), size[0])
    pen.line((0, fine.bottom - FINE // 2, fine.right, fine.bottom - FINE // 2), FAINT, FINE)
    return plot.resize(size, Image.Resampling.BOX)


def draw_scores(
    pen: ImageDraw.ImageDraw, x: Float[np.ndarray, " frame"], y: Float[np.ndarray, " frame"], width: int
) -> None:
    """Draw the curve through these places; dots where frames are few, a mean and a range where they are too many."""
    if len(x) > CROWD * width:
        groups = np.array_split(np.arange(len(x)), width // 2)
        lowest, highest = ([(x[group].mean(), pick(y[group])) for group in groups] for pick in (np.min, np.max))
        pen.polygon([*lowest, *highest[::-1]], CLOUD)
        x, y = (np.array([values[group].mean() for group in groups]) for values in (x, y))
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    pen.line(points, CURVE, 2 * FINE, joint="curve")
    if len(x) * DOT_GAP <= width:
        for point in points:
            pen.circle(point, 3 * FINE, CURVE)


def label_moments(pen: ImageDraw.ImageDraw, moments: Sequence[tuple[int, Moment]], axes: Axes, font: Font) -> None:
    """Write rank and times of each moment over a bar of its extent; the rank alone where there is no room for more."""
    taken: list[Box] = []
    for rank, moment in moments:
        start, end = axes.x(moment.start), axes.x(moment.end)
        similarity = "" if moment.similarity is None else f", {moment.similarity:.3f}"
        times = f"{brief(moment.start)} to {brief(moment.end)}{similarity}{', weak' if moment.weak else ''}"
        for text in (f"{rank}:  {times}", str(rank)):
            length = pen.textlength(text, font)
            left = min(max((start + end - length) / 2, LEFT), RIGHT - length)
            box = find_room(min(left, start), max(left + length, end), taken)
            if box is not None:
                taken.append(box)
                pen.text((left, box[3] - 6), text, INK, font, anchor="ls")
                pen.rectangle((start, box[3] - 3, max(end, start + 1), box[3] - 1), WEAK_EDGE if moment.weak else EDGE)
                break


def find_room(left: float, right: float, taken: Sequence[Box]) -> Box | None:
    """Find the lowest lane in which nothing else is between two places."""
    for lane in range(NUM_LANES):
        bottom = TOP - 2 - lane * LANE
        box = (left - 4, bottom - LANE, right + 4, bottom)
        if not any(box[0] < other[2] and other[0] < box[2] and bottom == other[3] for other in taken):
            return box
    return None


def label_typical(pen: ImageDraw.ImageDraw, y: float, font: Font) -> None:
    """Name the line of a typical score at its right end: above it, or below where that is too near the top."""
    above = y - TOP > LANE
    pen.text((RIGHT - 6, y - 3 if above else y + 3), TYPICAL, FAINT, font, anchor="rs" if above else "rt")


def brief(time: float) -> str:
    """Write a time without tenths where there are none."""
    return format_time(time).removesuffix(".0")


def find_range(scores: Float[np.ndarray, " frame"]) -> tuple[float, float]:
    """Give the scores that the plot reaches from and to: a little beyond the curve."""
    low, high = float(np.min(scores)), float(np.max(scores))
    spread = max(high - low, SMALLEST_RANGE)
    middle = (low + high) / 2
    return middle - 0.58 * spread, middle + 0.58 * spread


def score_step(low: float, high: float) -> float:
    """Give the smallest round step, 1, 2 or 5 of a power of ten, that divides a range into at most five."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * 5 >= (high - low) * (1 - 1e-9))


def clock_step(end: float) -> float:
    """Give the smallest step on a clock that divides a video into at most twelve."""
    days = math.ceil(end / 12 / CLOCK_STEPS[-1])
    return next((step for step in CLOCK_STEPS if 12 * step >= end), days * CLOCK_STEPS[-1])


def list_ticks(low: float, high: float, step: float) -> list[float]:
    """List the multiples of a step from low to high."""
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
