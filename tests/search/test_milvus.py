"""Pictures and words in Milvus: searches and moments are those of the same index in FAISS."""

import shutil
from pathlib import Path

import pytest

from tests.spoken import NamedColours, make_worded_films
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import ALL_VIDEOS, Filters, Source

pytestmark = pytest.mark.scale
QUERIES = [
    "red",
    "good morning captain",
    '"platform nine"',
    "blue -captain",
    "someone explains how to sand the door lightly",
    "red, then blue",
    "plattform",
]
SOURCES: list[tuple[Source, ...] | None] = [None, ("speech",), ("picture", "screen")]


def ask(index: Path, films: Path) -> list[object]:
    """Return what an index answers to all queries, with all filters and sources."""
    with Engine(index, NamedColours()) as engine:
        first = sorted(films.iterdir())[0]
        answers: list[object] = []
        for query in QUERIES:
            for sources in SOURCES:
                choices = (ALL_VIDEOS, Filters(folder=str(first)), Filters(folder=str(films)))
                answers += [engine.search(query, k=5, sources=sources, filters=filters) for filters in choices]
                answers.append(engine.locate(query, k=5, sources=sources))
        return answers


def test_answers_are_those_of_faiss(tmp_path: Path, sentences: None) -> None:
    index, moved = make_worded_films(tmp_path), tmp_path / "moved"
    shutil.copytree(index, moved)
    with Store.open(moved, write=True) as store, TextStore.open(moved, write=True) as texts:
        store.upkeep.move_vectors("faiss", "milvus://")
        texts.store.upkeep.move_vectors(None, "milvus://")
    expected, answers = ask(index, tmp_path / "films"), ask(moved, tmp_path / "films")
    assert any(expected)
    assert answers == expected
