"""Languages and sounds that are heard: noted among the facts of videos from what was read, for filters and facets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder, write_film
from tests.indexed_texts import add_words, create_words, find_content, make_texts, random_vectors
from tests.store.samples import add_video, create
from vidret.engine import Engine
from vidret.search import preparation
from vidret.store.lookup import count_facets
from vidret.store.store import Store
from vidret.store.texts.upkeep import note_heard
from vidret.types import ALL_VIDEOS, Filters


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create(tmp_path / "index") as writer:
        for seed, name in enumerate("abcd"):
            add_video(writer, name, seed=seed)
    with Store.open(tmp_path / "index") as reader:
        yield reader


def list_names(store: Store, language: str) -> list[str]:
    return [Path(video.paths[0]).stem for video in store.videos.find(Filters(language=language))]


def test_what_is_heard_for_long_can_be_filtered_and_counted(store: Store) -> None:
    note_heard(store)
    assert count_facets(store.snapshot(), ALL_VIDEOS).languages == {}
    add_words(store.path, "a", ["a"], language="de")
    add_words(store.path, "b", ["b"], language="")  # a model of one language does not tell
    add_words(store.path, "c", ["c"], source="subtitles", language="fr")  # is not heard
    with create_words(store.path) as texts:
        track = texts.begin("d", "speech", "model", duration_s=60.0)
        for language, number in (("en", 3), ("de", 8), ("cy", 1)):
            said = make_texts([f"{language} {i}" for i in range(number)], language=language)
            texts.add(track, said, random_vectors(said), until_s=20.0)
        texts.finish(track)
    note_heard(store)
    found = {language: list_names(store, language) for language in ("de", "DE ", "en", "fr", "cy")}
    assert found == {"de": ["a", "d"], "DE ": ["a", "d"], "en": ["d"], "fr": [], "cy": []}
    assert count_facets(store.snapshot(), ALL_VIDEOS).languages == {"de": 2, "en": 1}
    assert [video.facts.get("languages") for video in store.videos.find()] == ["de", None, None, "de en"]
    before = store.snapshot()
    note_heard(store)
    assert store.snapshot() is before, "nothing is written if nothing changed"


def test_names_of_sounds_can_be_filtered_and_counted(store: Store) -> None:
    add_words(store.path, "a", ["Applause", "bark", "bark"], source="sound")
    add_words(store.path, "b", ["child speech, kid speaking", "bark", "odd\x00\nname"], source="sound")
    add_words(store.path, "c", [f"sound {i}".ljust(29, "o") for i in range(10)], source="sound")
    add_words(store.path, "d", ["bark"])  # is said
    note_heard(store)
    videos = {Path(video.paths[0]).stem: video.facts.get("heard", "") for video in store.videos.find()}
    assert str(videos["a"]).split("\n") == ["bark", "Applause"], "what is heard longest is first"
    assert [len(name) for name in str(videos["c"]).split("\n")] == [29] * 6, "whole names, as many as 200 bytes hold"
    assert videos["d"] == ""
    for name, expected in {"BARK": "ab", "child speech, kid speaking": "b", "applause": "a", "speech": ""}.items():
        assert [Path(video.paths[0]).stem for video in store.videos.find(Filters(heard=name))] == [*expected], name
    heard = count_facets(store.snapshot(), ALL_VIDEOS).heard
    assert (len(heard), heard["bark"]) == (10, 2)
    assert count_facets(store.snapshot(), Filters(heard="applause")).heard == heard, "regardless of its own filter"
    before = store.snapshot()
    note_heard(store)
    assert store.snapshot() is before, "nothing is written if nothing changed"


def test_a_run_notes_them_and_forgets_what_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "save_text_background", lambda _store: None)  # of vectors of another length
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
        for language, model in (("de", "model"), ("fr", "other")):
            add_words(engine.path, find_content(engine.path, "a.mp4"), ["a"], model=model, language=language)
            engine.index([tmp_path / "films"], words=False)
            assert [video.paths for video in engine.videos(Filters(language=language))] == [(str(film),)]
        assert engine.videos(Filters(language="de")) == []


def test_a_search_for_a_language_or_a_sound_that_no_video_has_names_those_that_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
        content = find_content(engine.path, "a.mp4")
        add_words(engine.path, content, ["a"], language="de")
        add_words(engine.path, content, [f"sound {i:03}" for i in range(5)], source="sound")
        note_heard(engine._index.store)
        for filters in (Filters(language="fr"), Filters(heard="bark")):
            assert engine.search("red", sources=["picture"], filters=filters) == []
        for filters in (Filters(language="DE ", min_seconds=100), Filters(heard="Sound 001", min_seconds=100)):
            assert engine.search("red", sources=["picture"], filters=filters) == []
    sounds = ", ".join(f"sound {i:03} (1 video)" for i in range(5))
    assert [message for message in caplog.messages if "the index has" in message] == [
        "no video has the language fr; the index has: de (1 video)",
        f"no video has the sound bark; the index has: {sounds}",
    ]
