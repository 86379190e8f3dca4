"""Contact sheets: results as pictures, since people would rather look than read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidret.errors import DecodeError
from vidret.present.drawing import FAINT, INK, PAPER, fit_text
from vidret.text import file_name, format_time, sanitize
from vidret.types import Hit, Moment
from vidret.video.decode import read_frames

TILE = (320, 180)
LINE = 18
GAP = 8
COLUMNS = 4
TILE_PAPER = (222, 222, 220)


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a sheet: a frame of a video, and two lines below it."""

    path: str
    time: float
    title: str
    line: str


def shots_of_hits(hits: Sequence[Hit]) -> list[Shot]:
    """Show each hit by its best frame."""
    return [
        Shot(hit.path, hit.time, f"{rank}. {file_name(hit.path)}", f"{format_time(hit.time)}   score {hit.score:.3f}")
        for rank, hit in enumerate(hits, start=1)
    ]


def shots_of_moments(moments: Sequence[Moment]) -> list[Shot]:
    """Show each moment by four frames along it: a row of the sheet."""
    shots = []
    for rank, moment in enumerate(moments, start=1):
        for column in range(COLUMNS):
            time = moment.start + (moment.end - moment.start) * (column + 0.5) / COLUMNS
            span = f"{format_time(moment.start)} to {format_time(moment.end)}"
            title = f"{rank}. {file_name(moment.path)}" if column == 0 else ""
            line = f"{span}   {measure(moment)}" if column == 0 else format_time(time)
            shots.append(Shot(moment.path, time, title, line))
    return shots


def measure(moment: Moment) -> str:
    """Write how well a moment answers: its similarity, of a head's its probability."""
    return f"score {moment.score:.3f}" if moment.similarity is None else f"similarity {moment.similarity:.3f}"


def draw_sheet(shots: Sequence[Shot], heading: str, out: str | Path) -> None:
    """Write a sheet as a picture, in the format that the name of ``out`` asks for; an unreadable frame stays grey.

    Raises:
        OSError: ``out`` cannot be written.
        ValueError: No picture format has the suffix of ``out``.
    """
    rows = max(1, -(-len(shots) // COLUMNS))
    cell_height = TILE[1] + 2 * LINE + GAP
    size = (GAP + COLUMNS * (TILE[0] + GAP), 2 * LINE + 2 * GAP + rows * cell_height)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(17), ImageFont.load_default(13)
    pen.text((GAP, GAP), fit_text(pen, sanitize(heading), bold, size[0] - 2 * GAP), INK, bold)
    for number, shot in enumerate(shots):
        left = GAP + (number % COLUMNS) * (TILE[0] + GAP)
        top = 2 * LINE + GAP + (number // COLUMNS) * cell_height
        sheet.paste(read_tile(shot), (left, top))
        pen.text((left, top + TILE[1] + 2), fit_text(pen, sanitize(shot.title), small, TILE[0]), INK, small)
        pen.text((left, top + TILE[1] + 2 + LINE), sanitize(shot.line), FAINT, small)
    sheet.save(out)


def read_tile(shot: Shot) -> Image.Image:
    """Read a frame, fitted into a tile."""
    tile = Image.new("RGB", TILE, TILE_PAPER)
    try:
        frames = read_frames(shot.path, times=np.array([shot.time]))
    except DecodeError as error:
        ImageDraw.Draw(tile).text((GAP, GAP), sanitize(error.reason), FAINT, ImageFont.load_default(13))
        return tile
    picture = Image.fromarray(np.asarray(frames.pixels[0]))
    picture.thumbnail(TILE)
    tile.paste(picture, ((TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return tile
