"""Tests of vidret/present/export.py: each format is read back by an independent reader."""

import csv
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.container import InputContainer

from tests.present.moments import ODD_PATHS, assert_refused, make_moment
from vidret.present import export
from vidret.present.cutting import cut_moments
from vidret.present.export import to_chapters, to_csv, to_edl, to_json, write_moments
from vidret.types import Moment


def test_edl_names_a_url_without_its_query_string() -> None:
    text = to_edl([make_moment("https://host/My film.mp4?signature=5f")], query="", fps=25)
    assert "* FROM CLIP NAME: My film.mp4\n" in text
    assert "MYFILM " in text


def test_json_round_trips() -> None:
    moments = [make_moment(path, rank / 3, rank / 3 + 1.5, 0.25 * rank) for rank, path in enumerate(ODD_PATHS)]
    text = to_json(moments, query='a "red"\ncar \u8eca')
    assert text.isascii()
    rows = json.loads(text)
    assert [row["path"] for row in rows] == list(ODD_PATHS)
    assert [row["rank"] for row in rows] == list(range(1, len(ODD_PATHS) + 1))
    assert {row["query"] for row in rows} == {'a "red"\ncar \u8eca'}
    for row, each in zip(rows, moments, strict=True):
        assert list(row) == ["rank", "query", "path", "start", "end", "score", "weak", "by", "similarity"]
        assert (row["start"], row["end"]) == pytest.approx((each.start, each.end), abs=1e-6)
        assert (row["score"], row["weak"]) == (each.score, False)


def test_csv_round_trips() -> None:
    moments = [make_moment(path, rank / 3, rank / 3 + 1.5, 0.25 * rank) for rank, path in enumerate(ODD_PATHS)]
    text = to_csv(moments, query='a "red"\ncar')
    assert text.startswith("rank,query,path,start,end,score,weak,by,similarity\r\n")
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == list(ODD_PATHS)
    assert {row["query"] for row in rows} == {'a "red"\ncar'}
    assert [float(row["end"]) for row in rows] == pytest.approx([each.end for each in moments], abs=1e-6)
    assert to_csv([make_moment()], query="car").splitlines()[1] == "1,car,/films/a.mp4,1.0,2.0,0.5,false,curve,"
    assert to_csv([replace(make_moment(), similarity=0.25)], query="car").endswith(",curve,0.25\r\n")
    assert to_csv([Moment(1, "/a.mp4", 1, 2, 0.5, weak=True, by="head")], query="car").endswith(",true,head,\r\n")


def test_no_moments_give_an_empty_export() -> None:
    assert json.loads(to_json([], query="car")) == []
    assert to_csv([], query="car") == "rank,query,path,start,end,score,weak,by,similarity\r\n"
    assert to_edl([], query="car", fps=25) == "TITLE: car\nFCM: NON-DROP FRAME\n\n"
    assert to_chapters([], query="car") == ";FFMETADATA1\n"


def read_chapters(text: str, tmp_path: Path) -> list[tuple[float, float, str]]:
    """Return the chapters that ffmpeg reads: start, end and title."""
    (tmp_path / "chapters").write_text(text, "utf-8")
    with av.open(str(tmp_path / "chapters"), format="ffmetadata") as container:
        chapters: list[Any] = list(container.chapters())
    return [
        (float(each["start"] * each["time_base"]), float(each["end"] * each["time_base"]), each["metadata"]["title"])
        for each in chapters
    ]


@pytest.mark.skipif(not hasattr(InputContainer, "chapters"), reason="PyAV reads chapters from 16 on")
@pytest.mark.parametrize("query", ["car", "a=b;c#d\\e", "two\nlines", "#;=", "\\", "\u8eca \u00fc", "[CHAPTER]\nEND=5"])
def test_ffmpeg_reads_the_chapters(query: str, tmp_path: Path) -> None:
    moments = [make_moment(start=7.2504, end=9.9996), make_moment(start=0, end=1.5), make_moment(start=11, end=11.0001)]
    found = read_chapters(to_chapters(moments, query=query), tmp_path)
    titles = [f"{query} ({number})" for number in (1, 2, 3)]
    assert found == [(0, 1.5, titles[0]), (7.25, 10.0, titles[1]), (11, 11.001, titles[2])]
    found = read_chapters(to_chapters(moments[1:2], query=query), tmp_path)
    assert found == [
        (0, 1.5, query + " " if query.endswith("\\") else query)
    ]  # ffmpeg's reader needs a character there


def test_overlapping_chapters_are_refused() -> None:
    nested = [make_moment(start=22, end=24), make_moment(start=0, end=24), make_moment(start=0, end=4)]
    assert_refused(
        lambda: to_chapters(nested, query="car"), "chapters must not overlap, got 0:00.0 to 0:04.0 and 0:00.0 to"
    )
    assert to_chapters([make_moment(start=0, end=4), make_moment(start=4, end=9)], query="car").count("[CHAPTER]") == 2


def test_chapters_of_several_videos_are_refused() -> None:
    moments = [make_moment("/films/b.mp4"), make_moment("/films/a.mp4"), make_moment("/films/b.mp4")]
    assert_refused(
        lambda: to_chapters(moments, query="car"), "of one video, got 2, among them /films/a.mp4; locate in one"
    )


def count_timecode(frame: int, per_second: int) -> str:
    """Return the timecode of a frame by counting up to it, with a wheel per digit group."""
    wheels = [0, 0, 0, 0]
    for _ in range(frame):
        wheels[3] += 1
        for place, size in ((3, per_second), (2, 60), (1, 60)):
            if wheels[place] == size:
                wheels[place] = 0
                wheels[place - 1] += 1
    return ":".join(f"{wheel:02}" for wheel in wheels)


def read_frame(code: str, per_second: int) -> int:
    hours, minutes, seconds, frames = map(int, code.split(":"))
    assert frames < per_second
    return ((hours * 60 + minutes) * 60 + seconds) * per_second + frames


def read_events(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line[:3].isdigit()]


def test_edl_matches_a_handwritten_one() -> None:
    moments = [
        make_moment("/films/My trip.mov", 75.25, 80.0, 0.8126),
        make_moment("/films/b.mp4", 3599.98, 3600.5, 0.5),
        Moment(1, "/films/My trip.mov", 0.0, 0.01, 0.25, weak=True),
    ]
    assert to_edl(moments, query="red car", fps=25) == (
        "TITLE: red car\n"
        "FCM: NON-DROP FRAME\n"
        "\n"
        "001  MYTRIP   V     C        00:01:15:06 00:01:20:00 00:00:00:00 00:00:04:19\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* COMMENT: SCORE 0.813\n"
        "002  B        V     C        01:00:00:00 01:00:00:13 00:00:04:19 00:00:05:07\n"
        "* FROM CLIP NAME: b.mp4\n"
        "* COMMENT: SCORE 0.500\n"
        "003  MYTRIP   V     C        00:00:00:00 00:00:00:01 00:00:05:07 00:00:05:08\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* COMMENT: SCORE 0.250, WEAK\n"
    )


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (1, Fraction(1)),
        (23.976, Fraction(24000, 1001)),
        (24, Fraction(24)),
        (24000 / 1001, Fraction(24000, 1001)),
        (25, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (100, Fraction(100)),
    ],
)
def test_timecodes_are_exact_and_the_record_is_contiguous(fps: float, exact: Fraction) -> None:
    rng = random.Random(0)
    starts = [rng.uniform(0, 10000) for _ in range(200)]
    moments = [make_moment(start=start, end=start + rng.uniform(0.001, 200)) for start in starts]
    record = 0
    for event, each in zip(read_events(to_edl(moments, query="car", fps=fps)), moments, strict=True):
        start, end, record_start, record_end = (read_frame(code, round(fps)) for code in event[4:])
        assert abs(start / exact - Fraction(each.start)) <= 1 / (2 * exact)
        assert end == start + 1 or abs(end / exact - Fraction(each.end)) <= 1 / (2 * exact)
        assert end > start
        assert record_start == record
        assert record_end - record_start == end - start
        record = record_end


@pytest.mark.parametrize("fps", [1, 24, 29.97, 60])
def test_timecodes_equal_counted_ones(fps: float) -> None:
    for frame in (0, 1, 59, 1000, 1799, 1800, 3599 * round(fps), 3661 * round(fps) + round(fps) - 1):
        assert export.format_timecode(frame, export.exact_frame_rate(fps)) == count_timecode(frame, round(fps))


def test_a_boundary_on_a_frame_start_is_that_frame() -> None:
    for rate in (Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)):
        for frame in range(0, 10**6, 997):
            assert export.nearest_frame(float(frame / rate), rate) == frame


def test_reel_names_are_short_alphanumeric_and_unique() -> None:
    names = ["holiday-2024-a.mp4", "holiday-2024-b.mp4", "bl.mp4", "ax.mp4", "\u6620\u753b.mp4", "\u8eca.mp4", "h.mp4"]
    names += [f"holiday-2024-{number}.mp4" for number in range(120)]
    moments = [make_moment(f"/films/{name}") for name in names] + [
        make_moment("/elsewhere/h.mp4"),
        make_moment("/films/h.mp4"),
    ]
    reels = [event[1] for event in read_events(to_edl(moments, query="car", fps=25))]
    assert all(reel.isascii() and reel.isalnum() and len(reel) <= 8 for reel in reels)
    assert len(set(reels)) == len(names) + 1
    assert not {"BL", "AX"} & set(reels)
    assert reels[:7] == ["HOLIDAY2", "HOLIDAY3", "BL2", "AX2", "REEL", "REEL2", "H"]
    assert reels[-2:] == ["H2", "H"]


def test_no_name_breaks_a_line_of_an_edl() -> None:
    text = to_edl([make_moment(path) for path in ODD_PATHS], query="a\nb" + "c" * 200, fps=25)
    assert len(text.encode("utf-8").splitlines()) == 3 + 3 * len(ODD_PATHS)
    assert len(text.splitlines()[0]) == len("TITLE: ") + 70


def test_edl_limits_are_refused() -> None:
    for fps in (0, -25, 12.5, 29.9, 120, float("nan"), float("inf")):
        assert_refused(lambda fps=fps: to_edl([make_moment()], query="car", fps=fps), f"for an EDL, got {fps:g}")  # type: ignore[misc]
    assert_refused(lambda: to_edl([make_moment()] * 1000, query="car", fps=25), "at most 999 moments, got 1000")
    day = 24 * 3600
    last = make_moment(start=day - 3, end=day - 1)
    assert " 23:59:57:00 23:59:59:00 " in to_edl([last], query="car", fps=25)
    over = make_moment(start=day - 3, end=day)
    assert_refused(lambda: to_edl([over], query="car", fps=25), "must be below 24 hours, got 24:00:00.0")
    long = [make_moment(start=0, end=20000)] * 5
    assert_refused(lambda: to_edl(long, query="car", fps=25), "must be below 24 hours, got 27:46:40.0")


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2), (-1, 2), (0, float("inf")), (float("nan"), 1)])
def test_invalid_spans_are_refused(start: float, end: float, tmp_path: Path) -> None:
    wrong = [make_moment(start=start, end=end)]
    calls: list[Callable[[], object]] = [
        lambda: to_edl(wrong, query="car", fps=25),
        lambda: to_chapters(wrong, query="car"),
        lambda: cut_moments(wrong, tmp_path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="0 <= start < end"):
            call()


def test_the_suffix_selects_the_format(tmp_path: Path) -> None:
    moments = [make_moment(os.fsdecode(b"/films/bad\xff.mp4"))]
    for name, text in (
        ("a.json", to_json(moments, query="car")),
        ("new/a.CSV", to_csv(moments, query="car")),
        ("a.edl", to_edl(moments, query="car", fps=30)),
        ("a.ffmeta", to_chapters(moments, query="car")),
    ):
        (tmp_path / "a.json").write_text("an older one")
        write_moments(moments, tmp_path / name, query="car", fps=30)
        assert (tmp_path / name).read_bytes() == os.fsencode(text)
    assert b"/films/bad\xff.mp4" in (tmp_path / "new/a.CSV").read_bytes()
    assert_refused(
        lambda: write_moments(moments, "a.xml", query="car"), "must end in .json, .csv, .edl or .ffmeta, got a.xml"
    )
    assert_refused(
        lambda: write_moments(moments, tmp_path / "a.json/b.csv", query="car"), "a.json/b.csv: cannot be written:"
    )
    assert not Path("a.xml").exists()
