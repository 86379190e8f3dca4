"""Tests of vidret/present/contents.py: what other programs read of transcripts and shots is what was stored."""

import csv
import io
import json
import re
from decimal import Decimal

import pytest

from vidret.channels.texts.subtitle_files import parse_subtitles
from vidret.present.contents import TRANSCRIPT_FORMATS, format_shots, show_shots, to_transcript
from vidret.types import Shot, TimedText

TEXTS = [
    TimedText(3723.0044, 3723.0046, "no time at all", "screen", 0.25, ""),
    TimedText(1.5, 4.0, "Fish & chips: 2 < 3", "speech", 0.5, "en"),
    TimedText(0.0, 2.0, "00:00:01,000 --> here", "screen"),
    TimedText(2.0, 3.0, "<b>bold</b> &lt; {\\an8}", "screen"),
    TimedText(5.0, 6.0, "two\n\nlines\u2028and\tmore", "speech"),
    TimedText(6.0, 7.0, "駅 \x1b[31m می‌خواهم \ud800", "speech"),
    TimedText(8.0, 9.0, "42", "screen"),
    TimedText(8.5, 9.0, " \n ", "speech"),
    TimedText(360_000.0, 360_001.0, "after 100 hours", "speech"),
]
TIMES = re.compile(r"(\d\d+):(\d\d):(\d\d)[.,](\d{3}) --> (\d\d+):(\d\d):(\d\d)[.,](\d{3})")


def read_times(line: str) -> tuple[int, int]:
    match = TIMES.fullmatch(line)
    assert match is not None, line
    h, m, s, ms, *end = map(int, match.groups())
    return ((h * 60 + m) * 60 + s) * 1000 + ms, ((end[0] * 60 + end[1]) * 60 + end[2]) * 1000 + end[3]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_cues_are_valid(form: str) -> None:
    head, _, body = (
        to_transcript(TEXTS, form).partition("\n\n") if form == "vtt" else ("", "", to_transcript(TEXTS, form))
    )
    assert head == ("WEBVTT" if form == "vtt" else "")
    assert body.endswith("\n")
    cues = [cue.split("\n") for cue in body.removesuffix("\n").split("\n\n")]
    if form == "srt":
        assert [cue.pop(0) for cue in cues] == [str(cue_number) for cue_number in range(1, 9)]
    assert [len(cue) for cue in cues] == [2] * 8
    times = [read_times(cue[0]) for cue in cues]
    assert [start for start, _ in times] == sorted(start for start, _ in times)
    assert all(start < end for start, end in times)
    assert times[6] == (3_723_004, 3_723_005)
    assert times[7] == (360_000_000, 360_001_000)
    words = "\n".join(cue[1] for cue in cues)
    assert not re.search(r"-->|<", words)
    if form == "srt":
        assert "{\\" not in words
    else:
        assert not re.search(r"&(?!(amp|lt|gt);)", words)


def test_what_is_said_begins_with_the_name_of_the_speaker() -> None:
    texts = [
        TimedText(0.0, 1.0, "come in", "speech", speaker="Anna"),
        TimedText(1.0, 2.0, "thanks", "speech", speaker="<b>Bob\x1b"),
        TimedText(2.0, 3.0, "who is it?", "speech"),
    ]
    txt, srt, vtt, rows = (to_transcript(texts, form) for form in ("txt", "srt", "vtt", "json"))
    assert txt.splitlines() == ["0:00.0  Anna: come in", "0:01.0  <b>Bob\ufffd: thanks", "0:02.0  who is it?"]
    assert "\nAnna: come in\n" in srt
    assert "\u2039b\u203aBob\ufffd: thanks" in srt
    assert "&lt;b&gt;Bob\ufffd: thanks" in vtt
    assert [(row["speaker"], row["text"]) for row in json.loads(rows)][::2] == [("Anna", "come in"), ("", "who is it?")]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_cues_are_read_back(form: str) -> None:
    pytest.importorskip("charset_normalizer")
    texts = [text for text in TEXTS if text.start < 5]
    subtitles = parse_subtitles(to_transcript(texts, form).encode(), f".{form}")
    assert subtitles.problems == []
    found = [(text.start, text.text) for text in subtitles.texts]
    expected = [(text.start, text.text) for text in sorted(texts, key=lambda text: text.start)]
    if form == "srt":
        expected = [(start, text.replace("<", "\u2039").replace(">", "\u203a")) for start, text in expected]
        assert [start for start, _ in found] == [start for start, _ in expected]
        assert found[0] == expected[0]
    else:
        assert found[:2] == expected[:2]


def test_json_has_everything() -> None:
    rows = json.loads(to_transcript(TEXTS, "json"))
    assert rows[1] == {
        "start": 1.5,
        "end": 4.0,
        "text": "Fish & chips: 2 < 3",
        "source": "speech",
        "confidence": 0.5,
        "language": "en",
        "speaker": "",
    }
    assert len(rows) == 8


def test_plain_text_names_sources_only_if_there_are_several() -> None:
    lines = to_transcript(TEXTS, "txt").splitlines()
    assert lines[1] == "     0:01.5  speech  Fish & chips: 2 < 3"
    assert lines[4] == "     0:06.0  speech  駅 \N{REPLACEMENT CHARACTER}[31m می‌خواهم \N{REPLACEMENT CHARACTER}"
    assert to_transcript(TEXTS[1:2], "txt") == "0:01.5  Fish & chips: 2 < 3\n"


def test_no_texts() -> None:
    empty = {"txt": "", "srt": "", "vtt": "WEBVTT\n", "json": "[]\n"}
    assert {form: to_transcript([], form) for form in TRANSCRIPT_FORMATS} == empty


SHOTS = [Shot(0.0, 12.480000001, None), Shot(12.48, 75.25, "cut"), Shot(77.0, 80.0, "dissolve")]


def test_shots_in_csv_and_json_agree() -> None:
    rows = json.loads(format_shots(SHOTS, "json"))
    assert rows[0] == {"shot": 1, "start": 0.0, "end": 12.48, "length": 12.48, "begins_with": None}
    assert rows[2] == {"shot": 3, "start": 77.0, "end": 80.0, "length": 3.0, "begins_with": "dissolve"}
    text = format_shots(SHOTS, "csv")
    assert text.startswith("shot,start,end,length,begins_with\r\n1,0.0,12.48,12.48,\r\n")
    table = list(csv.DictReader(io.StringIO(text)))
    assert [{name: str("" if value is None else value) for name, value in row.items()} for row in rows] == table


def test_start_and_length_add_up_to_the_end() -> None:
    (row,) = csv.DictReader(io.StringIO(format_shots([Shot(1 / 3, 2 / 3, None)], "csv")))
    assert Decimal(row["start"]) + Decimal(row["length"]) == Decimal(row["end"])


def test_table_of_shots(capsys: pytest.CaptureFixture[str]) -> None:
    show_shots(SHOTS)
    assert capsys.readouterr().out.splitlines() == [
        "shot   start     end  length  begins with",
        "   1  0:00.0  0:12.4  12.4 s  ",
        "   2  0:12.4  1:15.2  62.8 s  cut",
        "   3  1:17.0  1:20.0   3.0 s  dissolve",
    ]
