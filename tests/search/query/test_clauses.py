"""The structure of queries: clauses, their order, phrases, and hints at a source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.errors import VidretError
from vidret.search.query.clauses import check_exclusions, make_clause, parse_structure
from vidret.search.query.marks import straighten_quotes
from vidret.types import Sequence


def test_structure_has_clauses_steps_and_gaps() -> None:
    structure = parse_structure("a dog barks while it rains, then within 5 s a cat runs, no people")
    assert [clause.text for clause in structure.clauses] == ["a dog barks", "it rains", "a cat runs"]
    assert structure.steps == ((0, 1), (2,))
    assert structure.gaps_s == (None, 5.0)
    assert structure.excluded == ("people",)
    assert structure.is_joint
    assert not parse_structure("a dog barks").is_joint


def test_sequences_have_the_structure_that_they_state() -> None:
    verbatim = parse_structure(Sequence([' the words  "red eye" appear'], verbatim=True))
    assert [(clause.text, clause.phrases) for clause in verbatim.clauses] == [
        (' the words  "red eye" appear', ("red eye",))
    ]
    structure = parse_structure(Sequence(["a dog, then a cat", ["rain", 'someone says "hello"']], gap=2))
    assert [clause.text for clause in structure.clauses] == ["a dog, then a cat", "rain", "someone says hello"]
    assert structure.steps == ((0,), (1, 2))
    assert structure.gaps_s == (None, 2.0)
    assert structure.clauses[2].phrases == ("hello",)


@pytest.mark.parametrize("query", ["a dog -dog", "the dog runs, then a Cat, no cat", 'a dog -"A DOG"'])
def test_query_must_not_exclude_what_it_looks_for(query: str) -> None:
    with pytest.raises(VidretError, match="query must not exclude what it looks for, got"):
        check_exclusions(parse_structure(query))
    check_exclusions(parse_structure("a dog on a beach -cat, no dog"))


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
    (clause,) = parse_structure(query).clauses
    assert (clause.phrases, clause.text) == (phrases, text)


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
        ("slides about birds", "screen", "slides about birds"),
        ("a slide on inflation", "screen", "a slide on inflation"),
        ("the camera slides past a window", None, "the camera slides past a window"),
        ("children slide down a hill", None, "children slide down a hill"),
        ("the departure board", "screen", "the departure board"),
        ("two boys play a board game", None, "two boys play a board game"),
        ("a caption over the screen", "screen", "a caption over the screen"),
        ("a voice reads a sign", "speech", "a voice reads a sign"),
        ("a signal on a lake", None, "a signal on a lake"),
        ("a man tells jokes on a stage", None, "jokes on a stage"),
        ("a man tells us the price", "speech", "us the price"),
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
    words = set(
        straighten_quotes(query).replace('"', " ").replace(",", " ").replace(";", " ").replace(".", " ").split()
    )
    for clause in structure.clauses:
        assert set(clause.text.replace(",", " ").replace(";", " ").replace(".", " ").split()) <= words
        assert clause.content in clause.text
        assert all(phrase and phrase == " ".join(phrase.split()) for phrase in clause.phrases)
    assert [index for step in structure.steps for index in step] == list(range(len(structure.clauses)))
    assert len(structure.gaps_s) == len(structure.steps)
