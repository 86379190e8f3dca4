"""Encodings of subtitle files: what is not UTF-8 or UTF-16 is guessed, and said."""

# ruff: noqa: RUF001

import codecs

import pytest

from tests.growth import assert_linear
from vidret.channels.texts import encodings
from vidret.channels.texts.encodings import decode_text, guess_encoding

pytest.importorskip("charset_normalizer", reason='the extra "words" is not installed')

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


def test_a_damaged_character_does_not_change_the_encoding() -> None:
    line = "За холмом, у старой дороги, стоит маяк."
    damaged = line.encode() + b"\nA\xd0\n"
    text, problems = decode_text(damaged)
    assert text == f"{line}\nA\ufffd\n"
    assert problems == ["line 2 is not UTF-8: damaged characters are replaced: 1"]


def test_plain_encodings_need_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "guess_encoding", None)
    for data in (
        "駅".encode(),
        "駅".encode("utf-8-sig"),
        "駅".encode("utf-16"),
        codecs.BOM_UTF16_BE + "駅".encode("utf-16-be"),
    ):
        assert decode_text(data) == ("駅", [])


def test_noise_is_read_as_something() -> None:
    text, problems = decode_text(bytes(range(1, 256)) * 10)
    assert len(text) > 1000
    assert len(problems) == 1


@pytest.mark.parametrize("byte", [b"\xe9", b"\xcf\xf0", b"\n\xcf\xf0\xe8", b"\x8d", b"\xcf a"])
def test_time_is_linear(byte: bytes) -> None:
    assert_linear(lambda text: guess_encoding(text.encode("latin-1")), lambda length: (byte * length).decode("latin-1"))
