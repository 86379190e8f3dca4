"""A run over the torture set of subtitles ends, indexes every film, and says what it left out."""

import re
import time
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder
from tests.hostile_subtitles import SUBTITLES, write_hostile_subtitles
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.subtitle_files import MAX_CHARACTERS, MAX_PER_SECOND
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.store.texts.upkeep import list_notes
from vidret.types import TimedText

pytest.importorskip("charset_normalizer", reason='the extra "words" is not installed')

FILM_S = 2.0


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[TimedText]], dict[str, str]]:
    """Index the set; return the texts and the notes by name."""
    folder = tmp_path_factory.mktemp("torture")
    films = write_hostile_subtitles(folder / "films")
    started = time.monotonic()
    with Engine(folder / "index", ColourEncoder()) as engine:
        report = engine.index([folder / "films"], words=WordsOptions(sources=("subtitles",)), timeout=60)
        assert (report.encoded, report.failed) == (len(films) + 1, [])
        texts = {name: engine.transcript(film) for name, film in films.items()}
    assert time.monotonic() - started < 240
    with Store.open(folder / "index") as store:
        notes = {Path(note.path).stem: note.reason for note in list_notes(store)}
    return texts, notes


@pytest.mark.parametrize("name", SUBTITLES)
def test_hostile_subtitles(name: str, read: tuple[dict[str, list[TimedText]], dict[str, str]]) -> None:
    texts, note, expected = read[0][name], read[1].get(name, ""), SUBTITLES[name]
    if expected.words is not None:
        assert tuple(text.text for text in texts) == expected.words
    assert expected.note in note
    assert len(note) < 2000
    assert not re.search(r"[A-Za-z]+Error|Traceback|NoneType", note), note
    assert len(texts) <= MAX_PER_SECOND * (FILM_S + 1)
    for text in texts:
        assert 0 <= text.start <= text.end <= FILM_S
        assert len(text.text) <= MAX_CHARACTERS
