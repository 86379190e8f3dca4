"""Sounds in searches: who asks for them by name or by example finds them, and nobody else meets them."""

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.indexed_texts import find_content
from tests.spoken import NamedColours, add_all_words, fake_sentences, make_films, save_background, say
from vidret.channels.sounds.channel import (
    NEAREST,
    PRIOR_SCORES,
    PRIOR_WINDOWS,
    SHRINKAGE,
    SLOPE,
    USUAL_SCORE,
    UsualWindows,
    rate_windows,
)
from vidret.channels.sounds.reading import KIND
from vidret.encode.families.sound import SoundTagger
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.concepts import teaching
from vidret.search.query.planning import plan
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.types import ConceptExample, Filters, SoundWindows, Source

RNG = np.random.default_rng(0)
BARK, BELL = np.eye(16, dtype=np.float32)[:2]
TEXTS = {
    "red": [(0.0, 4.0, "music"), (6.0, 12.0, "speech")],
    "blue": [(0.0, 12.0, "speech")],
    "turn": [(0.0, 3.0, "silence"), (3.0, 12.0, "speech")],
    "back": [(2.0, 3.0, "applause")],
}
WINDOWS = {"red": {4: BARK}, "blue": {7: BARK, 2: BELL}, "turn": {5: BELL}, "back": {}}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """Yield the films with sounds, and without."""
    deaf = make_films(tmp_path_factory.mktemp("sounds"))
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        add_all_words(deaf)
        index = shutil.copytree(deaf, deaf.with_name("heard"))
        add_sounds(index)
        for folder in (index, deaf):
            save_background(folder)
        with Engine(index, NamedColours()) as engine, Engine(deaf, NamedColours()) as deaf_engine:
            yield engine, deaf_engine


@pytest.fixture
def engine(engines: tuple[Engine, Engine]) -> Engine:
    return engines[0]


@pytest.fixture
def deaf_engine(engines: tuple[Engine, Engine]) -> Engine:
    return engines[1]


def add_sounds(index: Path) -> None:
    with SoundStore.create(index) as sounds:
        for name, heard in WINDOWS.items():
            say(index, name, "sound", TEXTS[name])
            vectors = RNG.standard_normal((11, 16)).astype(np.float32) * 0.2
            for second, vector in heard.items():
                vectors[second] = vector
            starts = np.arange(11.0)
            windows = SoundWindows(starts=starts, ends=starts + 2, vectors=vectors.astype(np.float16))
            sounds.add(find_content(index, f"{name}.mp4"), KIND.model, windows)


# By name.


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
        alone = engine.locate(query, k=1, sources=sources, video=best.path)[0]
        assert (alone.start, alone.end) == expected[1:], "also in one video"


def test_all_moments_of_a_sound_are_found(engine: Engine) -> None:
    moments = engine.locate("speech", k=10, sources=["sound"])
    assert {(Path(moment.path).stem, moment.start, moment.end) for moment in moments if moment.score > 0} == {
        ("red", 6.0, 12.0),
        ("blue", 0.0, 12.0),
        ("turn", 3.0, 12.0),
    }
    best = engine.locate("yellow, while applause", k=1)[0]
    assert Path(best.path).stem == "back", "a sound and a picture that must hold together"


def test_labels_do_not_answer_who_does_not_ask_for_sounds(engine: Engine, deaf_engine: Engine) -> None:
    hits = engine.search("the line is busy", k=5)
    assert all(evidence.source != "sound" for hit in hits for evidence in hit.evidence)
    deaf = deaf_engine.search("the line is busy", k=5)
    assert [Path(hit.path).stem for hit in hits] == [Path(hit.path).stem for hit in deaf]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in deaf]), "words are as rare as before"
    assert [hit.probability for hit in hits] == pytest.approx([hit.probability for hit in deaf])


def test_a_hint_at_sounds_takes_nothing_from_pictures_and_words(engine: Engine, deaf_engine: Engine) -> None:
    for query in ("red music", "music on platform nine"):
        heard, deaf = (one.search(query, k=5, sources=["picture", "speech", "screen"]) for one in (engine, deaf_engine))
        assert [hit.score for hit in heard] == pytest.approx([hit.score for hit in deaf], abs=0.2)
        assert [Path(hit.path).stem for hit in heard] == [Path(hit.path).stem for hit in deaf]
    for query in ("music", "silence in the white room"):
        analysed = plan(deaf_engine._index, query)
        assert [clause.source for clause in analysed.structure.clauses] == [None], "without sounds, no hints"


def test_a_transcript_is_of_words_unless_it_is_asked_for_sounds(engine: Engine) -> None:
    words = engine.transcript("red.mp4")
    assert words
    assert all(text.source != "sound" for text in words)
    assert [(text.start, text.end, text.text) for text in engine.transcript("red.mp4", ["sound"])] == TEXTS["red"]


# By example.


def find_moment(engine: Engine, name: str, second: float) -> ConceptExample:
    return ConceptExample(path=str(engine.path.parent / "films" / f"{name}.mp4"), start=second, end=second)


def test_a_sound_is_found_where_it_is_heard_again(engine: Engine) -> None:
    engine.teach_sound("bark", [find_moment(engine, "red", 5.0)])
    moments = engine.locate("@bark", k=2, sources=["sound"])
    found = {(Path(moment.path).stem, moment.start, moment.end) for moment in moments}
    assert found == {("red", 4.0, 6.0), ("blue", 7.0, 9.0)}
    assert all(moment.evidence[0].source == "sound" for moment in moments)
    best = engine.search("@bark", k=2)
    assert {Path(hit.path).stem for hit in best} == {"red", "blue"}
    for query, sources in itertools.product(("@bark", "@bark, then red"), (["sound"], None)):
        given: dict[str, Any] = {"sources": sources, "filters": Filters(orientation="portrait")}
        assert not [*engine.search(query, **given), *engine.locate(query, **given)]
    with pytest.raises(VidretError, match="must include picture"):
        engine.search("@bark", sources=["speech"])


def test_sounds_that_come_later_are_found_by_an_open_engine(deaf_engine: Engine) -> None:
    index = shutil.copytree(deaf_engine.path, deaf_engine.path.with_name("late"))
    with Engine(index, NamedColours()) as engine:
        engine.search("bark")
        add_sounds(index)
        engine.teach_sound("bark", [find_moment(engine, "red", 5.0)])
        assert {Path(moment.path).stem for moment in engine.locate("@bark", k=2, sources=["sound"])} == {"red", "blue"}


def test_sounds_read_before_a_change_are_not_kept_as_new_ones(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds, read = engine._index.sounds, SoundStore.read
    assert sounds is not None

    def read_late(*given: Any) -> dict[str, SoundWindows]:
        found = read(*given)
        sounds._state = ()
        sounds._refresh()  # of a search in another thread, after a run has added sounds
        return found

    sounds._state = ()
    monkeypatch.setattr(SoundStore, "read", read_late)
    assert len(sounds._read(KIND.model).starts) == 44
    assert sounds._known == {}


def test_examples_can_be_added_and_replaced(engine: Engine) -> None:
    engine.teach_sound("chime", [find_moment(engine, "blue", 3.0)], replace=True)
    assert len(engine.teach_sound("chime", [find_moment(engine, "turn", 6.0)], add=True).yes) == 2
    assert "chime" in [concept.name for concept in engine.concepts()]
    with pytest.raises(VidretError, match="is taught already"):
        engine.teach_sound("chime", [find_moment(engine, "turn", 6.0)])
    with pytest.raises(VidretError, match="must hold an example"):
        engine.teach_sound("nothing", [])
    with pytest.raises(VidretError, match=r"must hold a sound at 16:39\.0, got none"):
        engine.teach_sound("late", [find_moment(engine, "turn", 999.0)])
    backwards = replace(find_moment(engine, "turn", 6.0), end=5.5)
    with pytest.raises(VidretError, match=r"a span must not end before it starts, got 6 to 5\.5 s"):
        engine.teach_sound("backwards", [backwards])
    with pytest.raises(VidretError, match="@chime is a sound"):
        engine.teach("chime", [np.zeros((8, 8, 3), np.uint8)], add=True)
    with pytest.raises(VidretError, match="must be replaced or added to, got both"):
        engine.teach_sound("chime", [find_moment(engine, "turn", 6.0)], replace=True, add=True)
    engine.forget("chime")


def test_a_sound_that_is_taught_meanwhile_is_not_lost(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = teaching._read_example

    def read_late(store: Store, example: ConceptExample) -> np.ndarray:
        monkeypatch.setattr(teaching, "_read_example", read)
        engine.teach_sound("knock", [find_moment(engine, "blue", 3.0)])
        return read(store, example)

    monkeypatch.setattr(teaching, "_read_example", read_late)
    with pytest.raises(VidretError, match="@knock: another process has just taught it"):
        engine.teach_sound("knock", [find_moment(engine, "turn", 6.0)])
    engine.forget("knock")


# By a text, with a model that the user named.


class TwoSounds:
    """A model that knows glass and bells, and unrelated names of sounds as nothing."""

    is_calibrated = False

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = [GLASS if "glass" in text and len(texts) == 1 else 0.1 * np.ones(8, np.float32) for text in texts]
        return np.array(rows, np.float32)


GLASS = np.eye(8, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def named(engines: tuple[Engine, Engine], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index whose film "blue" has glass breaking in the second of two windows."""
    index = shutil.copytree(engines[0].path, tmp_path_factory.mktemp("named") / "index")
    rng = np.random.default_rng(1)
    with SoundStore.open(index, write=True) as sounds:
        for content, _ in sounds.list_models():
            vectors = rng.uniform(0, 0.3, (2, 8)).astype(np.float32)
            if content == find_content(index, "blue.mp4"):
                vectors[1] += 2 * GLASS
            starts = np.array([0.0, 5.0])
            sounds.add(
                content, "hf:two/sounds", SoundWindows(starts=starts, ends=starts + 7, vectors=vectors.astype("f2"))
            )
    return index


def test_a_named_model_finds_sounds_by_text(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.encode.families.sound.load_sound_model", lambda _name: TwoSounds())
    monkeypatch.setenv("VIDRET_ALLOW", "hf:two/sounds")
    with Engine(named, NamedColours()) as engine:
        best = engine.locate("glass breaking", k=1, sources=["sound"])[0]
        assert (Path(best.path).stem, best.start, best.end) == ("blue", 7.0, 12.0), "the window before contradicts"
        assert best.evidence[0].source == "sound"
        assert Path(engine.search("the sound of glass breaking", k=1)[0].path).stem == "blue"
        assert Path(engine.locate("music", k=1, sources=["sound"])[0].path).stem == "red", "labels are searched as well"
        silent = engine.search("glass breaking", k=5)
        assert all(evidence.source != "sound" for hit in silent for evidence in hit.evidence), "nobody asks for sounds"


def test_a_named_model_that_nobody_allowed_is_not_loaded(named: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(named, NamedColours()) as engine:
        for _ in range(2):
            engine.locate("music", k=1, sources=["sound"])
    assert caplog.text.count("sounds are not found by name") == 1
    assert "once, by --sound-model hf:two/sounds" in caplog.text


def test_a_folder_whose_model_now_tags_sounds_compares_none(
    named: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vidret.encode.families.sound.load_sound_model", lambda _name: object.__new__(SoundTagger))
    monkeypatch.setenv("VIDRET_ALLOW", "hf:two/sounds")
    with Engine(named, NamedColours()) as engine:
        assert Path(engine.locate("music", k=1, sources=["sound"])[0].path).stem == "red", "labels are searched"
    assert "hf:two/sounds: must compare sounds with texts, got a model that tags them" in caplog.text


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_evidence_agrees_with_its_naive_twin(num_windows: int, num_examples: int, seed: int) -> None:
    rng, dim = np.random.default_rng(seed), 4
    vectors = rng.standard_normal((num_windows, dim)).astype(np.float32)
    examples = rng.standard_normal((num_examples, dim)).astype(np.float32)
    mean = [sum(float(vector[axis]) for vector in vectors) / num_windows for axis in range(dim)]
    centred = [[float(vector[axis]) - mean[axis] for axis in range(dim)] for vector in vectors]
    covariance = np.array(
        [
            [sum(vector[row] * vector[column] for vector in centred) / num_windows for column in range(dim)]
            for row in range(dim)
        ]
    )
    variance = max(sum(covariance[axis, axis] for axis in range(dim)) / dim, 1e-6)
    inverse = np.linalg.inv(covariance + variance * (SHRINKAGE + PRIOR_WINDOWS / num_windows) * np.eye(dim))
    scores = []
    for example in examples:
        direction = inverse @ (example - mean)
        spread = direction @ covariance @ direction + variance * PRIOR_SCORES / num_windows * direction @ direction
        scores.append([vector @ direction / math.sqrt(spread) for vector in centred])
    best = [sorted(column)[-NEAREST:] for column in zip(*scores, strict=True)]
    expected = [SLOPE * (sum(nearest) / len(nearest) - USUAL_SCORE) for nearest in best]
    rated = rate_windows(vectors, examples, UsualWindows.of(vectors))
    assert rated.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
