"""How well timed texts match a clause, against a naive twin and in a small store."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.indexed_texts import DIM, create_words, make_texts, random_vectors
from vidret.channels.texts import matching
from vidret.channels.texts.matching import (
    ENGLISH_TEXTS,
    FUZZY_WEIGHT,
    STOP_STEMS,
    TYPICAL_WORDS,
    TextMatcher,
    TextMatches,
    holds_phrase,
    match_terms,
    pronounce_clause,
    weigh_terms,
)
from vidret.encode.sentences import RARE_SHARE
from vidret.search.query.clauses import make_clause
from vidret.store.texts.index import Term

TYPICAL = np.eye(1, DIM, 1, dtype=np.float32)[0]
SAID = (
    "the filename is too long",
    "a green lighthouse behind the hill",
    "the file name is missing",
    "please hold the line",
    "the line is busy, please call again",
    "strikes go on for the fourth day",
    "the day after the fourth strike",
    "i'm sure you're in their house",
    "for the weather press 1",
    "to leave platform two press on",
    "turn on the radio",
    "today we move it to cooper netties",
)
COUNTS = (len(SAID),) * 3  # of up to three clauses


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextMatcher]:
    with create_words(tmp_path_factory.mktemp("said")) as store:
        texts = make_texts(SAID)
        track = store.begin("film", "speech", "model", duration_s=60.0)
        store.add(track, texts, random_vectors(texts), until_s=60.0)
        store.finish(track)
        yield TextMatcher(store)


@dataclass(frozen=True)
class OneMatch:
    """One of some matches, with what they say of it."""

    text: str
    cosine: float
    hubness: float
    cover: float
    stems: frozenset[str]
    information: float
    num_adjacent: int
    num_words: int


def split(matches: TextMatches) -> list[OneMatch]:
    """Return matches one by one."""
    texts, num_words = [text.text for text in matches.texts], [matches.num_words] * len(matches.texts)
    columns = matches.cosines, matches.hubness, matches.cover, matches.stems, matches.information, matches.num_adjacent
    return list(map(OneMatch, texts, *columns, num_words))


def find(matcher: TextMatcher, query: str, phrases: Sequence[str] = ()) -> list[OneMatch]:
    """Return the matches of a query, by cover."""
    clause = replace(make_clause(query), phrases=tuple(phrases))
    found = matcher.find([clause], np.eye(1, DIM, dtype=np.float32), typical=TYPICAL, num_texts=COUNTS[:1])[0]
    return sorted(split(found), key=lambda match: -match.cover)


def best(matcher: TextMatcher, query: str) -> OneMatch:
    return find(matcher, query)[0]


@pytest.mark.parametrize(
    ("query", "text", "num_adjacent"),
    [
        ("green lighthouse", SAID[1], 1),
        ("lighthouse green", SAID[1], 0),
        ("calling", SAID[4], 0),
        ("the line is busy", SAID[4], 3),
        ("busy line", SAID[4], 0),
    ],
)
def test_texts_are_found_by_their_words(matcher: TextMatcher, query: str, text: str, num_adjacent: int) -> None:
    match = best(matcher, query)
    assert (match.text, match.num_adjacent) == (text, num_adjacent)
    assert match.cover == pytest.approx(1)


def test_other_and_misspelt_words_count_in_part(matcher: TextMatcher) -> None:
    assert best(matcher, "green fox").cover < 0.7
    assert best(matcher, "lighthose").text == SAID[1]
    assert 0.7 < best(matcher, "lighthose").cover < FUZZY_WEIGHT
    assert all(match.cover == 0 for match in find(matcher, "nighthouse")), "another first letter, another word"
    by_text = {match.text: match.cover for match in find(matcher, "line lighthouse")}
    assert by_text[SAID[1]] > 0.5 > by_text[SAID[3]] > 0, "rare words weigh more than frequent ones"


def test_words_with_misspelt_endings_count_in_part(matcher: TextMatcher) -> None:
    for misspelt in ("callign", "missimg"):
        assert 0.7 < best(matcher, misspelt).cover < FUZZY_WEIGHT
    for word in ("culling", "missive"):
        assert all(match.cover == 0 for match in find(matcher, word)), "another English word"


@pytest.mark.parametrize(("word", "misspelt"), [("strokes", "strikke"), ("greed", "greeen"), ("ratio", "raddio")])
def test_another_english_word_is_no_misspelt_one(matcher: TextMatcher, word: str, misspelt: str) -> None:
    assert all(match.cover == 0 for match in find(matcher, word))
    assert best(matcher, misspelt).cover > 0


def test_words_may_be_joined(matcher: TextMatcher) -> None:
    for query in ("filename", "file name"):
        assert {match.text for match in find(matcher, query) if match.cover >= 1} == {SAID[0], SAID[2]}


def test_phrases_must_be_held(matcher: TextMatcher) -> None:
    found = find(matcher, "fourth day strike", ["fourth day"])
    assert [match.text for match in found] == [SAID[5]]
    assert found[0].cover == pytest.approx(1)
    assert found[0].num_adjacent == 1
    assert {match.text for match in find(matcher, "x", ["fourth day", "hold"])} == {SAID[3], SAID[5]}
    assert find(matcher, "the line", ["hold line"]) == []
    assert find(matcher, "the line", ["!?"]) == []


def test_small_numbers_match_in_words_and_in_digits(matcher: TextMatcher) -> None:
    for query, text in (("press one", SAID[8]), ("Platform 2", SAID[9])):
        match = best(matcher, query)
        assert (match.text, match.num_adjacent) == (text, 1)
        assert match.cover > FUZZY_WEIGHT
        assert text in {match.text for match in find(matcher, query, [query])}
    assert read_marked(matcher, best(matcher, "platform 2")) == ["platform", "two"]
    assert matcher.holds("weather press one") == matcher.holds("platform 2 press") == {"film"}
    assert [match.text for match in find(matcher, "1") if match.cover] == [SAID[8]], "'on' has the stem of 'one'"


def test_cosine_is_the_inner_product(matcher: TextMatcher) -> None:
    vector = random_vectors(make_texts(["please hold the line"]))
    found = split(matcher.find([make_clause("nothing of it")], vector, typical=vector[0], num_texts=COUNTS[:1])[0])
    assert all(match.hubness == match.cosine for match in found)
    cosines = {match.text: match.cosine for match in found}
    assert len(cosines) == len(SAID), "the nearest texts, whatever their words"
    assert cosines["please hold the line"] == pytest.approx(1, abs=2e-3)


def test_clauses_have_their_own_candidates(matcher: TextMatcher) -> None:
    vectors = random_vectors(make_texts(["lighthouse", "busy"]))
    clauses = [make_clause("lighthouse"), make_clause("busy")]
    found = matcher.find(clauses, vectors, typical=TYPICAL, num_texts=COUNTS[:2])
    assert [max(split(matches), key=lambda match: match.cover).text for matches in found] == [SAID[1], SAID[4]]


def read_marked(matcher: TextMatcher, match: OneMatch) -> list[str]:
    """Return the words of a match that its stems mark."""
    return [match.text[start:end] for start, end in matcher._store.index.find_words(match.text, match.stems)]


def test_stop_words_are_evidence_only_in_quotes(matcher: TextMatcher) -> None:
    assert read_marked(matcher, best(matcher, "the busy lines")) == ["line", "busy"]
    for query in ("is it the", "I'm what you're", "isn't that his"):
        assert {stem for match in find(matcher, query) for stem in match.stems} == set()
    (match,) = find(matcher, "line", ["the line is"])
    assert set(read_marked(matcher, match)) == {"the", "line", "is"}


def test_misheard_words_are_found_by_their_sound(matcher: TextMatcher) -> None:
    clause = make_clause("Kubernetes")
    found = matcher.find([clause], np.eye(1, DIM, dtype=np.float32), typical=TYPICAL, num_texts=COUNTS[:1])[0]
    row = int(found.likeness.argmax())
    assert found.texts[row].text == SAID[-1]
    assert found.likeness[row] > 5 > 0 > np.delete(found.likeness, row).max()
    assert matcher.find_misheard(found.list_misheard()[row], SAID[-1]) == {"cooper", "netti"}
    assert not any(np.delete(found.list_misheard(), row))


@pytest.mark.parametrize(
    "query", ["a cat", "someone explains at great length how to move all of the old services and jobs to kubernetes"]
)
def test_short_words_long_descriptions_and_quotes_are_not_misheard(matcher: TextMatcher, query: str) -> None:
    assert pronounce_clause(make_clause(query)) == ""
    assert pronounce_clause(replace(make_clause("Kubernetes"), phrases=("Kubernetes",))) == ""


def test_contents_that_hold_a_term(matcher: TextMatcher) -> None:
    assert matcher.holds("busy") == matcher.holds("fourth day") == {"film"}
    assert matcher.holds("day fourth") == matcher.holds("submarine") == matcher.holds("!") == set()


def test_a_phrase_that_many_texts_hold_is_found_in_each_content(
    matcher: TextMatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "PHRASES", 0)
    clauses = [replace(make_clause("x"), phrases=("fourth day", "lighthouse keeper"))]
    vectors = random_vectors(make_texts(["one"]))
    (scored,) = matcher.score(matcher._store.store.searchable(), clauses, vectors, typical=TYPICAL, num_texts=[9])
    assert [match.text for match in split(scored)] == [text for text in SAID if "fourth day" in text]


def test_all_texts_of_a_content_are_scored_as_they_are_among_the_candidates(matcher: TextMatcher) -> None:
    clauses = [
        make_clause("the busy lighthouse"),
        replace(make_clause("x"), phrases=("fourth day",)),
        make_clause("file name"),
    ]
    vectors = random_vectors(make_texts(["one", "two", "three"]))
    found = matcher.find(clauses, vectors, typical=TYPICAL, num_texts=COUNTS)
    ids = matcher._store.store.searchable()
    scored = matcher.score(ids, clauses, vectors, typical=TYPICAL, num_texts=COUNTS)
    assert [len(matches.texts) for matches in scored] == [len(SAID), 1, len(SAID)]
    for candidates, others in zip(found, scored, strict=True):
        assert set(split(candidates)) <= set(split(others))
    none = matcher.score(ids[:0], clauses, vectors, typical=TYPICAL, num_texts=COUNTS)
    assert [split(matches) for matches in none] == [[], [], []]


# The naive twin

STEMS = st.sampled_from(["file", "name", "filenam", "the", "of", "dog", "cat", "catdog"])
TERMS = st.lists(
    st.builds(Term, STEMS, st.integers(0, 60), st.dictionaries(STEMS, st.floats(0.5, 0.95), max_size=3)),
    max_size=5,
    unique_by=lambda term: term.stem,
)


COMPOUNDS = {("file", "name"): "filenam", ("cat", "dog"): "catdog"}


def match_naively(stems: list[str], terms: list[Term], weights: list[float]) -> float:
    """Add up what the terms tell that a text holds, word by word."""
    matched = 0.0
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
        matched += weight * max(degrees)
    return matched


@given(st.lists(STEMS, max_size=8), TERMS)
def test_matches_agree_with_their_naive_twin(stems: list[str], terms: list[Term]) -> None:
    weights = weigh_terms(terms, 60, {})
    information, shared = match_terms(stems, terms, weights, COMPOUNDS)
    assert information == pytest.approx(match_naively(stems, terms, weights))
    assert 0 <= information <= sum(weights) + 1e-9
    assert shared <= set(stems), "the stems that match are the text's"
    if information > 0:
        assert shared


@given(st.lists(STEMS, max_size=8), st.lists(STEMS, max_size=3))
def test_phrase_agrees_with_its_naive_twin(stems: list[str], phrase: list[str]) -> None:
    held = bool(phrase) and f" {' '.join(phrase)} " in f" {' '.join(stems)} "
    assert holds_phrase(stems, phrase) == held


@given(TERMS, st.integers(0, 200), st.dictionaries(STEMS, st.floats(1e-6, 0.1)))
def test_weights_agree_with_their_naive_twin(terms: list[Term], num_texts: int, shares: dict[str, float]) -> None:
    weights = weigh_terms(terms, num_texts, shares)
    has_content = False
    for term in terms:
        has_content = has_content or term.stem not in STOP_STEMS
    for term, weight in zip(terms, weights, strict=True):
        without = 1.0  # the chance that a typical text does not hold the word
        for _ in range(TYPICAL_WORDS):
            without *= 1 - shares.get(term.stem, RARE_SHARE)
        others = term.num_texts - 1 if term.num_texts else 0
        held = min((others + ENGLISH_TEXTS * (1 - without)) / (num_texts + ENGLISH_TEXTS), 1)
        is_silent = term.stem in STOP_STEMS and has_content
        assert weight == pytest.approx(0 if is_silent else math.log(1 / held), abs=1e-9)


@given(st.integers(0, 10**6), st.floats(1e-6, 0.1))
def test_text_that_holds_a_word_does_not_make_it_less_rare(num_texts: int, share: float) -> None:
    absent, once = (weigh_terms([Term("honey", count, {})], num_texts + 1, {"honey": share}) for count in (0, 1))
    assert once == absent
