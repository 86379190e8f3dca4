"""Sounds by example: the evidence of windows, and searches with a taught sound."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.indexed_texts import find_content
from tests.spoken import NamedColours, fake_sentences, make_films, save_background, say
from vidret.channels.sounds.channel import (
    PRIOR_DEVIATION,
    PRIOR_WINDOWS,
    SLOPE,
    USUAL_SCORE,
    rate_windows,
)
from vidret.channels.sounds.kind import KIND
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.store.sounds import SoundStore
from vidret.types import ConceptExample, SoundWindows

RNG = np.random.default_rng(0)
BARK, BELL = np.eye(16, dtype=np.float32)[:2]
HEARD = {"red": {4: BARK}, "blue": {7: BARK, 2: BELL}, "turn": {5: BELL}, "back": {}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    index = make_films(tmp_path_factory.mktemp("sounds"))
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        with SoundStore.create(index) as sounds:
            for name, heard in HEARD.items():
                say(index, name, "sound", [(0, 1, "speech")])
                vectors = RNG.standard_normal((11, 16)).astype(np.float32) * 0.2
                for second, vector in heard.items():
                    vectors[second] = vector
                starts = np.arange(11.0)
                windows = SoundWindows(starts=starts, ends=starts + 2, vectors=vectors.astype(np.float16))
                sounds.add(find_content(index, f"{name}.mp4"), KIND.model, windows)
        save_background(index)
        with Engine(index, NamedColours()) as engine:
            yield engine


def find_moment(engine: Engine, name: str, second: float) -> ConceptExample:
    path = str(engine.path.parent / "films" / f"{name}.mp4")
    return ConceptExample(path=path, start=second, end=second)


def test_a_sound_is_found_where_it_is_heard_again(engine: Engine) -> None:
    engine.teach_sound("bark", [find_moment(engine, "red", 5.0)])
    moments = engine.locate("@bark", k=2, sources=["sound"])
    assert {(Path(each.path).stem, each.start, each.end) for each in moments} == {("red", 4.0, 6.0), ("blue", 7.0, 9.0)}
    assert all(each.evidence[0].source == "sound" for each in moments)
    best = engine.search("@bark", k=2)
    assert {Path(hit.path).stem for hit in best} == {"red", "blue"}


def test_examples_can_be_added_and_replaced(engine: Engine) -> None:
    engine.teach_sound("chime", [find_moment(engine, "blue", 3.0)], replace=True)
    concept = engine.teach_sound("chime", [find_moment(engine, "turn", 6.0)], add=True)
    assert len(concept.yes) == 2
    assert "chime" in [known.name for known in engine.concepts()]
    with pytest.raises(VidretError, match="is taught already"):
        engine.teach_sound("chime", [find_moment(engine, "turn", 6.0)])
    engine.forget("chime")


def test_a_sound_needs_an_example(engine: Engine) -> None:
    with pytest.raises(VidretError, match="must hold an example"):
        engine.teach_sound("nothing", [])


def test_only_sounds_are_searched_without_pictures(engine: Engine) -> None:
    engine.teach_sound("bell", [find_moment(engine, "turn", 6.0)], replace=True)
    with pytest.raises(VidretError, match="must include picture"):
        engine.search("@bell", sources=["speech"])
    assert engine.search("@bell", sources=["sound"])


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_evidence_agrees_with_its_naive_twin(num_windows: int, num_examples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num_windows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    examples = rng.standard_normal((num_examples, 8)).astype(np.float32)
    direction = np.sum(list(examples), axis=0) / num_examples
    cosines = [float(own @ direction) / math.sqrt(float(direction @ direction)) for own in vectors]
    mean = sum(cosines) / (num_windows + PRIOR_WINDOWS)
    total = sum((cosine - mean) ** 2 for cosine in cosines) + PRIOR_WINDOWS * PRIOR_DEVIATION**2
    deviation = math.sqrt(total / (num_windows + PRIOR_WINDOWS))
    expected = [SLOPE * ((cosine - mean) / deviation - USUAL_SCORE) for cosine in cosines]
    assert rate_windows(vectors, examples).tolist() == pytest.approx(expected, abs=1e-4)
