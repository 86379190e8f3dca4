"""Searching for sounds: who asks for them finds them, and nobody else meets them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spoken import NamedColours, add_all_words, fake_sentences, make_films, save_background, say
from vidret.engine import Engine
from vidret.types import Source

SOUNDS = {
    "red": [(0.0, 4.0, "music"), (6.0, 12.0, "speech")],
    "blue": [(0.0, 12.0, "speech")],
    "turn": [(0.0, 3.0, "silence"), (3.0, 12.0, "speech")],
    "back": [(2.0, 3.0, "applause")],
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from open_films(tmp_path_factory.mktemp("sounds"), with_sounds=True)


@pytest.fixture(scope="module")
def deaf_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from open_films(tmp_path_factory.mktemp("deaf"), with_sounds=False)


def open_films(folder: Path, *, with_sounds: bool) -> Iterator[Engine]:
    index = make_films(folder)
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        add_all_words(index)
        for name, texts in SOUNDS.items() if with_sounds else ():
            say(index, name, "sound", texts)
        save_background(index)
        with Engine(index, NamedColours()) as engine:
            yield engine


@pytest.mark.parametrize(
    ("query", "expected"),
    [("music", ("red", 0.0, 4.0)), ("silence", ("turn", 0.0, 3.0)), ("applause", ("back", 2.0, 3.0))],
)
def test_a_sound_is_located_where_it_is_heard(engine: Engine, query: str, expected: tuple[str, float, float]) -> None:
    asked: list[list[Source] | None] = [None, ["sound"]]
    for sources in asked:
        best = engine.locate(query, k=1, sources=sources)[0]
        assert (Path(best.path).stem, best.start, best.end) == expected
        assert best.evidence[0].source == "sound"


def test_all_moments_of_a_sound_are_found(engine: Engine) -> None:
    moments = engine.locate("speech", k=10, sources=["sound"])
    assert {(Path(each.path).stem, each.start, each.end) for each in moments if each.score > 0} == {
        ("red", 6.0, 12.0),
        ("blue", 0.0, 12.0),
        ("turn", 3.0, 12.0),
    }


def test_a_sound_and_a_picture_that_must_hold_together(engine: Engine) -> None:
    best = engine.locate("yellow, while applause", k=1)[0]
    assert Path(best.path).stem == "back"


def test_labels_do_not_answer_who_does_not_ask_for_sounds(engine: Engine, deaf_engine: Engine) -> None:
    hits = engine.search("the line is busy", k=5)
    assert all(evidence.source != "sound" for hit in hits for evidence in hit.evidence)
    order = [Path(hit.path).stem for hit in hits]
    assert order[:2] == [Path(hit.path).stem for hit in deaf_engine.search("the line is busy", k=5)][:2]


@pytest.mark.parametrize("query", ["music", "silence in the white room"])
def test_an_index_without_sounds_takes_no_hint_at_them(deaf_engine: Engine, query: str) -> None:
    analysed = deaf_engine._index.results.analyse(query, None)
    assert [clause.source for clause in analysed.structure.clauses] == [None]


def test_a_hint_at_sounds_takes_nothing_from_pictures_and_words(engine: Engine, deaf_engine: Engine) -> None:
    for query in ("red music", "music on platform nine"):
        heard, deaf = (one.search(query, k=5, sources=["picture", "speech", "screen"]) for one in (engine, deaf_engine))
        assert [hit.score for hit in heard] == pytest.approx([hit.score for hit in deaf], abs=0.2)
        assert [Path(hit.path).stem for hit in heard] == [Path(hit.path).stem for hit in deaf]


def test_a_transcript_is_of_words_unless_it_is_asked_for_sounds(engine: Engine) -> None:
    words = engine.transcript("red.mp4")
    assert words
    assert all(text.source != "sound" for text in words)
    heard = engine.transcript("red.mp4", ["sound"])
    assert [(text.start, text.end, text.text) for text in heard] == SOUNDS["red"]
