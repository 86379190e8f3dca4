"""Captions of sounds among subtitles: "[applause]", "(laughter)", "♪"."""

import re
from collections.abc import Iterable

from vidret.types import TimedText

MUSIC = "music"
MAX_CHARACTERS = 60  # of a caption; longer brackets are asides
_NOTES = re.compile("[♪♫♩♬]")
_BRACKETS = re.compile(r"\[([^\[\]]+)\]|\(([^()]+)\)|\*([^*]+)\*")
_WORD = re.compile(r"[^\W\d_]{2}")


def find_captions(texts: Iterable[TimedText]) -> list[TimedText]:
    """Return what subtitles say is heard, with their times; notes without words in brackets are music.

    >>> [caption.text for caption in find_captions([TimedText(1.0, 2.0, "[dog barks] Down!", "subtitles")])]
    ['dog barks']
    """
    found = []
    for text in texts:
        named = [" ".join(_NOTES.sub(" ", next(filter(None, own))).split()) for own in _BRACKETS.findall(text.text)]
        heard = [name.lower() for name in named if len(name) <= MAX_CHARACTERS and _WORD.search(name)]
        if not heard and _NOTES.search(text.text):
            heard = [MUSIC]
        found += [
            TimedText(text.start, text.end, name, "sound", text.confidence, text.language)
            for name in dict.fromkeys(heard)
        ]
    return found
