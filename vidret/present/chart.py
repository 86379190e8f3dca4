"""A chart of the score of a query over the length of a video, with the located moments marked."""

import functools
import io
import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vidret.text import format_time, sanitize
from vidret.types import SOURCE_LABELS, Curve, CurveText, Moment, TextSource

INK, FAINT, PAPER = (24, 24, 28), (110, 110, 120), (250, 250, 248)
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
# Pillow's own font, which has Latin letters only, and system fonts for other scripts.
FONTS = ("", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
MISSING = "\U0010ffff"  # drawn as the placeholder of a missing letter


@functools.cache
def load_font(name: str, size: float) -> Font | None:
    """Load a system font by its file name, or Pillow's own for an empty name; return None if there is no such font."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def has_letter(name: str, letter: str) -> bool:
    """Return whether a font exists and has a letter."""
    font = load_font(name, 13)
    return font is not None and bytes(font.getmask(letter)) != bytes(font.getmask(MISSING))


def choose_font(text: str, size: float) -> Font:
    """Return the font with the most letters of a text, Pillow's own if it has all."""
    letters = {letter for letter in text if not letter.isspace()}  # layout fails for a lone line feed
    name = max(FONTS, key=lambda name: sum(has_letter(name, letter) for letter in letters)) if letters else ""
    font = load_font(name, size)
    assert font is not None, "Pillow has a font"
    return font


def fit_text(pen: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """Return a text that is at most ``width`` pixels wide; one that is cut ends with "..."."""
    if pen.textlength(text, font) <= width:
        return text
    kept = bisect(range(1, len(text) + 1), False, key=lambda kept: pen.textlength(f"{text[:kept]}...", font) > width)
    return f"{text[:kept]}..." if kept else ""


def write_line(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    ink: tuple[int, int, int],
    width: float,
) -> None:
    """Write the printable part of a text, cut to ``width`` pixels."""
    font = choose_font(text := sanitize(text), size)
    pen.text(place, fit_text(pen, text, font, width), ink, font)


SIZE = (1200, 420)
LEFT, TOP, RIGHT, BOTTOM = 64, 156, 1164, 384  # the plot
TYPICAL = "typical of other queries"
DASH = 4  # pixels
LANE, NUM_LANES = 19, 5  # moments are labelled above the plot, in lanes
OVERSAMPLING = 4  # the plot is drawn this many times larger, then reduced, for smooth lines
GRID = (226, 226, 224)
CURVE, RANGE_BAND = (38, 84, 160), (178, 198, 228)
WORDS: Mapping[TextSource, tuple[int, int, int]] = {
    "speech": (154, 74, 6),
    "screen": (101, 41, 196),
    "subtitles": (22, 101, 52),
    "generated": (163, 22, 79),
    "sound": (107, 93, 0),
}
OTHER_WORDS = (82, 82, 82)  # for channels without their own colour
ROOM_FOR_WORDS = 0.4  # share of the range of scores, above the curve, for words with higher scores
BAND, EDGE, WEAK_BAND, WEAK_EDGE = (253, 236, 194), (226, 160, 40), (236, 236, 234), (170, 170, 170)
DOT_GAP = 10  # frames at least this many pixels apart are drawn as dots
MAX_FRAMES_PER_PIXEL = 2  # beyond this, the curve is the mean per pixel in a band of the range
MIN_RANGE = 0.02  # so that a flat curve looks flat
TIME_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Axes:
    """The mapping from times in 0..``end`` and scores in ``low``..``high`` to the pixels of a plot."""

    left: float
    top: float
    right: float
    bottom: float
    end: float
    low: float
    high: float

    def x(self, time: float) -> float:
        """Return the pixel column of a time; times outside the video are clipped to its edges."""
        return self.left + (self.right - self.left) * min(max(time / self.end, 0.0), 1.0)

    def y(self, score: float) -> float:
        """Return the pixel row of a score."""
        return self.bottom - (self.bottom - self.top) * (score - self.low) / (self.high - self.low)


def draw_curve(curve: Curve, moments: Sequence[tuple[int, Moment]], out: Path, *, query: str, title: str) -> None:
    """Write a chart as an image, in the format of the suffix of ``out``, with the query and a title above it.

    The moments of the video, with their ranks, are bands, grey if they are unlikely. The typical score is a dashed line
    in the range of the scores. Words are columns with the name of their channel; those that score far above all frames
    end at the top.

    Raises:
        OSError: ``out`` cannot be written.
    """
    low, high = score_range(curve.scores if curve.typical is None else np.append(curve.scores, curve.typical))
    if any(text.score > high for text in curve.texts):
        high += ROOM_FOR_WORDS * (high - low)
    axes = Axes(LEFT, TOP, RIGHT, BOTTOM, curve.end, low, high)
    image = Image.new("RGB", SIZE, PAPER)
    image.paste(draw_plot(curve, [moment for _, moment in moments], axes), (LEFT, TOP))
    pen = ImageDraw.Draw(image)
    small = ImageFont.load_default(13)
    write_line(pen, (LEFT, 12), query, 17, INK, RIGHT - LEFT)
    write_line(pen, (LEFT, 38), title, 13, FAINT, RIGHT - LEFT)
    label_axes(pen, axes, small)
    label_texts(pen, curve.texts, axes)
    label_moments(pen, moments, axes, small)
    if curve.typical is not None:  # at the right end of its line: above it, or below it near the top of the plot
        y, is_above = axes.y(curve.typical), axes.y(curve.typical) - TOP > LANE
        position = (RIGHT - 6, y - 3 if is_above else y + 3)
        pen.text(position, TYPICAL, FAINT, small, anchor="rs" if is_above else "rt")
    save_image(image, out)


def save_image(image: Image.Image, out: str | Path) -> None:
    """Write an image in the format of the suffix. Pillow itself misses a full disk on which part of a JPEG fits."""
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[Path(out).suffix.lower()])
    Path(out).write_bytes(content.getvalue())


def draw_plot(curve: Curve, moments: Sequence[Moment], axes: Axes) -> Image.Image:
    """Draw the inside of the plot: bands, grid, words, curve and the line of the typical score."""
    size = (RIGHT - LEFT, BOTTOM - TOP)
    fine = Axes(0, 0, OVERSAMPLING * size[0], OVERSAMPLING * size[1], axes.end, axes.low, axes.high)
    plot = Image.new("RGB", (OVERSAMPLING * size[0], OVERSAMPLING * size[1]), PAPER)
    pen = ImageDraw.Draw(plot)
    bands = [(fine.x(moment.start), fine.x(moment.end), moment.weak) for moment in moments]
    for start, end, weak in bands:
        pen.rectangle((start, 0, end, fine.bottom), WEAK_BAND if weak else BAND)
    for score in list_ticks(axes.low, axes.high, score_step(axes.low, axes.high)):
        pen.line((0, fine.y(score), fine.right, fine.y(score)), GRID, OVERSAMPLING)
    for start, end, weak in bands:
        for x in (start, end):
            pen.line((x, 0, x, fine.bottom), WEAK_EDGE if weak else EDGE, OVERSAMPLING)
    for text in curve.texts:
        top = clip_score(text.score, fine)
        colour = WORDS.get(text.source, OTHER_WORDS)
        pen.rectangle((fine.x(text.start), top, fine.x(text.end), fine.bottom), tint(colour))
        pen.line((fine.x(text.start), top, fine.x(text.end), top), colour, 2 * OVERSAMPLING)
    if curve.typical is not None:
        y = fine.y(curve.typical)
        for left in range(0, round(fine.right), 2 * DASH * OVERSAMPLING):
            pen.line((left, y, left + DASH * OVERSAMPLING, y), FAINT, OVERSAMPLING)
    xs, ys = [fine.x(time) for time in curve.times], [fine.y(score) for score in curve.scores]
    draw_scores(pen, np.array(xs), np.array(ys), size[0])
    pen.line((0, fine.bottom - OVERSAMPLING // 2, fine.right, fine.bottom - OVERSAMPLING // 2), FAINT, OVERSAMPLING)
    return plot.resize(size, Image.Resampling.BOX)


def draw_scores(
    pen: ImageDraw.ImageDraw, x: Float[np.ndarray, " frame"], y: Float[np.ndarray, " frame"], width: int
) -> None:
    """Draw the curve through points in pixels: with dots if they are sparse, as mean and range if they are dense."""
    if len(x) > MAX_FRAMES_PER_PIXEL * width:
        groups = np.array_split(np.arange(len(x)), width // 2)
        lowest, highest = ([(x[group].mean(), pick(y[group])) for group in groups] for pick in (np.min, np.max))
        pen.polygon([*lowest, *highest[::-1]], RANGE_BAND)
        x, y = (np.array([values[group].mean() for group in groups]) for values in (x, y))
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    pen.line(points, CURVE, 2 * OVERSAMPLING, joint="curve")
    if len(x) * DOT_GAP <= width:
        for point in points:
            pen.circle(point, 3 * OVERSAMPLING, CURVE)


def label_axes(pen: ImageDraw.ImageDraw, axes: Axes, font: Font) -> None:
    """Write the scores beside the plot and the times below it."""
    step = score_step(axes.low, axes.high)
    for score in list_ticks(axes.low, axes.high, step):
        text = f"{score:.{max(0, -math.floor(math.log10(step)))}f}"
        pen.text((LEFT - 8, axes.y(score)), text, FAINT, font, anchor="rm")
    for time in list_ticks(0, axes.end, time_step(axes.end)):
        pen.line((axes.x(time), BOTTOM, axes.x(time), BOTTOM + 4), FAINT)
        pen.text((axes.x(time), BOTTOM + 10), format_tick(time), FAINT, font, anchor="mt")


def label_moments(pen: ImageDraw.ImageDraw, moments: Sequence[tuple[int, Moment]], axes: Axes, font: Font) -> None:
    """Label each moment with its rank and times above a bar of its length, or with its rank only if space is short."""
    taken: list[Box] = []
    for rank, moment in moments:
        start, end = axes.x(moment.start), axes.x(moment.end)
        similarity = "" if moment.similarity is None else f", {moment.similarity:.3f}"
        times = (
            f"{format_tick(moment.start)} to {format_tick(moment.end)}{similarity}{', unlikely' if moment.weak else ''}"
        )
        for text in (f"{rank}:  {times}", str(rank)):
            length = pen.textlength(text, font)
            left = min(max((start + end - length) / 2, LEFT), RIGHT - length)
            box = find_free_box(min(left, start), max(left + length, end), taken)
            if box is not None:
                taken.append(box)
                pen.text((left, box[3] - 6), text, INK, font, anchor="ls")
                pen.rectangle((start, box[3] - 3, max(end, start + 1), box[3] - 1), WEAK_EDGE if moment.weak else EDGE)
                break


def find_free_box(left: float, right: float, taken: Sequence[Box]) -> Box | None:
    """Return a box from ``left`` to ``right`` in the lowest free lane, or None if no lane is free."""
    for lane in range(NUM_LANES):
        bottom = TOP - 2 - lane * LANE
        box = (left - 4, bottom - LANE, right + 4, bottom)
        if not any(box[0] < other[2] and other[0] < box[2] and bottom == other[3] for other in taken):
            return box
    return None


def label_texts(pen: ImageDraw.ImageDraw, texts: Sequence[CurveText], axes: Axes) -> None:
    """Write the channel of words, and as many words as fit, below the top of their columns."""
    for text in texts:
        room = axes.x(text.end) - axes.x(text.start) - 4
        font = choose_font(text.text, 11)
        line = fit_text(pen, sanitize(f"{SOURCE_LABELS[text.source]}: {text.text}"), font, room)
        if len(line) > 3:  # more than the ellipsis
            pen.text(
                (axes.x(text.start) + 2, clip_score(text.score, axes) + 4),
                line,
                WORDS.get(text.source, OTHER_WORDS),
                font,
            )


def clip_score(score: float, axes: Axes) -> float:
    """Return the pixel row of a score; one out of range is at the top or the bottom of the plot."""
    return min(max(axes.y(score), axes.top + OVERSAMPLING), axes.bottom - OVERSAMPLING)


def tint(colour: tuple[int, int, int]) -> tuple[int, ...]:
    """Return a colour blended with the background at 15 % opacity."""
    return tuple(round(0.15 * channel + 0.85 * paper) for channel, paper in zip(colour, PAPER, strict=True))


def format_tick(time: float) -> str:
    """Return a time, without tenths if they are zero."""
    return format_time(time).removesuffix(".0")


def score_range(scores: Float[np.ndarray, " frame"]) -> tuple[float, float]:
    """Return the lowest and highest score of the plot, with a margin around the curve."""
    low, high = float(np.min(scores)), float(np.max(scores))
    spread = max(high - low, MIN_RANGE)
    middle = (low + high) / 2
    return middle - 0.58 * spread, middle + 0.58 * spread


def score_step(low: float, high: float) -> float:
    """Return the smallest step of 1, 2 or 5 times a power of ten that divides a range into at most five intervals."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * 5 >= (high - low) * (1 - 1e-9))


def time_step(end: float) -> float:
    """Return the smallest step in seconds, round on a clock, that divides a video into at most twelve intervals."""
    days = math.ceil(end / 12 / TIME_STEPS_S[-1])
    return next((step for step in TIME_STEPS_S if 12 * step >= end), days * TIME_STEPS_S[-1])


def list_ticks(low: float, high: float, step: float) -> list[float]:
    """Return the multiples of a step between low and high."""
    return [multiple * step for multiple in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
