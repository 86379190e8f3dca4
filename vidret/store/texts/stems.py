"""Stemming of texts with a cache of words, and splitting of scripts without spaces."""

import contextlib
import re
import sqlite3
from collections import ChainMap
from collections.abc import Mapping, Sequence
from itertools import chain, islice, product

from vidret.store.catalog.database import ClosingConnection
from vidret.text import compose

TOKENIZER = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"  # a vowel sign, as of Hindi, splits no word

# Han, Hiragana, Katakana, Hangul, Thai, Lao, Khmer, Myanmar.
UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_UNSPACED = re.compile(f"({UNSPACED})")
# The points of Hebrew and Arabic, which most texts lack; tatweel, joiners, and the variants of emoji.
_UNWRITTEN = re.compile(
    r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8"
    r"\u06ea-\u06ed\u200d\ufe00-\ufe0f]"
)
_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_IN_DIGITS = {word: str(number) for number, word in enumerate(_SMALL_NUMBERS.split())}
_IN_WORDS = {digits: word for word, digits in _IN_DIGITS.items()}
_WORDS = re.compile(r"(\w+)")
MAX_MIXTURES = 8  # of numbers in digits and in words
MAX_KNOWN_WORDS, MAX_KNOWN_LETTERS = 100_000, 64  # limits of the cache of stems, about 20 MB


class Stemmer:
    """Splits texts into stems by FTS5 in memory, with a cache of words; one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}  # the garbage collector skips tuples of texts, but not lists
        self._database = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None, factory=ClosingConnection
        )
        self._database.execute(f'CREATE VIRTUAL TABLE scratch USING fts5(body, tokenize = "porter {TOKENIZER}")')
        self._database.execute("CREATE VIRTUAL TABLE instances USING fts5vocab(scratch, instance)")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the stems of each text, in order."""
        words = [split_unspaced(text).split() for text in texts]
        with contextlib.suppress(KeyError):  # the usual case: all are known
            return [list(chain.from_iterable(map(self._known.__getitem__, text_words))) for text_words in words]
        if len(self._known) > MAX_KNOWN_WORDS:
            self._known.clear()
        known: Mapping[str, tuple[str, ...]] = self._known
        new = [word for word in {word for text_words in words for word in text_words} if word not in known]
        fresh = dict(zip(new, map(tuple, self.split(new)), strict=True))
        self._known |= {word: stems for word, stems in fresh.items() if len(word) <= MAX_KNOWN_LETTERS}
        if any(len(word) > MAX_KNOWN_LETTERS for word in new):
            known = ChainMap(self._known, fresh)
        return [list(chain.from_iterable(map(known.__getitem__, text_words))) for text_words in words]

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the stems (Porter) of each text, in order, without the cache."""
        if not texts:
            return []
        stems: list[list[tuple[int, str]]] = [[] for _ in texts]
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT INTO scratch (rowid, body) VALUES (?, ?)", enumerate(texts))
            for term, row, offset in self._database.execute("SELECT term, doc, offset FROM instances"):
                if term:  # none of an accent without a letter
                    stems[row].append((offset, term))
        finally:
            self._database.execute("ROLLBACK")
        return [[term for _, term in sorted(terms)] for terms in stems]


def split_unspaced(text: str) -> str:
    """Put spaces around each character of a script that has none between words, and write ß as ss.

    Letters with separate accents are composed (NFC), and what most texts leave unwritten, such as points, is left out.

    >>> split_unspaced("駅 exit 出口 Straße")
    ' 駅  exit  出  口  Strasse'
    """
    if text.isascii():  # most texts
        return text.replace("\0", " ")
    storable = compose(text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8"))  # replaces lone surrogates
    return _UNSPACED.sub(r" \1 ", _UNWRITTEN.sub("", storable).replace("ß", "ss").replace("ẞ", "SS"))


def vary_numbers(text: str) -> list[str]:
    """Return a text, and variants with small numbers in digits, in words and mixed, if they differ.

    All have as many words. Of many numbers not all mixtures are returned.

    >>> vary_numbers("Dial one or 2")
    ['Dial one or 2', 'Dial 1 or 2', 'Dial one or two', 'Dial 1 or two']
    """
    twins = _IN_DIGITS | _IN_WORDS
    spellings = [dict.fromkeys((piece, twins.get(piece.lower(), piece))) for piece in _WORDS.split(text)]
    mixtures = islice(map("".join, product(*spellings)), MAX_MIXTURES)
    return list(dict.fromkeys((text, _replace_words(text, _IN_DIGITS), spell_numbers(text), *mixtures)))


def spell_numbers(text: str) -> str:
    """Return a text with small numbers in words."""
    return _replace_words(text, _IN_WORDS)


def _replace_words(text: str, twins: Mapping[str, str]) -> str:
    return "".join(twins.get(piece.lower(), piece) for piece in _WORDS.split(text))
