"""Plain English that joins events: what is split, what is not, and what is excluded."""

import contextlib
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.errors import VidretError
from vidret.search.query.clauses import parse_structure
from vidret.search.query.grammar import interpret
from vidret.search.query.marks import PHRASE, split_exclusions
from vidret.search.query.planning import parse_query
from vidret.types import MAX_EVENTS, MAX_QUERY_LENGTH, Sequence


@pytest.mark.parametrize(
    ("query", "steps"),
    [
        ("a dog on a beach", [("a dog on a beach",)]),
        ("a dog runs, while a cat sleeps", [("a dog runs", "a cat sleeps")]),
        ("a dog runs while a cat sleeps", [("a dog runs", "a cat sleeps")]),
        ("A Dog, WITH music", [("A Dog", "music")]),
        ("a dog runs at the same time as a cat sleeps", [("a dog runs", "a cat sleeps")]),
        ("a dog runs, and at the same time a cat sleeps", [("a dog runs", "a cat sleeps")]),
        ("while a dog runs, a cat sleeps", [("a dog runs", "a cat sleeps")]),
        ("green AND yellow", [("green", "yellow")]),
        ("A CAT AND A DOG", [("A CAT AND A DOG",)]),
        ('"hello" AND "world"', [('"hello"', '"world"')]),
        ('"STOP" AND "GO"', [('"STOP"', '"GO"')]),
        ('"hello" AND TV', [('"hello"', "TV")]),
        ("a dog barks and a cat runs away", [("a dog barks", "a cat runs away")]),
        ("a dog runs, then a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("a dog runs then a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("a dog runs and then a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("a dog runs, and afterwards a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("a dog runs, later on a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("A dog runs. Then a cat sleeps.", [("A dog runs",), ("a cat sleeps",)]),
        ("a dog followed by a cat", [("a dog",), ("a cat",)]),
        ("a dog -> a cat -> rain", [("a dog",), ("a cat",), ("rain",)]),
        ("first a dog runs, then a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("At first, a dog runs, finally a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("red, then green, then blue", [("red",), ("green",), ("blue",)]),
        ("a dog barks while it rains, then a cat runs", [("a dog barks", "it rains"), ("a cat runs",)]),
        ("after a man enters, a car leaves", [("a man enters",), ("a car leaves",)]),
        ("before a man enters, a car leaves", [("a car leaves",), ("a man enters",)]),
        ("a car leaves after a man enters", [("a man enters",), ("a car leaves",)]),
        ("a car leaves before a man enters", [("a car leaves",), ("a man enters",)]),
        ("two dogs jump before they lie down", [("two dogs jump",), ("they lie down",)]),
        ("after a man with a red hat enters, he sits down", [("a man with a red hat enters",), ("he sits down",)]),
        ("two men with hats before three houses", [("two men with hats before three houses",)]),
        ("a dog runs,\n\t then\n a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        ("a car stops after a dog barks after a cat runs", [("a cat runs",), ("a dog barks",), ("a car stops",)]),
        ("a car stops after a dog barks while a cat runs", [("a dog barks", "a cat runs"), ("a car stops",)]),
        ("a car stops while a dog barks after a cat runs", [("a cat runs",), ("a car stops", "a dog barks")]),
        ("a car stops, then a dog barks after a cat runs", [("a car stops",), ("a cat runs",), ("a dog barks",)]),
        ("a car stops after a dog barks, then a cat runs", [("a dog barks",), ("a car stops",), ("a cat runs",)]),
        ("as soon as he arrives, she leaves", [("he arrives",), ("she leaves",)]),
        ("she leaves, as soon as he arrives", [("he arrives",), ("she leaves",)]),
        ("once a man enters, a car leaves", [("a man enters",), ("a car leaves",)]),
        ("first floor then second floor", [("first floor",), ("second floor",)]),
        ("first aid is given, then an ambulance arrives", [("first aid is given",), ("an ambulance arrives",)]),
        ("first, snow falls, then children play", [("snow falls",), ("children play",)]),
        ("first of all a dog runs, then a cat sleeps", [("a dog runs",), ("a cat sleeps",)]),
        # Connectives that join no events.
        ("a man holds a microphone over him while they talk", [("a man holds a microphone over him while they talk",)]),
        ("please hold, while we connect you", [("please hold, while we connect you",)]),
        ("she sings, as always", [("she sings, as always",)]),
        ("p->next in C code", [("p->next in C code",)]),
        ("File -> Save As", [("File -> Save As",)]),
        ("first a dog runs", [("first a dog runs",)]),
        ("a dog with a ball", [("a dog with a ball",)]),
        ("a man and a woman dance", [("a man and a woman dance",)]),
        ("salt and pepper", [("salt and pepper",)]),
        ("a voice says one key starts and another stops", [("a voice says one key starts and another stops",)]),
        ("a man talks while driving", [("a man talks while driving",)]),
        ("he sits for a while on a bench", [("he sits for a while on a bench",)]),
        ("a singer before a crowd", [("a singer before a crowd",)]),
        ("every now and then a dog barks", [("every now and then a dog barks",)]),
        # Quotes.
        ('"a dog, then a cat"', [('"a dog, then a cat"',)]),
        ('someone says "now, then what" while it rains', [('someone says "now, then what"', "it rains")]),
        ("\u201ca dog, then a cat\u201d", [('"a dog, then a cat"',)]),
        ("\u2018don\u2019t go, then\u2019 while it rains", [('"don\'t go, then"', "it rains")]),
        # Negative terms are left out.
        ('a dog -beach runs, while -"two cats" it rains', [("a dog runs", "it rains")]),
    ],
)
def test_steps(query: str, steps: list[tuple[str, ...]]) -> None:
    interpretation = interpret(query)
    assert [step.events for step in interpretation.steps] == steps
    assert interpretation.note == ""


@pytest.mark.parametrize(
    ("query", "gap_s"),
    [
        ("a man enters, then within 5 seconds a car leaves", 5),
        ("a man enters, within 2.5 s a car leaves", 2.5),
        ("a man enters and then within 2 minutes a car leaves", 120),
        ("a man enters followed within 3 sec by a car", 3),
        ("a man enters, then a car leaves", None),
    ],
)
def test_gaps(query: str, gap_s: float | None) -> None:
    assert [step.gap_s for step in interpret(query).steps] == [None, gap_s]


@pytest.mark.parametrize(
    ("query", "text", "terms"),
    [
        ("a beach, no people", "a beach", ("people",)),
        ("a beach, but no people or boats", "a beach", ("people", "boats")),
        ("a beach but not the dog", "a beach", ("dog",)),
        ("a beach, without any people, then a dog", "a beach, then a dog", ("people",)),
        ('a beach -"dog", no people', "a beach", ("dog", "people")),
        ('"a beach, no people"', '"a beach, no people"', ()),
        ("a wall, no one is there", "a wall, no one is there", ()),
        ("no parking", "no parking", ()),
        (", no parking", ", no parking", ()),
        ("no woman, no cry", "no woman, no cry", ()),
        ("I don't have money, no job", "I don't have money, no job", ()),
        ("yes, not now", "yes, not now", ()),
        ("a man, no older than 30, runs", "a man, no older than 30, runs", ()),
        ('someone says "no dogs", no cats', 'someone says "no dogs"', ("cats",)),
        ("a thermometer showing -5 degrees", "a thermometer showing -5 degrees", ()),
        ("$ docker build -t shop .", "$ docker build -t shop", ()),
        (" a man\u2019s  cafe\u0301. ", "a man's caf\xe9", ()),
        ('a film -"3d" -@mascot, -snow.', "a film", ("3d", "@mascot", "snow")),
        ("a film -\u201ctwo  cats \u201d", "a film", ("two cats",)),
    ],
)
def test_exclusions(query: str, text: str, terms: tuple[str, ...]) -> None:
    rest, negatives, others = split_exclusions(query)
    assert (rest, negatives + others) == (text, terms)


JOINS_NOTHING = ["then", "and", "then while", "and then", "and then while", "a dog runs, then while"]
JOINS_NOTHING += ["then a dog runs", "a dog runs, then", ", while a dog runs", "a dog while"]


@pytest.mark.parametrize("query", JOINS_NOTHING)
def test_connectives_that_join_nothing_are_plain_words_and_said_to_be(query: str) -> None:
    interpretation = interpret(query)
    assert interpretation.events == (query,)
    assert "joins nothing" in interpretation.note
    assert interpretation.describe().startswith("searching for plain words: ")


@pytest.mark.parametrize("word", ["when he runs, ", "a man runs and a dog walks ", ", no a", "-a ", 'a" ', "a "])
def test_a_query_that_is_too_long_is_refused_at_once(word: str) -> None:
    for ask in (interpret, split_exclusions, parse_structure, parse_query, lambda query: interpret(Sequence([query]))):
        with pytest.raises(VidretError, match="query must have at most 1000 characters, got 1001"):
            ask((word * MAX_QUERY_LENGTH)[: MAX_QUERY_LENGTH + 1])
    started = time.perf_counter()
    with contextlib.suppress(VidretError):  # it may exclude too much
        interpret((word * MAX_QUERY_LENGTH)[:MAX_QUERY_LENGTH])
    assert time.perf_counter() - started < 5


def test_only_text_and_events_are_interpreted() -> None:
    with pytest.raises(VidretError, match="query must be text or events, got 5"):
        interpret(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ["dog" + " -cat" * 17, "dog, no x or b" + " or c" * 15, "dog" + ", no a" * 17])
def test_exclusions_are_counted_however_they_are_written(query: str) -> None:
    with pytest.raises(VidretError, match="query must exclude at most 16 words or phrases, got 17"):
        interpret(query)


def test_only_what_is_written_with_a_minus_is_forbidden() -> None:
    interpretation = interpret('a dog runs, then a cat -"two birds" -snow -snow, no people or snow')
    assert interpretation.excluded == ("two birds", "snow", "people")
    assert interpretation.forbidden == ("two birds", "snow")


def test_too_many_events_are_plain_words() -> None:
    query = ", then ".join(["a dog"] * 50)
    interpretation = interpret(query)
    assert interpretation.events == (query,)
    assert "50 events" in interpretation.note
    assert len(interpret(", then ".join(["a dog"] * MAX_EVENTS)).events) == MAX_EVENTS


def test_description_shows_what_is_looked_for() -> None:
    assert interpret("a dog").describe() == ""
    assert interpret("a dog, no cat").describe() == "looking for a dog; excluding cat"
    assert interpret("-dog").describe() == "excluding dog"  # beside an image
    assert interpret('"then"').describe() == ""
    query = "a dog barks while it rains, then within 5 s a cat runs"
    assert interpret(query).describe() == "looking for 1. a dog barks while 2. it rains then within 5 s 3. a cat runs"
    assert interpret(Sequence(["a", ["b", "c"]])).describe() == "looking for 1. a then 2. b while 3. c"


PARTS = st.sampled_from(
    [
        *('"', " ", ", ", "-", '-"', "then", "while", "and then", "first", "no", "but not", "before", "after", "AND"),
        *("and", "within 5 s", "a dog runs", "someone says", "->", "as", "with", "\n", "\ue000", "."),
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(PARTS, st.text(max_size=4))).map(" ".join)))
def test_any_text_has_an_interpretation_that_splits_no_quotes(query: str) -> None:
    interpretation = interpret(query)
    assert 1 <= len(interpretation.events) <= MAX_EVENTS
    text, *_ = split_exclusions(query)
    kept = [phrase for event in interpretation.events for phrase in PHRASE.findall(event)]
    assert sorted(kept) == sorted(PHRASE.findall(text))
    assert isinstance(interpretation.describe(), str)
    if len(interpretation.events) > 1:
        assert all(re.search(r"\w", event) for event in interpretation.events)


def test_lists_are_kept_as_tuples() -> None:
    sequence = Sequence(["a", ["b", "c"]], gap=2)
    assert sequence.events == ("a", ("b", "c"))
    assert sequence == Sequence(("a", ("b", "c")), gap=2)
    assert hash(sequence) == hash(Sequence(("a", ("b", "c")), gap=2))


@pytest.mark.parametrize(
    ("events", "gap", "rule"),
    [
        ([], None, "events must be texts"),
        (["a", ""], None, "events must be texts"),
        (["a", []], None, "events must be texts"),
        (["a"] * (MAX_EVENTS + 1), None, "at most 8 events, got 9"),
        (["a", ["b"] * MAX_EVENTS], None, "at most 8 events, got 9"),
        (["a", "b"], -1, "gap must be at least 0"),
        (["a", "b"], float("nan"), "gap must be at least 0"),
        (["a", 7], None, "events must be texts"),
        ([5], None, "events must be texts"),
        ([["a", ["b"]]], None, "events must be texts"),
        ("dog", None, "events must be texts with a word each, got 'dog'"),
        (None, None, "events must be texts"),
    ],
)
def test_wrong_events_are_refused(events: Any, gap: float | None, rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        interpret(Sequence(events, gap))
