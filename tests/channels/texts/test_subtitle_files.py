"""Subtitle files: formats, encodings, damage, and scripts; arbitrary bytes raise nothing but VidretError."""

# ruff: noqa: RUF001

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.growth import assert_linear
from vidret.channels.texts import subtitle_files
from vidret.channels.texts.subtitle_files import (
    MAX_CHARACTERS,
    MAX_NAMED,
    MAX_PER_SECOND,
    SUFFIXES,
    clean,
    decode_text,
    drop_repeats,
    find_language,
    guess_encoding,
    parse_subtitles,
)
from vidret.errors import VidretError
from vidret.types import TimedText

pytest.importorskip("charset_normalizer", reason='the extra "words" is not installed')

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
HELLO = [TimedText(1.0, 2.5, "Hello there", "subtitles"), TimedText(3.0, 4.0, "Second line", "subtitles")]


def srt(*lines: str) -> bytes:
    """Return a SubRip file whose entries last a second each."""
    return "".join(f"{k}\n00:00:0{k},000 --> 00:00:0{k},900\n{line}\n\n" for k, line in enumerate(lines)).encode()


def words(data: bytes, suffix: str = ".srt") -> list[str]:
    """Return the words of the entries."""
    return [text.text for text in parse_subtitles(data, suffix).texts]


@pytest.mark.parametrize(("content", "suffix"), [(SRT, ".srt"), (VTT, ".vtt"), (ASS, ".ass")])
def test_formats(content: str, suffix: str) -> None:
    subtitles = parse_subtitles(content.encode(), suffix)
    assert subtitles.texts == HELLO
    assert subtitles.problems == []
    assert parse_subtitles(content.replace("\n", "\r\n").encode(), suffix).texts == HELLO
    assert parse_subtitles(content.replace("\n", "\r").encode(), suffix).texts == HELLO


def test_language_and_encoding() -> None:
    guessed = parse_subtitles(SRT.replace("Second", "Café").encode("cp1252"), ".srt")
    assert guessed.texts[1].text == "Café line"
    assert guessed.problems == ["line 7 is not UTF-8: read as Windows-1252"]
    assert [text.language for text in parse_subtitles(SRT.encode(), ".srt", language="en").texts] == ["en", "en"]
    names = {"film.en.srt": "en", "film.pt-BR.srt": "pt", "film.de.forced.vtt": "de", "film.srt": ""}
    names |= {"film.pol.srt": "pl", "a.rainy.day.srt": "", "film.SLO.cc.srt": "sk", "film.und.srt": ""}
    names |= {"film.fil.srt": "fil", "film.sdh.srt": ""}
    assert {name: find_language(name) for name in names} == names


@pytest.mark.parametrize(
    ("entry", "named", "kept"),
    [
        ("00:00:05,000 -> oops --> 6\nLost\n\n4\n00:00:07,000 --> 00:00:08,000\nKept", "line 11", [(7.0, 8.0, "Kept")]),
        ("00:00:09,000 --> 00:00:08,000\nBackwards", "Backwards", []),
    ],
)
def test_malformed_entries_are_named(entry: str, named: str, kept: list[tuple[float, float, str]]) -> None:
    subtitles = parse_subtitles(f"{SRT}\n3\n{entry}\n".encode(), ".srt")
    assert subtitles.texts == [*HELLO, *(TimedText(*row, "subtitles") for row in kept)]
    assert len(subtitles.problems) == 1
    assert named in subtitles.problems[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_without_entries(suffix: str) -> None:
    for content in (b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe"):
        subtitles = parse_subtitles(content, suffix)
        assert (subtitles.texts, subtitles.problems) == ([], [])
    other = parse_subtitles(b"Dear diary,\nnothing happened today.\n", suffix)
    assert (other.texts, other.problems) == ([], ["no entry could be read"])


def test_words_come_without_formatting() -> None:
    lines = {
        "{\\an8}<b>Bold</b>  <font color='red'>{a remark}move</font>": "Bold move",
        "2 < 3 and 5 > 4": "2 < 3 and 5 > 4",
        "A &amp; B": "A & B",
        "{\\an7\\p1}m 0 0 l 10 0 10 10{\\p0\\pos(1,2)}EXIT": "EXIT",
    }
    scripts = ("مرحبا بالعالم", "שלום עולם", "駅の出口はどこですか", "출구가 어디예요", "ทางออกอยู่ที่ไหน", "I ❤️ emoji")
    assert words(srt(*scripts)) == list(scripts)
    assert words(srt(*lines)) == list(lines.values())
    numbers = "1\n00:00:01,000 --> 00:00:02,000\nNumber\n\n42\n2\n00:00:03,000 --> 00:00:04,000\n1984\n"
    assert words(numbers.encode()) == ["Number 42", "1984"], "the number of an entry is no text"


def test_repeats_are_joined() -> None:
    content = srt("Same", "Same").replace(b"00:00:00,900", b"00:00:01,000")
    assert parse_subtitles(content, ".srt").texts == [TimedText(0.0, 1.9, "Same", "subtitles")]
    end, begin = (
        TimedText(at, at + 1, "♪", "subtitles", 1.0, language) for at, language in ((90.0, "de"), (1.0, "en"))
    )
    assert drop_repeats([end, begin]) == [end, begin], "of two tracks, one after the other"


def test_times_of_a_few_digits() -> None:
    subtitles = parse_subtitles(b"1\n02:01,5 --> 1:03:02.25\nshort\n", ".srt")
    assert [(text.start, text.end) for text in subtitles.texts] == [(121.5, 3782.25)]
    subtitles = parse_subtitles(b"1\n99999:00:00,000 --> 99999:00:01,000\nfar\n", ".srt")
    assert subtitles.texts == []
    assert "line 2 has no valid times" in subtitles.problems[0]


def test_the_order_of_fields_is_that_of_the_file() -> None:
    content = "[Events]\nFormat: Start, End, Text\nDialogue: 0:00:01.00,0:00:02.50,Hello, {a remark}there\n"
    assert parse_subtitles(content.encode(), ".ass").texts == [TimedText(1.0, 2.5, "Hello, there", "subtitles")]


def test_entries_after_the_end_of_the_video_are_left_out() -> None:
    subtitles = parse_subtitles(SRT.encode(), ".srt", video_end_s=2.0)
    assert subtitles.texts == [TimedText(1.0, 2.0, "Hello there", "subtitles")]
    assert subtitles.problems == ["entries that begin after the end of the video are left out: 1"]


def test_an_entry_is_cut_to_what_people_read() -> None:
    subtitles = parse_subtitles(srt("gold " * MAX_CHARACTERS, "short"), ".srt")
    assert [len(text.text) for text in subtitles.texts] == [MAX_CHARACTERS, len("short")]
    assert subtitles.problems == [f"entries are cut after {MAX_CHARACTERS} characters: 1"]


@pytest.mark.parametrize("suffix", [".srt", ".ass"])
def test_entries_of_one_second_are_limited(suffix: str) -> None:
    times = "00:00:01,000 --> 00:00:01,900\nword {k}\n\n" if suffix == ".srt" else ""
    line = times or "Dialogue: 0,0:00:01.00,0:00:01.90,Default,,0,0,0,,word {k}\n"
    later = "00:00:02,000 --> 00:00:03,000\nlater\n" if suffix == ".srt" else line.replace(":01", ":02")
    subtitles = parse_subtitles("".join([*(line.format(k=k) for k in range(1000)), later]).encode(), suffix)
    assert len(subtitles.texts) == MAX_PER_SECOND + 1
    assert subtitles.problems[0].endswith(f": {1000 - MAX_PER_SECOND}")


def test_faults_are_named_a_few_times_and_counted() -> None:
    subtitles = parse_subtitles(SRT.encode() + b"\n" + b"-->\n" * 1000, ".srt")
    assert subtitles.texts == HELLO
    assert len(subtitles.problems) == MAX_NAMED + 1
    assert subtitles.problems[-1] == f"each of {1000 - MAX_NAMED} more has no valid times"


def test_large_files_are_refused_or_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtitle_files, "MAX_ENTRIES", 2)
    subtitles = parse_subtitles(srt("one", "two", "three"), ".srt")
    assert [text.text for text in subtitles.texts] == ["one", "two"]
    assert len(subtitles.problems) == 1
    monkeypatch.setattr(subtitle_files, "MAX_BYTES", 1 << 20)
    with pytest.raises(VidretError, match="1 MiB"):
        parse_subtitles(bytes((1 << 20) + 1), ".srt")


TOKENS = ["\n", "\r\n", "1", "WEBVTT", "-->", " --> ", "00:00:01,000 --> 00:00:02,000\n", "\x00", "[Events]\n", ","]
TOKENS += ["[Script Info]\n", "[Fonts]\n", "NOTE", "STYLE", "Format: Start, End, Text\n", "Style: Default,Arial,20\n"]
TOKENS += ["Dialogue: 0,0:00:01.00,0:00:02.50,", "[V4+ Styles]\n", "{\\b1}", "<i>", "&#x110000;", "é", "ÿþ"]
TOKENS += ["99999999999999:00:00,000 --> 99999999999999:00:01,000\n", "00:00:00.000 --> 00:00:00.-5"]
PIECES = st.sampled_from(TOKENS).map(lambda piece: piece.encode("latin-1"))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join)), st.sampled_from(SUFFIXES))
@example(b"1\n00:00:01,000 --> 00:00:02,000\n&#x110000; &#0;\n", ".srt")
@example(b"1\n99999999999999:00:00,000 --> 99999999999999:00:01,000\nfar\n", ".srt")
def test_arbitrary_bytes(data: bytes, suffix: str) -> None:
    with contextlib.suppress(VidretError):
        subtitles = parse_subtitles(data, suffix)
        assert all(0 <= text.start <= text.end and text.text for text in subtitles.texts)
        assert [text.start for text in subtitles.texts] == sorted(text.start for text in subtitles.texts)


# What makes an expression try every end for every beginning, or a number of thousands of digits.
REPEATED = ["<a", "</a", "< ", "{", "{\\", "{\\{", "{\\p1", "\\p1", "\\{", "<1", "<:", "&#9", "9", "&", "&amp;"]
REPEATED += ["-->", "1:", "1\n", "[a", ",", " "]
CUE = "1\n00:00:00,500 --> 00:00:02,000\n"
DIALOGUE = "[Events]\nDialogue: 0,0:00:00.50,0:00:02.00,Default,,0,0,0,,"
HEADS = [("", ".srt"), (CUE, ".srt"), (f"{CUE}&#", ".srt"), ("WEBVTT\n\n00:00.500 -->", ".vtt"), (DIALOGUE, ".ass")]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("repeated", REPEATED)
def test_time_is_linear(repeated: str, head: tuple[str, str]) -> None:
    def make(length: int) -> str:
        return head[0] + repeated * (length // len(repeated))

    assert_linear(lambda text: parse_subtitles(text.encode(), head[1]), make)


@pytest.mark.parametrize("repeated", REPEATED)
def test_cleaning_and_names_take_linear_time(repeated: str) -> None:
    assert_linear(clean, lambda length: repeated * (length // len(repeated)))
    assert_linear(find_language, lambda length: ".en" + repeated * (length // len(repeated)) + "!")


# Encodings.

LINES = {
    "Windows-1251": ("cp1251", ["Где находится маяк?", "За холмом, у старой дороги.", "Она ушла вчера вечером."]),
    "KOI8-R": ("koi8_r", ["Где находится маяк?", "За холмом, у старой дороги.", "Она ушла вчера вечером."]),
    "Windows-1253": ("cp1253", ["Πού είναι ο φάρος;", "Πίσω από τον λόφο.", "Δεν ξέρω τι να κάνω."]),
    "Windows-1255": ("cp1255", ["איפה המגדלור?", "מאחורי הגבעה.", "אני לא יודע מה לעשות.", "מה קרה למכונית שלך?"]),
    "Windows-1256": ("cp1256", ["أين المنارة؟", "خلف التل.", "لا أعرف ماذا أفعل.", "افتح الباب من فضلك!"]),
    "Windows-874": ("cp874", ["ประภาคารอยู่ที่ไหน", "หลังเนินเขา", "ฉันไม่รู้จะทำอย่างไร"]),
    "Shift JIS": ("cp932", ["灯台はどこですか？", "丘の向こうです。", "私は何をすればいいかわからない。"]),
    "EUC-JP": ("euc_jp", ["灯台はどこですか？", "丘の向こうです。", "私は何をすればいいかわからない。"]),
    "GB 18030": ("gb18030", ["灯塔在哪里？", "在山的后面。", "我不知道该怎么办。", "她昨天晚上走了。"]),
    "Big5": ("big5", ["燈塔在哪裡？", "在山的後面。", "我不知道該怎麼辦。", "她昨天晚上走了。"]),
    "EUC-KR": ("euc_kr", ["등대가 어디에 있습니까?", "언덕 너머에 있어요.", "나는 무엇을 해야 할지 모르겠어요."]),
}
LATIN = {
    "": ("cp1252", "Où est le phare ? Derrière la colline, ça va."),
    "de": ("cp1252", "Hinter dem Hügel, schön weiß."),
    "pl": ("cp1250", "Za wzgórzem, już śpi. Nie wiem, co mam zrobić."),
    "tr": ("cp1254", "Dün akşam gitti, şimdi yok."),
}


@pytest.mark.parametrize("name", LINES)
def test_scripts_are_told_apart(name: str) -> None:
    codec, lines = LINES[name]
    plain = "1\n00:00:01,000 --> 00:00:02,000\n<i>Yes.</i>\n\n"  # times and tags are no evidence
    content = "".join(f"{plain}{line}\n\n" for line in lines)
    text, problems = decode_text(content.encode(codec))
    assert text == content
    assert problems == [f"line 5 is not UTF-8: read as {name}"]


@pytest.mark.parametrize("language", LATIN)
def test_the_language_decides_between_latin_alphabets(language: str) -> None:
    codec, line = LATIN[language]
    text, problems = decode_text(line.encode(codec), language)
    assert text == line
    assert problems == [f"line 1 is not UTF-8: read as {codec.replace('cp', 'Windows-')}"]
    pangram = "Zażółć gęślą jaźń"  # with letters beyond ASCII in runs, as in other alphabets
    assert decode_text(pangram.encode("cp1250"), "pl")[0] == pangram


def test_damaged_characters_and_noise_are_read_as_something() -> None:
    line = "За холмом, у старой дороги, стоит маяк."
    text, problems = decode_text(line.encode() + b"\nA\xd0\n")
    assert text == f"{line}\nA\ufffd\n"
    assert problems == ["line 2 is not UTF-8: damaged characters are replaced: 1"], "the encoding stays"
    text, problems = decode_text(bytes(range(1, 256)) * 10)
    assert len(text) > 1000
    assert len(problems) == 1


def test_plain_encodings_need_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtitle_files, "guess_encoding", None)
    word = "駅"
    for data in (
        word.encode(),
        word.encode("utf-8-sig"),
        word.encode("utf-16"),
        b"\xfe\xff" + word.encode("utf-16-be"),
    ):
        assert decode_text(data) == (word, [])
    for codec in ("utf-16-le", "utf-16-be"):  # without a byte order mark
        text, problems = decode_text(SRT.encode(codec))
        assert (text, len(problems)) == (SRT, 1)


@pytest.mark.parametrize("byte", [b"\xe9", b"\xcf\xf0", b"\n\xcf\xf0\xe8", b"\x8d", b"\xcf a"])
def test_guessing_takes_linear_time(byte: bytes) -> None:
    assert_linear(lambda text: guess_encoding(text.encode("latin-1")), lambda length: (byte * length).decode("latin-1"))
