"""Tests of vidret/present/sheet.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vidret.present.chart import fit_text
from vidret.present.sheet import (
    LINE,
    MAX_SHOTS,
    TILE,
    describe_words,
    draw_sheet,
    draw_tiles,
    tiles_of_results,
    tiles_of_shots,
)
from vidret.types import EventSpan, Evidence, Hit, Moment, Segment, Shot


@pytest.mark.parametrize("width", [0, 3, 10, 11, 40, 150, 320, 1100])
def test_text_is_cut_to_a_width(width: int) -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), ImageFont.load_default(13)
    assert fit_text(pen, "", font, width) == ""
    text = "a long query " * 20
    cut = fit_text(pen, text, font, width)
    assert pen.textlength(cut, font) <= width
    if cut:
        assert cut.endswith("...")
        assert text.startswith(cut.removesuffix("..."))
        assert pen.textlength(text[: len(cut) - 2] + "...", font) > width, "no shorter than it must be"
    assert fit_text(pen, "a", font, 320) == "a"


GONE = Hit(1, "/films/gone.mp4", Segment(1, 0, 0.0, 1.0), 0.5, 0.25)


def check_margin(hit: Hit, out: Path) -> None:
    """Check that nothing is written beyond the tile of a hit."""
    draw_sheet(tiles_of_results([hit]), "a heading " * 40, out)
    with Image.open(out) as sheet:
        pixels = sheet.convert("L")
    assert pixels.crop((8 + TILE[0] + 4, 60, pixels.width, pixels.height)).getextrema() == (250, 250)


def test_frames_that_cannot_be_read_leave_a_reason_each(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    shots = [Shot(0.0, 1.0, None), Shot(1.0, 4.0, "cut")]
    tiles = [*tiles_of_shots(str(tmp_path / "bad.mp4"), shots), *tiles_of_results([GONE])]
    assert [(tile.time, tile.title) for tile in tiles[:2]] == [(0.5, "1."), (2.5, "2. cut")]
    images = list(draw_tiles(tiles))
    assert len(images) == 3
    assert all(image.size == TILE and np.asarray(image.convert("L")).min() < 150 for image in images)


def test_storyboard_has_the_longest_shots_in_time_order() -> None:
    shots = [Shot(10.0 * n, 10.0 * n + 1 + (7 * n) % (MAX_SHOTS + 2), "cut") for n in range(MAX_SHOTS + 2)]
    tiles = tiles_of_shots("/films/a.mp4", shots)
    assert len(tiles) == MAX_SHOTS
    numbers = [int(tile.title.split(".")[0]) for tile in tiles]
    assert numbers == sorted(numbers)
    left_out = [shot.end - shot.start for n, shot in enumerate(shots, start=1) if n not in numbers]
    assert sorted(left_out) == [1.0, 2.0]


PICTURE = Evidence(source="picture", start=2.0, end=2.0, share=0.6)


def find_evidence(text: str, word: str) -> tuple[Evidence, ...]:
    """Return a picture, and words that match less."""
    start = text.index(word)
    words = Evidence(source="speech", start=1.0, end=2.0, share=0.4, text=text, matches=((start, start + len(word)),))
    return PICTURE, words


def test_words_start_shortly_before_their_match() -> None:
    long = "if you would like to leave a message after the tone, " * 4 + "press one to record"
    for text, shown in ((long[-19:], long[-19:]), (long, "...a message after the tone, press one to record")):
        assert describe_words(find_evidence(text, "press")) == f"said: {shown}"
    assert describe_words([PICTURE]) == describe_words([]) == ""


def test_sheet_has_a_line_for_words_only_if_there_are_any(tmp_path: Path) -> None:
    def draw(evidence: tuple[Evidence, ...]) -> Image.Image:
        moment = Moment(1, "/films/gone.mp4", 1.0, 3.0, 0.5, evidence=evidence)
        draw_sheet(tiles_of_results([moment]), "press", tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            return sheet.convert("L")

    plain, worded = draw(()), draw(find_evidence("press one to record", "press"))
    assert worded.height == plain.height + LINE
    last = worded.crop((0, worded.height - 8 - LINE, worded.width, worded.height))
    assert np.asarray(last.crop((0, 0, TILE[0], LINE))).min() < 100, "the words are below the first frame"
    assert last.crop((TILE[0] + 9, 0, last.width, LINE)).getextrema() == (250, 250), "and nowhere else"


@pytest.mark.parametrize(
    "text",
    [
        "\u4f60\u597d\u4e16\u754c" * 400,
        "\u0645\u0631\u062d\u0628\u0627 " * 90,
        "\u05e9\u05dc\u05d5\u05dd",
        "a\u0301\u200d\u202e\U0001f6b2\ufe0f" * 50,
        "two\nlines\x00\udcff",
        "holiday " * 30,
    ],
    ids=["chinese", "arabic", "hebrew", "marks", "controls", "long"],
)
def test_names_and_words_of_any_script_stay_below_their_tile(tmp_path: Path, text: str) -> None:
    evidence = Evidence(source="screen", start=0.0, end=1.0, share=1.0, text=text)
    for hit in (replace(GONE, evidence=(evidence,)), replace(GONE, path=f"/films/{text}.mp4")):
        check_margin(hit, tmp_path / "sheet.png")


def test_tiles_show_the_events_of_a_query() -> None:
    spans = ((1.0, 3.0), (8.0, 9.0))
    events = tuple(EventSpan(text="x", start=start, end=end, score=1.0) for start, end in spans)
    tiles = tiles_of_results([Moment(1, "/films/gone.mp4", 1.0, 9.0, 0.5, events=events)])
    assert tiles_of_results([GONE], first_rank=11)[0].title.startswith("11. ")
    assert [tile.time for tile in tiles] == [1.5, 2.5, 8.25, 8.75]
    assert tiles[0].words == "1. 0:01.0   2. 0:08.0"
    assert tiles_of_results([replace(GONE, events=events)])[0].words == tiles[0].words
