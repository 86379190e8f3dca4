"""How well timed texts match a clause, against a naive twin and in a small store."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.words import DIM, create_words, make_texts, random_vectors
from vidret.search.clauses import make_clause
from vidret.search.text_matching import (
    FUZZY_WEIGHT,
    MIN_COSINE_DEVIATION,
    PHRASE_BONUS,
    STOP_STEMS,
    STOP_WEIGHT,
    TextBaseline,
    TextMatch,
    TextMatcher,
    cover_terms,
    holds_phrase,
    weigh_terms,
)
from vidret.store.text_index import Term

SAID = (
    "the filename is too long",
    "a green lighthouse behind the hill",
    "the file name is missing",
    "please hold the line",
    "the line is busy, please call again",
    "strikes go on for the fourth day",
    "the day after the fourth strike",
    "i'm sure you're in their house",
)


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextMatcher]:
    with create_words(tmp_path_factory.mktemp("said")) as store:
        texts = make_texts(SAID)
        track = store.begin("film", "speech", "model", duration_s=60.0)
        store.add(track, texts, random_vectors(texts), until_s=60.0)
        store.finish(track)
        yield TextMatcher(store)


def find(matcher: TextMatcher, query: str, phrases: Sequence[str] = ()) -> list[TextMatch]:
    """Return the matches of a query, by cover."""
    clause = replace(make_clause(query), phrases=tuple(phrases))
    found = matcher.find([clause], np.eye(1, DIM, dtype=np.float32))[0]
    return sorted(found, key=lambda match: -match.cover)


def best(matcher: TextMatcher, query: str) -> tuple[str, float]:
    match = find(matcher, query)[0]
    return match.stored.text.text, match.cover


def check_best(matcher: TextMatcher, query: str, text: str, cover: float) -> None:
    actual = best(matcher, query)
    assert actual[0] == text
    assert actual[1] == pytest.approx(cover)


def test_texts_are_found_by_their_words(matcher: TextMatcher) -> None:
    check_best(matcher, "green lighthouse", SAID[1], 1 + PHRASE_BONUS)
    check_best(matcher, "lighthouse green", SAID[1], 1)
    check_best(matcher, "calling", SAID[4], 1)
    assert best(matcher, "green fox")[1] < 0.7


def test_misspelt_words_count_in_part(matcher: TextMatcher) -> None:
    text, cover = best(matcher, "lighthose")
    assert text == SAID[1]
    assert 0.7 < cover < FUZZY_WEIGHT


def test_another_first_letter_makes_another_word(matcher: TextMatcher) -> None:
    assert all(match.cover == 0 for match in find(matcher, "nighthouse"))


def test_words_may_be_joined(matcher: TextMatcher) -> None:
    assert {match.stored.text.text for match in find(matcher, "filename") if match.cover >= 1} == {SAID[0], SAID[2]}
    assert {match.stored.text.text for match in find(matcher, "file name") if match.cover >= 1} == {SAID[0], SAID[2]}


def test_rare_words_weigh_more_than_frequent_ones(matcher: TextMatcher) -> None:
    by_text = {match.stored.text.text: match.cover for match in find(matcher, "line lighthouse")}
    assert by_text[SAID[1]] > 0.5 > by_text[SAID[3]] > 0


def test_phrases_must_be_held(matcher: TextMatcher) -> None:
    found = find(matcher, "fourth day strike", ["fourth day"])
    assert [match.stored.text.text for match in found] == [SAID[5]]
    assert found[0].cover == pytest.approx(1 + PHRASE_BONUS)
    assert {match.stored.text.text for match in find(matcher, "x", ["fourth day", "hold"])} == {SAID[3], SAID[5]}
    assert find(matcher, "the line", ["hold line"]) == []
    assert find(matcher, "the line", ["!?"]) == []


def test_cosine_is_the_inner_product(matcher: TextMatcher) -> None:
    vector = random_vectors(make_texts(["please hold the line"]))
    found = matcher.find([make_clause("nothing of it")], vector)[0]
    cosines = {match.stored.text.text: match.cosine for match in found}
    assert len(cosines) == len(SAID), "the nearest texts, whatever their words"
    assert cosines["please hold the line"] == pytest.approx(1, abs=2e-3)


def test_clauses_have_their_own_candidates(matcher: TextMatcher) -> None:
    vectors = random_vectors(make_texts(["lighthouse", "busy"]))
    first, second = matcher.find([make_clause("lighthouse"), make_clause("busy")], vectors)
    assert max(first, key=lambda match: match.cover).stored.text.text == SAID[1]
    assert max(second, key=lambda match: match.cover).stored.text.text == SAID[4]


def test_marks_are_the_matching_words(matcher: TextMatcher) -> None:
    match = find(matcher, "the busy lines")[0]
    text = match.stored.text.text
    marked = [text[start:end] for start, end in matcher.mark(text, match.stems)]
    assert marked == ["line", "busy"], "without stop words"
    assert matcher.mark(text, frozenset()) == ()


@pytest.mark.parametrize("query", ["is it the", "I'm what you're", "isn't that his"])
def test_stop_words_are_no_evidence(matcher: TextMatcher, query: str) -> None:
    assert {stem for match in find(matcher, query) for stem in match.stems} == set()


def test_stop_words_in_quotes_are_evidence(matcher: TextMatcher) -> None:
    (match,) = find(matcher, "line", ["the line is"])
    text = match.stored.text.text
    assert {text[start:end] for start, end in matcher.mark(text, match.stems)} == {"the", "line", "is"}


def test_contents_that_hold_a_term(matcher: TextMatcher) -> None:
    assert matcher.holds("busy") == matcher.holds("fourth day") == {"film"}
    assert matcher.holds("day fourth") == matcher.holds("submarine") == matcher.holds("!") == set()


def test_standard_scores() -> None:
    baseline = TextBaseline(0.3, 0.1, 0.5, 0.2)
    assert baseline.standardise(0.5, 0.5) == pytest.approx(2)
    assert baseline.standardise(0.3, 1.1) == pytest.approx(3)
    narrow = TextBaseline(0.3, 0.0, 0.5, 0.0)
    assert narrow.standardise(0.3 + MIN_COSINE_DEVIATION, 0.0) == pytest.approx(1)


# The naive twin

STEMS = st.sampled_from(["file", "name", "filenam", "the", "of", "dog", "cat", "catdog"])
TERMS = st.lists(
    st.builds(
        Term,
        STEMS,
        st.integers(0, 60),
        st.dictionaries(STEMS, st.floats(0.5, 0.95), max_size=3),
    ),
    max_size=5,
    unique_by=lambda term: term.stem,
)


COMPOUNDS = {("file", "name"): "filenam", ("cat", "dog"): "catdog"}


def cover_naively(stems: list[str], terms: list[Term], weights: list[float]) -> float:
    """Compute the weighted share of terms that a text holds, word by word."""
    covered = 0.0
    for index, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        degrees = [0.0]
        joined = [
            COMPOUNDS.get((terms[i].stem, terms[i + 1].stem)) for i in (index - 1, index) if 0 <= i < len(terms) - 1
        ]
        for position, stem in enumerate(stems):
            before = stems[position - 1] if position else ""
            if stem == term.stem or stem in joined or COMPOUNDS.get((before, stem)) == term.stem:
                degrees.append(1.0)
            elif stem in term.similar:
                degrees.append(FUZZY_WEIGHT * term.similar[stem])
        covered += weight * max(degrees)
    cover = covered / sum(weights) if terms else 0.0
    wanted = " ".join(term.stem for term in terms)
    is_phrase = len(terms) > 1 and f" {wanted} " in f" {' '.join(stems)} "
    return cover + PHRASE_BONUS if is_phrase else cover


@given(st.lists(STEMS, max_size=8), TERMS)
def test_cover_agrees_with_its_naive_twin(stems: list[str], terms: list[Term]) -> None:
    weights = weigh_terms(terms, 60)
    cover, shared = cover_terms(stems, terms, weights, COMPOUNDS)
    assert cover == pytest.approx(cover_naively(stems, terms, weights))
    assert shared <= set(stems), "the stems that match are the text's"
    assert (cover > 0) == bool(shared)


def test_two_words_written_as_one_count_as_a_whole() -> None:
    joined, (file, name) = Term("filenam", 3, {}), (Term(stem, 3, {}) for stem in ("file", "name"))
    compounds = {("file", "name"): "filenam"}
    assert cover_terms(["a", "file", "name"], [joined], [2.0], compounds) == (1.0, {"file", "name"})
    assert cover_terms(["a", "filenam"], [file, name], [2.0, 1.0], compounds) == (1.0, {"filenam"})


@given(st.lists(STEMS, max_size=8), st.lists(STEMS, max_size=3))
def test_phrase_agrees_with_its_naive_twin(stems: list[str], phrase: list[str]) -> None:
    held = bool(phrase) and f" {' '.join(phrase)} " in f" {' '.join(stems)} "
    assert holds_phrase(stems, phrase) == held


def test_weights_are_inverse_document_frequencies() -> None:
    rare, frequent, stop, newer = weigh_terms(
        [Term("fox", 1, {}), Term("cat", 40, {}), Term("the", 1, {}), Term("dog", 200, {})], 100
    )
    assert rare == pytest.approx(math.log(1 + 99.5 / 1.5))
    assert frequent < rare
    assert stop == pytest.approx(STOP_WEIGHT * rare)
    assert "the" in STOP_STEMS
    assert newer > 0, "the full-text index may be ahead of the count"
