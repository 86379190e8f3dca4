"""Contact sheets: one image that shows the frames of several results."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vidret.errors import DecodeError, VidretError
from vidret.present.chart import FAINT, INK, PAPER, choose_font, save_image, write_line
from vidret.present.show import describe_match
from vidret.present.terminal import print_message, show_status, writing
from vidret.text import compose, file_name, format_time, sanitize
from vidret.types import SOURCE_LABELS, CopyGroup, Evidence, Hit, Moment, Picture, SharedFootage, Shot
from vidret.video.images import read_image
from vidret.video.probe import probe
from vidret.video.reader import Reader, open_reader
from vidret.video.sampling import find_shown

TILE = (320, 180)  # width and height in pixels
LINE = 18
GAP = 8
COLUMNS = 4
TILE_PAPER = (222, 222, 220)
LEAD = 25  # characters of words before the first match
MAX_WORDS = 100  # more characters than fit
MAX_SHOTS = 240  # in a storyboard: sixty rows


@dataclass(frozen=True, slots=True)
class Tile:
    """The frame of a video at ``time`` seconds, with two lines of text below it, and a third if words matched.

    If ``jpeg`` is set, that image is shown instead of the frame.
    """

    path: str
    time: float
    title: str
    line: str
    words: str = ""
    jpeg: bytes | None = None


def tiles_of_results(results: Sequence[Hit | Moment | SharedFootage | CopyGroup], *, first_rank: int = 1) -> list[Tile]:
    """Return the tiles of results, best first, with their ranks from ``first_rank`` on.

    A hit has one tile, its best frame. A moment or shared footage has a row of four, evenly spaced in time or in the
    events of the query. A group of copies has a tile per file, the best first, at the same moment if all have it.
    """
    return [tile for rank, result in enumerate(results, start=first_rank) for tile in _list_tiles(rank, result)]


def _list_tiles(rank: int, result: Hit | Moment | SharedFootage | CopyGroup) -> list[Tile]:
    if isinstance(result, CopyGroup):
        return _list_copies(rank, result)
    title = f"{rank}. {file_name(result.path)}"
    if isinstance(result, SharedFootage):
        return _make_row(result, title, f"{result.speed:.2f}x", [(result.start, result.end)])
    events = (
        f"{event_number}. {format_time(event.start)}" for event_number, event in enumerate(result.events, start=1)
    )
    words = "   ".join(events) or describe_words(result.evidence)
    if isinstance(result, Hit):
        return [Tile(result.path, result.time, title, f"{format_time(result.time)}   {describe_score(result)}", words)]
    spans = [(event.start, event.end) for event in result.events] or [(result.start, result.end)]
    return _make_row(result, title, describe_score(result), spans, words)


def _make_row(
    result: Moment | SharedFootage, title: str, fact: str, spans: Sequence[tuple[float, float]], words: str = ""
) -> list[Tile]:
    """Return four tiles, evenly spaced in the spans; the first has the title."""
    tiles = []
    for column in range(COLUMNS):
        position = (column + 0.5) / COLUMNS * len(spans)
        start, end = spans[int(position)]
        time = start + (end - start) * (position - int(position))
        tiles.append(Tile(result.path, time, "", format_time(time)))
    line = f"{format_time(result.start)} to {format_time(result.end)}   {fact}"
    return [replace(tiles[0], title=title, line=line, words=words), *tiles[1:]]


def _list_copies(rank: int, group: CopyGroup) -> list[Tile]:
    first = max(file.best_start for file in group.files)
    last = min(file.best_start + (file.end - file.start) / file.speed for file in group.files)
    middle = (first + last) / 2 if first <= last else group.best.duration / 2
    tiles = []
    for file in group.files:
        file_middle = file.start + (middle - file.best_start) * file.speed
        time = min(max(file_middle, file.start), file.end)
        mark = "best" if file is group.best else ", ".join(file.differs) or "same footage"
        line = f"{format_time(time)}   {file.width}x{file.height}   {mark}"
        tiles.append(Tile(file.path, time, f"{rank}. {file_name(file.path)}", line))
    return tiles


def tiles_of_shots(path: str, shots: Sequence[Shot]) -> list[Tile]:
    """Return one tile per shot, its middle frame; at most ``MAX_SHOTS``, the longest ones, in time order."""
    longest = sorted(range(len(shots)), key=lambda index: shots[index].start - shots[index].end)[:MAX_SHOTS]
    return [
        Tile(
            path,
            (shot.start + shot.end) / 2,
            f"{index + 1}. {shot.begins_with or ''}".rstrip(),
            f"{format_time(shot.start)} to {format_time(shot.end)}   {shot.end - shot.start:.1f} s",
        )
        for index, shot in ((index, shots[index]) for index in sorted(longest))
    ]


def describe_score(result: Hit | Moment) -> str:
    """Return the likelihood of a result as text, or its score if it has no probability."""
    return describe_match(result).strip() or f"score {result.score:.3f}"


def describe_words(evidence: Sequence[Evidence]) -> str:
    """Return the best words of the evidence with their source, from shortly before the first match; '' without any."""
    best = next((piece for piece in evidence if piece.text), None)
    if best is None:
        return ""
    first = best.matches[0][0] if best.matches else 0
    start = best.text.rfind(" ", 0, max(0, first - LEAD)) + 1
    return f"{SOURCE_LABELS[best.source]}: {'...' if start else ''}{best.text[start : start + MAX_WORDS]}"


def write_sheet(tiles: Sequence[Tile], heading: str, out: Path, *, kind: str = "contact sheet") -> None:
    """Write a contact sheet, creating its folder if needed, and print its path; write nothing without tiles."""
    if not tiles:
        print_message("no contact sheet: there are no results")
        return
    with writing(out):
        draw_sheet(tiles, heading, out)
    print_message(f"{kind}: {out}")


def write_storyboard(path: str, shots: Sequence[Shot], out: Path) -> None:
    """Write a sheet with the middle frame of each shot of a video, and print its path."""
    if len(shots) > MAX_SHOTS:
        print_message(f"the storyboard shows the {MAX_SHOTS} longest of {len(shots)} shots")
    heading = f"{file_name(path)}: {len(shots)} shot{'' if len(shots) == 1 else 's'}"
    with show_status("drawing the storyboard"):
        write_sheet(tiles_of_shots(path, shots), heading, out, kind="storyboard")


def draw_sheet(tiles: Sequence[Tile], heading: str, out: str | Path) -> None:
    """Write a contact sheet, four tiles per row, in the format of the suffix; unreadable frames are grey."""
    rows = max(1, -(-len(tiles) // COLUMNS))
    lines = 3 if any(tile.words for tile in tiles) else 2
    cell_height = TILE[1] + lines * LINE + GAP
    size = (GAP + COLUMNS * (TILE[0] + GAP), 2 * LINE + 2 * GAP + rows * cell_height)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    write_line(pen, (GAP, GAP), heading, 17, INK, size[0] - 2 * GAP)
    for index, (tile, image) in enumerate(zip(tiles, draw_tiles(tiles), strict=True)):
        left = GAP + (index % COLUMNS) * (TILE[0] + GAP)
        top = 2 * LINE + GAP + (index // COLUMNS) * cell_height
        sheet.paste(image, (left, top))
        for row, (text, ink) in enumerate(((compose(tile.title), INK), (tile.line, FAINT), (tile.words, INK))):
            write_line(pen, (left, top + TILE[1] + 2 + row * LINE), text, 13, ink, TILE[0])
    save_image(sheet, out)


def draw_tiles(tiles: Iterable[Tile]) -> Iterator[Image.Image]:
    """Yield the frame of each tile, scaled to its size; a file is opened once for consecutive tiles."""
    for path, group in groupby(tiles, key=lambda tile: tile.path):
        path_tiles, images = list(group), list[Image.Image]()
        if all(tile.jpeg is not None for tile in path_tiles):
            yield from (_draw_jpeg(tile.jpeg or b"") for tile in path_tiles)
            continue
        try:
            info = probe(path)
            with open_reader(info) as reader:
                for index in find_shown(info.times, np.array([tile.time for tile in path_tiles])).tolist():
                    images.append(_draw_frame(reader, index))
        except DecodeError as error:
            images += [draw_reason(error.reason)] * (len(path_tiles) - len(images))
        yield from images


def _draw_frame(reader: Reader, index: int) -> Image.Image:
    frames = reader.read([index])
    if not len(frames):
        return draw_reason("no frame could be decoded")
    return _fit(frames.pixels[0])


def _draw_jpeg(jpeg: bytes) -> Image.Image:
    try:
        return _fit(read_image(jpeg))
    except VidretError as error:
        return draw_reason(str(error))


def _fit(pixels: Picture) -> Image.Image:
    image, frame = Image.new("RGB", TILE, TILE_PAPER), Image.fromarray(np.asarray(pixels))
    frame.thumbnail(TILE)
    image.paste(frame, ((TILE[0] - frame.width) // 2, (TILE[1] - frame.height) // 2))
    return image


def draw_reason(reason: str, size: tuple[int, int] = TILE) -> Image.Image:
    """Return a grey image with the reason why there is no frame."""
    image = Image.new("RGB", size, TILE_PAPER)
    text = "\n".join(textwrap.wrap(sanitize(reason), max(8, size[0] // 8)))
    ImageDraw.Draw(image).multiline_text((GAP, GAP), text, INK, choose_font(text, 13))
    return image
