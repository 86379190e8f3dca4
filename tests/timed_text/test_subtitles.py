"""Subtitle files: formats, encodings, damage, and scripts; arbitrary bytes raise nothing but VidretError."""

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidret.errors import VidretError
from vidret.timed_text import subtitles
from vidret.timed_text.subtitles import SUFFIXES, find_language, parse_subtitles
from vidret.types import TimedText

pytest.importorskip("pysubs2", reason='the extra "words" is not installed')

SRT = "1\n00:00:01,000 --> 00:00:02,500\nHello there\n\n2\n00:00:03,000 --> 00:00:04,000\n<i>Second</i>\nline\n"
VTT = """WEBVTT - made by hand

STYLE
::cue { color: red }

00:01.000 --> 00:02.500 align:start
<v Ann>Hello <00:02.000>there</v>

NOTE a remark
of two lines

second
00:00:03.000 --> 00:00:04.000
<c.red>Second</c>
line
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,A remark
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\b1}Hello{\\b0} there
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Second\\Nline
"""
HELLO = [
    TimedText(1.0, 2.5, "Hello there", "subtitles"),
    TimedText(3.0, 4.0, "Second line", "subtitles"),
]


def srt(*lines: str) -> bytes:
    """Return a SubRip file whose entries last a second each."""
    return "".join(f"{k}\n00:00:0{k},000 --> 00:00:0{k},900\n{line}\n\n" for k, line in enumerate(lines)).encode()


def words(data: bytes, suffix: str = ".srt") -> list[str]:
    """Return the words of the entries."""
    return [text.text for text in parse_subtitles(data, suffix).texts]


@pytest.mark.parametrize(("content", "suffix"), [(SRT, ".srt"), (VTT, ".vtt"), (ASS, ".ass")])
def test_formats(content: str, suffix: str) -> None:
    found = parse_subtitles(content.encode(), suffix)
    assert found.texts == HELLO
    assert found.problems == []
    assert parse_subtitles(content.replace("\n", "\r\n").encode(), suffix).texts == HELLO
    assert parse_subtitles(content.replace("\n", "\r").encode(), suffix).texts == HELLO


def test_language() -> None:
    assert [text.language for text in parse_subtitles(SRT.encode(), ".srt", language="en").texts] == ["en", "en"]
    assert [find_language(name) for name in ("film.en.srt", "film.pt-BR.srt", "film.de.forced.vtt", "film.srt")] == [
        "en",
        "pt",
        "de",
        "",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
def test_encodings(encoding: str) -> None:
    content = SRT.replace("Hello", "Größe 駅")
    marks = {"utf-16-le-bom": (b"\xff\xfe", "utf-16-le"), "utf-16-be-bom": (b"\xfe\xff", "utf-16-be")}
    mark, codec = marks.get(encoding, (b"", encoding))
    found = parse_subtitles(mark + content.encode(codec), ".srt")
    assert found.texts[0].text == "Größe 駅 there"
    assert found.problems == []


def test_windows_1252_is_guessed_and_said() -> None:
    found = parse_subtitles(SRT.replace("Second", "Café").encode("cp1252"), ".srt")
    assert found.texts[1].text == "Café line"
    assert len(found.problems) == 1
    assert "line 7" in found.problems[0]


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_utf_16_without_a_byte_order_mark(suffix: str) -> None:
    content = SRT if suffix == ".srt" else VTT
    for codec in ("utf-16-le", "utf-16-be"):
        found = parse_subtitles(content.encode(codec), suffix)
        assert found.texts == HELLO
        assert len(found.problems) == 1


def test_malformed_lines_are_named() -> None:
    content = SRT + "\n3\n00:00:05,000 -> oops --> 6\nLost\n\n4\n00:00:07,000 --> 00:00:08,000\nKept\n"
    found = parse_subtitles(content.encode(), ".srt")
    assert found.texts == [*HELLO, TimedText(7.0, 8.0, "Kept", "subtitles")]
    assert len(found.problems) == 1
    assert "line 11" in found.problems[0]


def test_entry_that_ends_before_it_starts() -> None:
    content = SRT + "\n3\n00:00:09,000 --> 00:00:08,000\nBackwards\n"
    found = parse_subtitles(content.encode(), ".srt")
    assert found.texts == HELLO
    assert len(found.problems) == 1
    assert "Backwards" in found.problems[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty_file(content: bytes, suffix: str) -> None:
    found = parse_subtitles(content, suffix)
    assert found.texts == []
    assert found.problems == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_files_are_named_as_unreadable(suffix: str) -> None:
    with contextlib.suppress(VidretError):
        found = parse_subtitles(b"Dear diary,\nnothing happened today.\n", suffix)
        assert found.texts == []
        assert len(found.problems) == 1


def test_scripts() -> None:
    lines = ["مرحبا بالعالم", "שלום עולם", "駅の出口はどこですか", "출구가 어디예요", "ทางออกอยู่ที่ไหน", "I ❤️ emoji"]
    assert words(srt(*lines)) == lines


def test_formatting_is_removed() -> None:
    assert words(srt("{\\an8}<b>Bold</b>  <font color='red'>move</font>", "2 < 3 and 5 > 4", "A &amp; B")) == [
        "Bold move",
        "2 < 3 and 5 > 4",
        "A & B",
    ]


def test_repeats_are_joined() -> None:
    content = srt("Same", "Same").replace(b"00:00:00,900", b"00:00:01,000")
    assert parse_subtitles(content, ".srt").texts == [TimedText(0.0, 1.9, "Same", "subtitles")]


def test_huge_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtitles, "MAX_BYTES", 1 << 20)
    with pytest.raises(VidretError, match="1 MiB"):
        parse_subtitles(bytes((1 << 20) + 1), ".srt")


def test_many_entries_are_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtitles, "MAX_ENTRIES", 2)
    found = parse_subtitles(srt("one", "two", "three"), ".srt")
    assert [text.text for text in found.texts] == ["one", "two"]
    assert len(found.problems) == 1


PIECES = st.sampled_from(
    [
        *(b"\n", b"\r\n", b"1", b"WEBVTT", b"-->", b" --> ", b"00:00:01,000 --> 00:00:02,000\n", b"\0", b"\xff\xfe"),
        *(
            b"[Events]\n",
            b"[Script Info]\n",
            b"Format: Start, End, Text\n",
            b"Dialogue: 0,0:00:01.00,0:00:02.50,",
            b",",
        ),
        *(b"99999999999999:00:00,000 --> 99999999999999:00:01,000\n", b"<i>", b"{\\b1}", b"NOTE", b"STYLE", b"\xe9"),
        *(
            b"Style: Default,Arial,20\n",
            b"[V4+ Styles]\n",
            b"00:00:00.000 --> 00:00:00.-5",
            b"&#x110000;",
            b"[Fonts]\n",
        ),
    ]
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join)), st.sampled_from(SUFFIXES))
@example(b"1\n00:00:01,000 --> 00:00:02,000\n&#x110000; &#0;\n", ".srt")
@example(b"1\n99999999999999:00:00,000 --> 99999999999999:00:01,000\nfar\n", ".srt")
def test_arbitrary_bytes(data: bytes, suffix: str) -> None:
    with contextlib.suppress(VidretError):
        found = parse_subtitles(data, suffix)
        assert all(0 <= text.start <= text.end and text.text for text in found.texts)
        assert [text.start for text in found.texts] == sorted(text.start for text in found.texts)
