"""The structure of text queries: clauses, their relation in time, phrases, and hints at a source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.search.clauses import make_clause, parse_structure
from vidret.search.queries import NEGATIVE_TERM


@pytest.mark.parametrize(
    ("query", "relation", "clauses"),
    [
        ("a dog on a beach", None, ["a dog on a beach"]),
        ("a dog runs, while a cat sleeps", "together", ["a dog runs", "a cat sleeps"]),
        ("a dog runs while a cat sleeps", "together", ["a dog runs", "a cat sleeps"]),
        ("A Dog, WITH music", "together", ["A Dog", "music"]),
        ("a dog runs at the same time as a cat sleeps", "together", ["a dog runs", "a cat sleeps"]),
        ("a dog runs, and at the same time a cat sleeps", "together", ["a dog runs", "a cat sleeps"]),
        ("a dog runs, then a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        ("a dog runs and then a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        ("a dog runs, and afterwards a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        ("a dog runs, later on a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        ("a dog followed by a cat", "then", ["a dog", "a cat"]),
        ("first a dog runs, then a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        ("At first, a dog runs, finally a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        # What joins nothing stays part of the text.
        ("first a dog runs", None, ["first a dog runs"]),
        ("a dog with a ball", None, ["a dog with a ball"]),
        ("then a dog runs", None, ["then a dog runs"]),
        ("a dog runs, then", None, ["a dog runs, then"]),
        (", while a dog runs", None, [", while a dog runs"]),
        ("a dog runs,\n\t then\n a cat sleeps", "then", ["a dog runs", "a cat sleeps"]),
        # The first connector counts.
        ("red, then green, then blue", "then", ["red", "green, then blue"]),
        # Negative terms are left out.
        ('a dog -beach runs, while -"two cats" it rains', "together", ["a dog runs", "it rains"]),
    ],
)
def test_clauses_and_their_relation(query: str, relation: str | None, clauses: list[str]) -> None:
    structure = parse_structure(query)
    assert structure.relation == relation
    assert [clause.text for clause in structure.clauses] == clauses


@pytest.mark.parametrize(
    ("query", "phrases", "text"),
    [
        ('"fourth day" strike', ("fourth day",), "fourth day strike"),
        ('"  fourth \n day  "', ("fourth day",), "fourth day"),
        ('"one" and "two"', ("one", "two"), "one and two"),
        ('an inch is 1"', (), "an inch is 1"),
        ('nothing "" or " " here', (), "nothing or here"),
        ('dog -"two cats"', (), "dog"),
        ('"good boy" -"bad boy"', ("good boy",), "good boy"),
    ],
)
def test_phrases(query: str, phrases: tuple[str, ...], text: str) -> None:
    structure = parse_structure(query)
    assert structure.phrases == phrases
    assert [clause.text for clause in structure.clauses] == [text]


@pytest.mark.parametrize(
    ("text", "source", "content"),
    [
        ("someone says that the line is busy", "speech", "the line is busy"),
        ("someone explains how to change a tyre", "speech", "to change a tyre"),
        ("a voice announces the next stop", "speech", "next stop"),
        ("he is talking about the weather", "speech", "weather"),
        ("people are told that they must leave", "speech", "they must leave"),
        ("a man says", "speech", "a man says"),
        ("a narrator", "speech", "a narrator"),
        ("a sign at the door", "screen", "a sign at the door"),
        ("a caption over the screen", "screen", "a caption over the screen"),
        ("a voice reads a sign", "speech", "a voice reads a sign"),
        ("a signal on a lake", None, "a signal on a lake"),
        ("", None, ""),
    ],
)
def test_hints(text: str, source: str | None, content: str) -> None:
    clause = make_clause(text)
    assert (clause.text, clause.content, clause.source) == (text, content, source)


PARTS = st.sampled_from(
    ['"', " ", ", ", "-", '-"', "then", "while", "and then", "first", "someone says", "a sign", "as", "with", "\n", "é"]
)


@given(st.one_of(st.text(), st.lists(st.one_of(PARTS, st.text(max_size=4))).map(" ".join)))
def test_any_text_has_clauses_of_its_own_words(query: str) -> None:
    structure = parse_structure(query)
    words = set(NEGATIVE_TERM.sub(" ", query).replace('"', " ").split())
    for clause in structure.clauses:
        assert set(clause.text.split()) <= words | {word.rstrip(",") for word in words}
        assert clause.content in clause.text
    assert (structure.relation is None) == (len(structure.clauses) == 1)
    assert all(phrase and phrase == " ".join(phrase.split()) for phrase in structure.phrases)
