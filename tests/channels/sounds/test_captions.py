"""Captions of sounds among subtitles."""

import pytest

from vidret.channels.sounds.captions import find_captions
from vidret.types import TimedText


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("[applause]", ["applause"]),
        ("(Laughter)", ["laughter"]),
        ("- [door creaks] Who is there? [door creaks]", ["door creaks"]),
        ("♪ We will meet again ♪", ["music"]),
        ("[♪♪♪]", ["music"]),
        ("[♪ tense music ♪]", ["tense music"]),
        ("*thunder*", ["thunder"]),
        ("(1984)", []),
        ("Good morning.", []),
        ("(" + "a long aside " * 10 + ")", []),
    ],
)
def test_captions_are_found(words: str, expected: list[str]) -> None:
    captions = find_captions([TimedText(1.0, 3.0, words, "subtitles", 1.0, "en")])
    assert captions == [TimedText(1.0, 3.0, text, "sound", 1.0, "en") for text in expected]
