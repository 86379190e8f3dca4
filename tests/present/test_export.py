"""Tests of vidret/present/export.py: each format is read back by an independent reader."""

import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest
from av.container import InputContainer

from tests.fakes import write_film
from tests.present.moments import ODD_PATHS, assert_refused, make_moment
from vidret.present.cutting import cut_moments
from vidret.present.export import format_moments, to_chapters, to_csv, to_json, to_srt, write_moments
from vidret.text import escape_formula, strip_query
from vidret.types import Evidence, Moment

QUERY = 'a "red"\ncar \u8eca'
ODD = [make_moment(path, rank / 3, rank / 3 + 1.5, 0.25 * rank) for rank, path in enumerate(ODD_PATHS)]
COLUMNS = ["rank", "query", "path", "start", "end", "score", "probability", "likelihood", "by", "similarity"]


def read_csv(moments: Sequence[Moment], query: str = "car") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(moments, query=query), newline="")))


def test_json_round_trips() -> None:
    text = to_json(ODD, query=QUERY)
    assert text.isascii()
    rows = json.loads(text)
    assert [list(row) for row in rows] == [[*COLUMNS, "note"]] * len(ODD)
    for rank, (row, moment) in enumerate(zip(rows, ODD, strict=True), start=1):
        assert (row["rank"], row["query"], row["path"]) == (rank, QUERY, strip_query(moment.path))
        assert (row["start"], row["end"]) == pytest.approx((moment.start, moment.end), abs=1e-6)
        assert (row["score"], row["probability"], row["likelihood"]) == (moment.score, None, None)


def test_csv_round_trips() -> None:
    text = to_csv(ODD, query=QUERY)
    assert text.startswith(",".join(COLUMNS) + "\r\n")
    assert text.endswith("\r\n")
    rows = read_csv(ODD, QUERY)
    assert [row["path"] for row in rows] == [escape_formula(strip_query(path)) for path in ODD_PATHS]
    assert {row["query"] for row in rows} == {QUERY}
    assert [float(row["end"]) for row in rows] == pytest.approx([moment.end for moment in ODD], abs=1e-6)
    assert to_csv([make_moment()], query="car").splitlines()[1] == "1,car,/films/a.mp4,1.0,2.0,0.5,,,curve,"
    assert to_csv([replace(make_moment(), similarity=0.25)], query="car").endswith(",curve,0.25\r\n")
    rated = Moment(1, "/a.mp4", 1, 2, 0.5, by="head", probability=0.123456789)
    assert to_csv([rated], query="car").endswith(",0.5,0.123457,unlikely,head,\r\n")


def test_csv_holds_no_formulas_but_negative_numbers_and_notes() -> None:
    for query in ("=1+1", "+1", "-dog", "@SUM(A1)", "\t=1", '=HYPERLINK("http://here","car")'):
        (row,) = read_csv([replace(make_moment(), score=-0.5)], query)
        assert (row["query"], row["path"], row["score"]) == (f"'{query}", "/films/a.mp4", "-0.5")
    listed = Moment(1, "/films/a.mp4", 1, 2, 0.0, by="list", note="=the take")
    head, first, other = to_csv([listed, make_moment()], query="best").splitlines()
    assert head.endswith(",similarity,note")
    assert first.endswith(",list,,'=the take"), "a note is no formula either"
    assert other.endswith(",curve,,")


def test_a_page_holds_frames_notes_and_reasons(tmp_path: Path) -> None:
    film = write_film(tmp_path / "<b>.mp4", ("red", 3))
    moments = [
        Moment(1, str(film), 0, 2, 0.0, by="list", note="<i>the take</i>"),
        Moment(2, "/films/gone.mp4", 0, 3600, 0.0, by="list"),
    ]
    page = format_moments(moments, "html", query="a & b")
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count('class="unread"') == 1
    assert "<h1>a &amp; b</h1>" in page
    assert "2 moments, 1:00:02.0 in all" in page
    assert "&lt;i&gt;the take&lt;/i&gt;" in page
    assert not re.search("<i>|<script|src=.http|url\\(", page), "names and notes are text, and nothing is loaded"


def test_no_moments_give_an_empty_export() -> None:
    assert json.loads(to_json([], query="car")) == []
    assert to_csv([], query="car") == ",".join(COLUMNS) + "\r\n"
    assert to_srt([], query="car") == ""
    assert to_chapters([], query="car") == ";FFMETADATA1\n"


def read_chapters(text: str, tmp_path: Path) -> list[tuple[float, float, str]]:
    """Return the chapters that ffmpeg reads: start, end and title."""
    (tmp_path / "chapters").write_text(text, "utf-8")
    with av.open(str(tmp_path / "chapters"), format="ffmetadata") as container:
        chapters: list[Any] = list(container.chapters())
    return [
        (
            float(chapter["start"] * chapter["time_base"]),
            float(chapter["end"] * chapter["time_base"]),
            chapter["metadata"]["title"],
        )
        for chapter in chapters
    ]


@pytest.mark.skipif(not hasattr(InputContainer, "chapters"), reason="PyAV reads chapters from 16 on")
@pytest.mark.parametrize("query", ["car", "a=b;c#d\\e", "two\nlines", "#;=", "\\", "\u8eca \u00fc", "[CHAPTER]\nEND=5"])
def test_ffmpeg_reads_the_chapters(query: str, tmp_path: Path) -> None:
    moments = [make_moment(start=7.2504, end=9.9996), make_moment(start=0, end=1.5), make_moment(start=11, end=11.0001)]
    found = read_chapters(to_chapters(moments, query=query), tmp_path)
    titles = [f"{query} ({chapter_number})" for chapter_number in (1, 2, 3)]
    gaps = [(1.5, 7.25, ""), (10.0, 11, "")]
    assert found == [(0, 1.5, titles[0]), gaps[0], (7.25, 10.0, titles[1]), gaps[1], (11, 11.001, titles[2])]
    found = read_chapters(to_chapters(moments[1:2], query=query), tmp_path)
    assert found == [(0, 1.5, query + " " * query.endswith("\\"))]  # ffmpeg's reader needs a character there


@pytest.mark.skipif(not hasattr(InputContainer, "chapters"), reason="PyAV reads chapters from 16 on")
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_chapters_keep_their_times_in_a_film(ffmpeg: str, tmp_path: Path, suffix: str) -> None:
    film, marked = write_film(tmp_path / "film.mp4", ("red", 9)), tmp_path / f"marked{suffix}"
    moments = [make_moment(start=2, end=3), make_moment(start=5, end=6), make_moment(start=6, end=7)]
    (tmp_path / "out.ffmeta").write_text(to_chapters(moments, query="car"))
    options = ("-map_metadata", "1", "-codec", "copy")
    subprocess.run(
        [ffmpeg, "-i", film, "-i", tmp_path / "out.ffmeta", *options, marked], check=True, capture_output=True
    )
    with av.open(str(marked)) as container:
        chapters: list[Any] = [chapter for chapter in container.chapters() if chapter["metadata"].get("title")]
    times = [tuple(float(chapter[end] * chapter["time_base"]) for end in ("start", "end")) for chapter in chapters]
    assert times == [(2, 3), (5, 6), (6, 7)]


@pytest.mark.parametrize("query", ["car", "<b>car</b>\n\n2\n00:00:01,000 --> 00:00:02,000", "\u8eca"])
def test_ffmpeg_reads_the_markers_of_subrip(query: str, tmp_path: Path) -> None:
    said = Evidence(source="speech", start=1, end=2, share=1, text="a red\ncar")
    moments = [replace(make_moment(start=7.2504, end=9.9996), evidence=(said,)), make_moment(start=0, end=8)]
    (tmp_path / "a.srt").write_text(to_srt(moments, query=query), "utf-8")
    with av.open(str(tmp_path / "a.srt")) as container:
        cues = [(packet.pts, packet.duration, bytes(packet).decode()) for packet in container.demux() if packet.size]
    line = " ".join(query.translate({ord("<"): "\u2039", ord(">"): "\u203a"}).split())
    assert cues == [(0, 8000, f"{line}, score 0.500"), (7250, 2750, f"{line}, score 0.500, said at 0:01.0: a red car")]


def test_what_a_format_cannot_represent_is_refused(tmp_path: Path) -> None:
    nested = [make_moment(start=22, end=24), make_moment(start=0, end=24), make_moment(start=0, end=4)]
    overlap = "chapters must not overlap, got 0:00.0 to 0:04.0 and 0:00.0 to"
    assert_refused(lambda: to_chapters(nested, query="car"), overlap)
    assert to_chapters([make_moment(start=0, end=4), make_moment(start=4, end=9)], query="car").count("[CHAPTER]") == 2
    several = [make_moment(f"/films/{name}.mp4") for name in "bab"]
    for form in ("chapters", "srt"):
        rule = f"{form} must be of one video, got 2, among them /films/a.mp4; locate in one"
        assert_refused(partial(format_moments, several, form, query="car"), rule)
    for start, end in ((2, 2), (3, 2), (-1, 2), (0, float("inf")), (float("nan"), 1)):
        wrong = [make_moment(start=start, end=end)]
        for form in ("edl", "srt", "chapters"):
            with pytest.raises(ValueError, match="0 <= start < end"):
                format_moments(wrong, form, query="car")
        with pytest.raises(ValueError, match="0 <= start < end"):
            cut_moments(wrong, tmp_path)


def test_the_suffix_selects_the_format(tmp_path: Path) -> None:
    moments = [make_moment(os.fsdecode(b"/films/bad\xff.mp4"))]
    for name, text in (
        ("a.json", to_json(moments, query="car")),
        ("new/a.CSV", to_csv(moments, query="car")),
        ("a.edl", format_moments(moments, "edl", query="car", fps=30, handles_s=1)),
        ("a.fcpxml", format_moments(moments, "fcpxml", query="car", fps=30, handles_s=1)),
        ("a.ffmeta", to_chapters(moments, query="car")),
        ("a.srt", to_srt(moments, query="car")),
    ):
        (tmp_path / "a.json").write_text("an older one")
        write_moments(moments, tmp_path / name, query="car", fps=30, handles_s=1)
        assert (tmp_path / name).read_bytes() == os.fsencode(text)
    assert b"/films/bad\xff.mp4" in (tmp_path / "new/a.CSV").read_bytes()
    assert_refused(
        lambda: write_moments(moments, "a.xml", query="car"),
        "out must end in one of .json, .csv, .otio, .fcpxml, .edl, .srt, .html, .ffmeta, got",
    )
    assert_refused(
        lambda: write_moments(moments, tmp_path / "a.json/b.csv", query="car"), "a.json/b.csv: cannot be written:"
    )
    assert not Path("a.xml").exists()
    with pytest.raises(ValueError, match="form must be one of json, csv, otio"):
        format_moments(moments, "xml", query="car")
