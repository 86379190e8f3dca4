"""The phonemes of English words, and how likely one sequence of phonemes is heard as another.

A small convolutional network reads a word letter by letter, so names are pronounced too. It was trained on the CMU
pronouncing dictionary. The odds of mishearing were counted on sentences that speech synthesisers said and the bundled
speech model recognised. ``tools/build_phonemes.py`` does both.

Reference: Graves et al. 2006, "Connectionist Temporal Classification", for the network's output; Smith and Waterman
1981 for the alignment, which is of the whole query here.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from vidret.store.texts.stems import spell_numbers

WEIGHTS = Path(__file__).with_name("phonemes.safetensors")
PHONEMES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklm"  # one for each, to store them as text
NUM_LETTERS = 27  # a to z, and the space around a word
MARGIN = 5  # letters on each side that a phoneme may depend on
MAX_LETTERS = 40  # of a word; the rest is not pronounced
BATCH = 256  # words pronounced at once, at most 130 kB each
ALIGNED = 64  # texts aligned at once
_MAX_KNOWN_WORDS = 100_000
_WORD = re.compile(r"[a-z]+")
_PADDING = len(SYMBOLS)
_CODES = np.zeros(128, np.int64)  # the number of each symbol, by its character
_CODES[[ord(symbol) for symbol in SYMBOLS]] = np.arange(len(SYMBOLS))
_NEVER = -50.0  # nats of a phoneme heard as padding


@functools.cache
def _load() -> dict[str, Float32[np.ndarray, "..."]]:
    return {name: array.astype(np.float32) for name, array in load_file(WEIGHTS).items()}


def pronounce(texts: Sequence[str]) -> list[str]:
    """Return the phonemes of English texts, as ``SYMBOLS``, without spaces; letters with accents count as without.

    Numbers up to twenty are pronounced, other digits and scripts are not.
    """
    words = [_WORD.findall(_fold(spell_numbers(text))) for text in texts]
    known, distinct = _known_words, sorted(set().union(*words), key=len)
    # A copy, since another thread may clear the cache.
    pronounced = {word: phonemes for word in distinct if (phonemes := known.get(word)) is not None}
    new = [word for word in distinct if word not in pronounced]
    for first in range(0, len(new), BATCH):
        batch = new[first : first + BATCH]
        pronounced |= zip(batch, _pronounce_words(batch), strict=True)
    if len(known) > _MAX_KNOWN_WORDS:
        known.clear()
    known |= pronounced
    return ["".join(pronounced[word] for word in text_words) for text_words in words]


_known_words: dict[str, str] = {}


def _fold(text: str) -> str:
    folded = text.lower().replace("'", "").replace("\u2019", "")
    return folded if folded.isascii() else unicodedata.normalize("NFKD", folded)


def encode_letters(words: Sequence[str]) -> Float32[np.ndarray, "word place 27"]:
    """Return words as one-hot letters with a margin on both sides."""
    words = [word[:MAX_LETTERS] for word in words]
    codes = np.full((len(words), max(map(len, words)) + 2 * MARGIN), NUM_LETTERS - 1)
    for row, word in enumerate(words):
        codes[row, MARGIN : MARGIN + len(word)] = np.frombuffer(word.encode(), np.uint8) - ord("a")
    one_hot: Float32[np.ndarray, "word place 27"] = np.eye(NUM_LETTERS, dtype=np.float32)[codes]
    return one_hot


def decode_phonemes(classes: Sequence[int]) -> str:
    """Return the phonemes of the likeliest class of each output: 0 is none, and a repeated class is one phoneme.

    >>> decode_phonemes([0, 3, 3, 0, 3, 1])
    'CCA'
    """
    return "".join(
        SYMBOLS[here - 1] for before, here in zip([0, *classes], classes, strict=False) if here and here != before
    )


def _pronounce_words(words: Sequence[str]) -> list[str]:
    """Return the phonemes of words of the letters a to z."""
    weights, states = _load(), encode_letters(words)
    states = _convolve(states, weights["first.weight"], weights["first.bias"]).clip(0)
    states = _convolve(states, weights["second.weight"], weights["second.bias"]).clip(0) + states[:, 1:-1]
    logits = _convolve(states, weights["third.weight"], weights["third.bias"])
    outputs = logits.reshape(len(words), -1, len(SYMBOLS) + 1).argmax(axis=-1)  # two of a letter
    return [
        decode_phonemes(row[: 2 * min(len(word), MAX_LETTERS)].tolist())
        for word, row in zip(words, outputs, strict=True)
    ]


def _convolve(
    states: Float32[np.ndarray, "word place dim"],
    weight: Float32[np.ndarray, "out dim width"],
    bias: Float32[np.ndarray, " out"],
) -> Float32[np.ndarray, "word _place out"]:
    windows = sliding_window_view(states, weight.shape[2], axis=1)
    convolved: Float32[np.ndarray, "word _place out"] = np.tensordot(windows, weight, axes=((2, 3), (1, 2))) + bias
    return convolved


def align_phonemes(said: str, heard: Sequence[str]) -> Float64[np.ndarray, " text"]:
    """Return the best alignment of all of ``said`` with a part of each text ``heard``, in nats.

    That is how much likelier these phonemes are heard there if it was said than if something else was, for the best
    place in the text; and minus the logarithm of the number of places, since more places fit better by chance. A text
    without phonemes has minus infinity.
    """
    evidence = np.full(len(heard), -np.inf)
    rows = sorted((row for row in range(len(heard)) if said and heard[row]), key=lambda row: len(heard[row]))
    for first in range(0, len(rows), ALIGNED):  # by length, since texts aligned at once are padded to the longest
        some = rows[first : first + ALIGNED]
        texts = [heard[row] for row in some]
        evidence[some] = _align(said, texts).max(axis=1) - np.log([len(text) for text in texts])
    return evidence


def locate_phonemes(said: str, heard: str) -> tuple[int, int]:
    """Return the start and the end of the part of a text that ``align_phonemes`` finds, in phonemes."""
    end = int(_align(said, [heard])[0].argmax())
    return end - int(_align(said[::-1], [heard[:end][::-1]])[0].argmax()), end


def _align(said: str, heard: Sequence[str]) -> Float64[np.ndarray, "text place"]:
    """Return the best alignment of all of ``said`` with a part of each text that ends before each place."""
    codes, weights = _encode_symbols(heard), _load()
    substitution, gap = weights["substitution"].astype(np.float64), weights["gap"].astype(np.float64)
    substitution = np.append(substitution, np.full((len(SYMBOLS), 1), _NEVER), axis=1)
    # The cost of all phonemes of a text up to a place: a run of inserted ones is then a running maximum.
    inserted = np.zeros((len(codes), codes.shape[1] + 1))
    inserted[:, 1:] = np.cumsum(np.append(gap, _NEVER)[codes], axis=1)
    scores = np.zeros_like(inserted)  # the phonemes before the part cost nothing
    for code in _encode_symbols([said])[0].tolist():
        aligned = scores + gap[code]
        aligned[:, 1:] = np.maximum(aligned[:, 1:], scores[:, :-1] + substitution[code][codes])
        scores = inserted + np.maximum.accumulate(aligned - inserted, axis=1)
    return scores


def _encode_symbols(texts: Sequence[str]) -> Int64[np.ndarray, "text place"]:
    """Return phonemes as numbers, padded to one length."""
    lengths = np.array([len(text) for text in texts], np.int64)
    codes = np.full((len(texts), lengths.max(initial=0)), _PADDING)
    symbols = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    codes[np.arange(codes.shape[1]) < lengths[:, None]] = _CODES[symbols]
    return codes
