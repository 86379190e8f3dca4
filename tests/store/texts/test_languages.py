"""Languages that are heard: noted among the facts of videos from what was read, for filters and facets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder, write_film
from tests.indexed_texts import add_words, create_words, find_content, make_texts, random_vectors
from vidret.engine import Engine
from vidret.search import preparation
from vidret.store.texts.upkeep import note_languages
from vidret.types import Filters, TextSource


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    for salt, name in enumerate("abcd"):
        write_film(tmp_path / "films" / f"{name}.mp4", ("red", 3), salt=salt)
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
        yield engine


def say(engine: Engine, name: str, language: str, *, source: TextSource = "speech", model: str = "model") -> None:
    content = find_content(engine.path, f"{name}.mp4")
    add_words(engine.path, content, [name], source=source, model=model, language=language)


def list_names(engine: Engine, language: str) -> list[str]:
    return [Path(video.paths[0]).stem for video in engine.videos(Filters(language=language))]


def test_what_is_heard_can_be_filtered_and_counted(engine: Engine) -> None:
    assert engine.facets().languages == {}
    say(engine, "a", "de")
    say(engine, "b", "")  # a model of one language does not tell
    say(engine, "c", "fr", source="subtitles")  # is not heard
    note_languages(engine._index.store)
    assert (list_names(engine, "de"), list_names(engine, "DE "), list_names(engine, "fr")) == (["a"], ["a"], [])
    assert engine.facets().languages == {"de": 1}
    assert engine.count_videos(Filters(language="de")) == 1
    assert [video.facts.get("languages") for video in engine.videos()] == ["de", None, None, None]
    before = engine._index.store.generation
    note_languages(engine._index.store)
    assert engine._index.store.generation == before, "nothing is written if nothing changed"


def test_languages_are_listed_by_how_long_they_are_heard_and_rare_ones_are_not(engine: Engine) -> None:
    content = find_content(engine.path, "d.mp4")
    with create_words(engine.path) as store:
        track = store.begin(content, "speech", "model", duration_s=60.0)
        for language, number in (("en", 3), ("de", 8), ("cy", 1)):
            texts = make_texts([f"{language} {i}" for i in range(number)], language=language)
            store.add(track, texts, random_vectors(texts), until_s=20.0)
        store.finish(track)
        store.save()
    note_languages(engine._index.store)
    (video,) = engine.videos(Filters(language="en"))
    assert video.facts["languages"] == "de en"
    assert engine.facets().languages == {"de": 1, "en": 1}


def test_a_run_notes_them_and_forgets_what_another_model_replaced(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "save_text_background", lambda _store: None)  # of vectors of another length
    say(engine, "a", "de")
    engine.index([tmp_path / "films"], words=False)
    assert list_names(engine, "de") == ["a"]
    say(engine, "a", "fr", model="other")
    engine.index([tmp_path / "films"], words=False)
    assert (list_names(engine, "de"), list_names(engine, "fr")) == ([], ["a"])
