"""Telling English from other languages, and the note of an encoder that understands English only."""

import logging

import pytest

from vidret.channels.picture.query_bank import UNRELATED
from vidret.encode.families import starter as starter_module
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.starter import is_english, note_language

FOREIGN = (
    "ein Hund am Strand",
    "une femme ouvre la porte",
    "un perro corre por la playa",
    "una donna nella cucina",
    "uma mulher abre a porta",
    "een man in het park",
    "bir köpek",
    "собака на пляже",
    "海滩上的狗",
    "कुत्ता",
    "كلب على الشاطئ",
)
ENGLISH = (
    *("", "123", "dog", "a man in a van", "Los Angeles at night", "Big Sur", "a café", "Leonardo da Vinci"),
    *("El Capitan", "the word und on a sign", "a sign with 出口", "las vegas strip", "you've won", "I\u2019ve never"),
)


def test_english_is_told_from_other_languages() -> None:
    assert [text for text in FOREIGN if is_english(text)] == []
    assert [text for text in (*ENGLISH, *UNRELATED) if not is_english(text)] == []


def test_the_starter_says_once_that_it_knows_english_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter_module, "_noted", set())
    starter = load_encoder("starter", device="cpu")
    with caplog.at_level(logging.WARNING):
        starter.encode_text(["a dog"])
        assert caplog.text == ""
        starter.encode_text(["ein Hund am Strand"])
        starter.encode_text(["собака на пляже"])
    assert [record.message for record in caplog.records] == [
        "starter understands English only, and this seems to be another language: ein Hund am Strand; "
        "for others, see --model multilingual"
    ]
    note_language("another", ["собака"])
    assert caplog.records[-1].message.startswith("another understands English only")
