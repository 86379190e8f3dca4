"""Sentence vectors of MiniLM: unit length, meaning, and texts that no tokenizer accepts; how often words occur."""

import numpy as np
import pytest

from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.registry import as_sentence
from vidret.encode.sentences import (
    DIM,
    RARE_SHARE,
    ZIPF,
    _load_ranks,
    find_word_share,
    is_english,
    load_sentence_encoder,
)
from vidret.types import TEXT_SOURCES, TimedText


def test_vectors_have_unit_length_and_compare_meanings() -> None:
    texts = ["how to sand a door", "smooth the wood before painting", "the train leaves at nine", ""]
    vectors = load_sentence_encoder().encode(texts)
    assert vectors.shape == (4, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert load_sentence_encoder().encode([]).shape == (0, DIM)


def test_long_text_is_truncated_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    long = "wood " * 200
    first, _, again = load_sentence_encoder().encode([long, "short", long])
    np.testing.assert_allclose(first, again, atol=1e-5)
    load_sentence_encoder().encode([long])
    assert [record.getMessage()[:29] for record in caplog.records] == ["only the first 128 word piece"]


def test_lone_surrogates_are_replaced() -> None:
    """Arguments and file names that are no UTF-8 hold them."""
    vectors = load_sentence_encoder().encode(["red \udcff car", "red ? car", "\ud800"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.isfinite(vectors).all()


def test_what_is_said_is_quoted() -> None:
    """So that it is nearest to queries for words, not to what the words are about."""
    texts = {source: as_sentence(TimedText(0.0, 1.0, "hold the line", source)) for source in TEXT_SOURCES}
    assert {source for source, text in texts.items() if text == '"hold the line"'} == {"speech", "subtitles"}
    assert {source for source, text in texts.items() if text == "hold the line"} == {"screen", "generated", "sound"}


def test_words_occur_as_often_as_zipf_says() -> None:
    words = ["the", "people", "car", "dog", "lighthouse", "violinist"]
    shares = [find_word_share(word) for word in words]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == ZIPF
    assert find_word_share("The") == shares[0]
    for unknown in ("qwxyz", "", "the line", "12", "\ud800"):
        assert find_word_share(unknown) == RARE_SHARE < min(shares)


def test_shares_are_those_of_one_language() -> None:
    """The shares of all words of the vocabulary add up to about one, as far as Zipf's law holds."""
    vocabulary = [find_word_share(word) for word in _load_ranks()]
    assert len(set(vocabulary)) == len(vocabulary)
    assert 0.8 < sum(vocabulary) < 1.2
    assert min(vocabulary) > RARE_SHARE


def test_spellings_and_forms_of_a_word_are_used_alike_and_other_words_are_not() -> None:
    model = load_sentence_encoder()
    for one, other in [("colour", "color"), ("theatre", "theater"), ("woman", "women"), ("realise", "realize")]:
        assert model.compare_words([one], [other]) > 0.5 > 0.3 > model.compare_words([one, "exist"], ["exit", "horse"])
    assert model.compare_words(["qwxyz"], ["exit"]) == model.compare_words([], ["exit"]) == 1


FOREIGN = ["ein Hund am Strand", "une femme ouvre la porte", "un chien sur la plage", "un perro en la playa"]
FOREIGN += ["un perro corre por la playa", "una donna nella cucina", "uma mulher abre a porta", "een man in het park"]
FOREIGN += ["bir köpek", "собака на пляже", "海滩上的狗", "कुत्ता", "كلب على الشاطئ"]
ENGLISH = (
    *("", "123", "dog", "a man in a van", "Los Angeles at night", "Big Sur", "a café", "Leonardo da Vinci"),
    *("El Capitan", "the word und on a sign", "a sign with 出口", "las vegas strip", "you've won", "I\u2019ve never"),
)


def test_english_is_told_from_other_languages() -> None:
    assert [text for text in FOREIGN if is_english(text)] == []
    assert [text for text in (*ENGLISH, *UNRELATED) if not is_english(text)] == []
