"""Queries for what a person says: ``"budget" by @mum``."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.made_identities import make_voice, store_people
from tests.spoken import NamedColours, make_worded_films
from vidret.channels.base import Match
from vidret.engine import Engine
from vidret.search.people import PersonSpans
from vidret.search.query.clauses import read_clause

pytestmark = pytest.mark.usefixtures("sentences")

MUM, DAD = 0, 1


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index in which mum says that the line is busy in one film, and dad in another, where mum is heard too."""
    index = make_worded_films(tmp_path_factory.mktemp("said"))
    heard = {
        "red": [make_voice(MUM, 1.1, 2.9), make_voice(DAD, 8, 10)],
        "blue": [make_voice(MUM, 1, 3), make_voice(DAD, 8.2, 9.7), make_voice(MUM, 9.4, 10), make_voice(DAD, 10, 11)],
    }
    store_people(index, heard, "Mum", "Dad Joe")
    return index


@pytest.fixture
def engine(index: Path) -> Iterator[Engine]:
    with Engine(index, NamedColours()) as opened:
        yield opened


def find(engine: Engine, query: str) -> set[tuple[str, int]]:
    """Return the films, and in which second, of the moments whose evidence is said."""
    return {
        (Path(moment.path).stem, int(moment.start))
        for moment in engine.locate(query, videos=10)
        if any(piece.text for piece in moment.evidence)
    }


def test_what_others_say_is_not_found(engine: Engine) -> None:
    assert find(engine, '"line is busy"') == {("red", 1), ("blue", 8)}
    assert find(engine, '"line is busy" by @mum') == {("red", 1)}
    assert find(engine, '"line is busy" by @dad joe') == {("blue", 8)}
    assert [Path(hit.path).stem for hit in engine.search('"line is busy" by @mum')] == ["red"]
    assert [Path(hit.path).stem for hit in engine.search('"line is busy" by @dad-joe')] == ["blue"]
    assert {name for name, _ in find(engine, '"please call again" by @mum')} == {"blue"}


def test_only_what_is_said_is_by_somebody(engine: Engine) -> None:
    assert find(engine, '"platform nine"') == {("red", 0)}
    assert find(engine, '"platform nine" by @mum') == set()
    assert find(engine, '"good morning captain" by @mum') == set(), "nobody is heard"
    none, ids = np.zeros(0), np.zeros(0, np.int64)
    nobody = PersonSpans(handle="mum", videos=ids, tracks=none.reshape(0, 4), segments=ids, qualities=none)
    assert not nobody.speaks(Match(1, "subtitles", 5.0, 5.0, 1.0)), "not while a caption without length is shown"


def test_a_name_alone_is_heard_and_not_seen(engine: Engine) -> None:
    found = [hit.evidence for hit in engine.search("@mum", k=2)]
    for evidence in (*found, *(moment.evidence for moment in engine.locate("@mum", k=2))):
        assert {(piece.source, piece.person) for piece in evidence} == {("speech", "mum")}


def test_a_voice_in_two_indexes_counts_once(index: Path, tmp_path: Path) -> None:
    with Engine([index, shutil.copytree(index, tmp_path / "copy")], NamedColours()) as both:
        assert find(both, '"line is busy" by @mum') == {("red", 1)}, "in blue she is heard in less than a third of it"


def test_by_needs_words_in_quotes_and_a_known_person() -> None:
    people = ["mum", "dad"]
    clause = read_clause('"the budget" and "tax" by @Mum', people)
    assert (clause.phrases, clause.is_bare) == (("the budget", "tax"), False)
    assert clause.persons == clause.speakers == ("mum",)
    assert clause.shown == '"the budget" and "tax" by @Mum'
    assert "by" not in clause.text.split()
    both = read_clause('"tax" by @mum with @dad', people)
    assert (both.persons, both.speakers) == (("mum", "dad"), ("mum",))
    assert read_clause("a portrait by @mum", people).speakers == ()
    assert read_clause('"the budget" by @somebody', people).speakers == ()
    assert read_clause('"the budget" by mum', people).speakers == ()
