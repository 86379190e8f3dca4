"""The queries of the README in an index with words: each means what the README says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import COLOURS
from tests.made_identities import make_track, store_people
from tests.spoken import NamedColours, fake_sentences, make_films, save_background, say
from vidret.engine import Engine
from vidret.types import TextEmbedding

ROOT = Path(__file__).parent.parent.parent
SHOWN = {"dog": "red", "dogs": "red", "beach": "blue", "man": "green", "car": "yellow"}
PLAIN = (
    "people riding bicycles",
    "a taxi in the traffic",
    "a dog on a beach",
    "somebody opens a door",
    "a rabbit comes out of its hole",
)
NEGATIVE_AND_PHRASE = 'dog -beach "good boy"'
EVENTS = "a man enters, then a car leaves, no dogs"
HEARD, PERSON = "applause", "@mum on a beach"


class NamedThings(NamedColours):
    """Things look like colours: a dog is red."""

    def _embed(self, text: str) -> TextEmbedding:
        return super()._embed(" ".join(SHOWN.get(word, word) for word in re.findall(r"\w+", text.lower())))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    index = make_films(tmp_path_factory.mktemp("documented"))
    say(index, "white", "speech", [(2.0 * i, 2.0 * i + 1, text) for i, text in enumerate(PLAIN)])
    say(index, "white", "screen", [(0, 12, "puppy")])
    say(index, "red", "speech", [(1, 3, "what a good boy")])
    say(index, "blue", "speech", [(1, 3, "who is a good boy")])
    say(index, "back", "speech", [(1, 3, "a good boy at the beach")])
    say(index, "blue", "sound", [(4, 6, "applause")])
    store_people(index, {"turn": [make_track(0, 0, 4), make_track(0, 5, 10)]}, "mum")
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        save_background(index)
        with Engine(index, NamedThings()) as engine:
            yield engine


def search(engine: Engine, query: str) -> dict[str, float]:
    """Return the scores of the films, best first."""
    return {Path(hit.path).stem: hit.score for hit in engine.search(query)}


def test_each_query_of_the_readme_is_tested() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    lines = re.findall(r"^(?:\$ )?vidret (?:search|locate) .*", text, re.MULTILINE)
    typed = [shlex.split(line, comments=True) for line in lines]
    queries = {words[words.index("vidret") + 2] for words in typed}
    queries |= set(re.findall(r'engine\.(?:search|locate)\("([^"]*)"', text))
    assert queries == {*PLAIN, NEGATIVE_AND_PHRASE, EVENTS, HEARD, PERSON}


@pytest.mark.parametrize("query", PLAIN)
def test_plain_words_find_what_is_said(engine: Engine, query: str) -> None:
    assert engine.interpret(query).describe() == ""
    assert next(iter(search(engine, query))) == "white"
    moment = engine.locate(query, 1)[0]
    assert (Path(moment.path).stem, moment.start) == ("white", 2.0 * PLAIN.index(query))


def test_a_phrase_must_be_said_and_a_negative_term_must_not(engine: Engine) -> None:
    scores = search(engine, NEGATIVE_AND_PHRASE)
    assert list(scores) == ["red", "blue"], "back speaks of the beach, the others of no good boy"
    assert scores["blue"] < search(engine, 'dog "good boy"')["blue"], "which shows the beach"
    assert list(search(engine, NEGATIVE_AND_PHRASE.replace('"good boy"', "\u201cgood boy\u201d"))) == ["red", "blue"]


def test_events_are_found_in_order_without_what_is_excluded(engine: Engine) -> None:
    moment = engine.locate(EVENTS, 1)[0]
    assert Path(moment.path).stem == "turn"
    assert [event.text for event in moment.events] == ["a man enters", "a car leaves"]
    first, second = moment.events
    assert [first.start, first.end, second.end] == pytest.approx([0, 6, 12], abs=0.3)
    assert search(engine, EVENTS)["red"] < search(engine, EVENTS.removesuffix(", no dogs"))["red"] - 1


def test_what_is_heard_is_located(engine: Engine) -> None:
    moment = engine.locate(HEARD, 1, sources=["sound"])[0]
    assert (Path(moment.path).stem, moment.start, moment.end) == ("blue", 4.0, 6.0)
    assert next(iter(search(engine, HEARD))) == "blue"


def test_a_person_is_looked_for_where_she_is_seen(engine: Engine) -> None:
    hit = engine.search(PERSON, 1)[0]
    assert Path(hit.path).stem == "turn"
    assert "mum" in {evidence.person for evidence in hit.evidence}


def test_a_concept_is_what_is_seen_not_a_text_with_its_name(engine: Engine) -> None:
    engine.teach("puppy", [np.full((32, 32, 3), COLOURS["red"], np.uint8)] * 4, text="red")
    try:
        assert next(iter(search(engine, "puppy"))) == "white"
        for query in ("@puppy", "@puppy on grass"):
            assert next(iter(search(engine, query))) == "red"
        assert Path(engine.locate("@puppy", 1, weak=True)[0].path).stem == "red"
    finally:
        engine.forget("puppy")
