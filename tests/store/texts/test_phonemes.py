"""Pronunciation of words, and alignment of phonemes against a naive twin."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.nn.functional import conv1d, relu

from vidret.store.texts import phonemes
from vidret.store.texts.phonemes import (
    PHONEMES,
    SYMBOLS,
    WEIGHTS,
    align_phonemes,
    encode_letters,
    locate_phonemes,
    pronounce,
)

SOUNDS = st.text(st.sampled_from(SYMBOLS), max_size=12)


def spell(word: str) -> str:
    """Return the phonemes of a word by their names."""
    names = dict(zip(SYMBOLS, PHONEMES.split(), strict=True))
    return " ".join(names[symbol] for symbol in pronounce([word])[0])


@pytest.mark.parametrize(
    ("word", "sounds"),
    [("cat", "K AE T"), ("ship", "SH IH P"), ("knees", "N IY Z"), ("photo", "F OW T OW"), ("light", "L AY T")],
)
def test_words_are_pronounced(word: str, sounds: str) -> None:
    assert spell(word) == sounds


def test_texts_are_pronounced_as_their_words_in_a_row() -> None:
    words = ["Goal", "keeper", "isn't", "7", "seven", "caf\u00e9", "cafe", "駅", "", "1999"]
    spoken = dict(zip(words, pronounce(words), strict=True))
    assert pronounce(["Goal keeper, 7!"]) == [spoken["Goal"] + spoken["keeper"] + spoken["seven"]]
    assert spoken["7"] == spoken["seven"]
    assert spoken["caf\u00e9"] == spoken["cafe"]
    assert spoken["駅"] == spoken[""] == spoken["1999"] == ""
    assert pronounce([]) == []


def test_pronunciation_of_a_word_does_not_depend_on_the_others() -> None:
    words = ["a", "kubernetes", "x" * 200, "siobhan"]
    together = pronounce(words)
    phonemes._known_words.clear()
    assert [pronounce([word])[0] for word in words] == together


def test_words_stay_pronounced_while_another_thread_clears_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, pronounce_words = pronounce(["goal keeper"]), phonemes._pronounce_words

    def clear(words: Sequence[str]) -> list[str]:
        phonemes._known_words.clear()
        return pronounce_words(words)

    phonemes._known_words.pop("keeper", None)
    monkeypatch.setattr(phonemes, "_pronounce_words", clear)
    assert pronounce(["goal keeper"]) == expected


def test_many_new_words_are_pronounced_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, pronounce_words = list[int](), phonemes._pronounce_words

    def note(words: Sequence[str]) -> list[str]:
        lengths.append(len(words))
        return pronounce_words(words)

    words = ["".join(letters) for letters in product("bcdfg", "aeiou", "klmnp", "aeiou")]
    for word in words:
        phonemes._known_words.pop(word, None)
    monkeypatch.setattr(phonemes, "_pronounce_words", note)
    pronounced = pronounce(words)
    assert sum(lengths) == len(words)
    assert max(lengths) <= phonemes.BATCH  # 5000 words at once need 600 MB
    monkeypatch.undo()
    assert pronounced[::100] == pronounce_words(words[::100])


def test_network_is_that_of_torch() -> None:
    weights = {name: torch.from_numpy(array).float() for name, array in load_file(WEIGHTS).items()}
    words = ["strength", "glaciers", "of"]
    states = torch.from_numpy(encode_letters(words)).transpose(1, 2)
    states = relu(conv1d(states, weights["first.weight"], weights["first.bias"]))
    states = relu(conv1d(states, weights["second.weight"], weights["second.bias"])) + states[..., 1:-1]
    logits = conv1d(states, weights["third.weight"], weights["third.bias"]).transpose(1, 2)
    for word, row in zip(words, logits.reshape(len(words), -1, len(SYMBOLS) + 1), strict=True):
        classes = row[: 2 * len(word)].argmax(-1).tolist()
        assert pronounce([word]) == [phonemes.decode_phonemes(classes)]


def align_naively(said: str, heard: str) -> float:
    """Return the best alignment of ``said`` with a part of ``heard``, by its recursive definition."""
    weights = {name: array.astype(np.float64) for name, array in load_file(WEIGHTS).items() if array.ndim < 3}
    first, second = ([SYMBOLS.index(symbol) for symbol in text] for text in (said, heard))
    best = {(0, place): 0.0 for place in range(len(second) + 1)}
    for i in range(1, len(first) + 1):
        for j in range(len(second) + 1):
            ways = [best[i - 1, j] + weights["gap"][first[i - 1]]]
            if j:
                ways.append(best[i - 1, j - 1] + weights["substitution"][first[i - 1], second[j - 1]])
                ways.append(best[i, j - 1] + weights["gap"][second[j - 1]])
            best[i, j] = max(ways)
    return max(best[len(first), place] for place in range(len(second) + 1)) - math.log(len(second))


@given(SOUNDS.filter(bool), st.lists(SOUNDS, max_size=4))
def test_alignment_is_the_best_of_all(said: str, heard: list[str]) -> None:
    expected = [align_naively(said, text) if text else -math.inf for text in heard]
    assert align_phonemes(said, heard).tolist() == pytest.approx(expected, abs=1e-9)


def test_nothing_said_sounds_like_nothing() -> None:
    assert align_phonemes("", ["ABC"]).tolist() == [-math.inf]
    assert align_phonemes("ABC", []).tolist() == []


def test_damaged_phonemes_end_no_search() -> None:
    intact = float(align_phonemes("ABC", ["ABC"])[0])
    assert align_phonemes("ABC", ["ABC", "\u00e9"])[0] == intact


def test_misheard_words_sound_alike() -> None:
    said, *heard = pronounce(
        ["goalkeeper has signed", "I will keep her from sign the new contract", "the ferry runs twice a day in winter"]
    )
    near, far = align_phonemes(said, heard).tolist()
    assert near > 5 > 0 > far


@given(SOUNDS.filter(bool), SOUNDS.filter(bool))
def test_place_is_that_of_the_best_alignment(said: str, heard: str) -> None:
    start, end = locate_phonemes(said, heard)
    whole = float(align_phonemes(said, [heard])[0]) + math.log(len(heard))
    if start < end:
        part = float(align_phonemes(said, [heard[start:end]])[0]) + math.log(end - start)
        assert part == pytest.approx(whole, abs=1e-9)


def test_odds_are_symmetric_and_favour_the_same_phoneme() -> None:
    substitution = load_file(WEIGHTS)["substitution"]
    np.testing.assert_allclose(substitution, substitution.T)
    assert (substitution.argmax(axis=0) == np.arange(len(SYMBOLS))).all()
    assert (load_file(WEIGHTS)["gap"] < 0).all()
