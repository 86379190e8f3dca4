"""The background of words: what unrelated texts look like, measured, stored, and measured again as the words grow."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

import vidret.channels.texts.background
from tests.indexed_texts import DIM, create_words, make_texts, random_vectors
from vidret.align.baseline import UNRELATED
from vidret.channels.picture.query_bank import SENTENCES
from vidret.channels.texts.background import (
    PRIOR_TEXTS,
    TextBackground,
    has_typical,
    load_background,
    measure_background,
    store_background,
)
from vidret.store.texts.store import TextStore
from vidret.types import TEXT_SOURCES, TextSource

SAID = {"speech": ("hold the line", "the line is busy", "call again"), "screen": ("platform nine",)}


def encode(texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
    return random_vectors(make_texts(texts))


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[TextStore]:
    with create_words(tmp_path) as store:
        for source, words in SAID.items():
            add(store, source, words)  # type: ignore[arg-type]
        yield store


def add(store: TextStore, source: TextSource, words: Sequence[str]) -> None:
    timed = make_texts(words, source)
    track = store.begin(f"film {len(store)}", source, "model", duration_s=60.0)
    store.add(track, timed, random_vectors(timed), until_s=60.0)
    store.finish(track)
    store.save()


def average(rows: Iterable[np.ndarray]) -> list[float]:
    own = list(rows)
    return [sum(float(row[axis]) for row in own) / len(own) for axis in range(DIM)]


def test_background_agrees_with_its_naive_twin(texts: TextStore) -> None:
    background = measure_background(texts, encode)
    assert background.num_texts == 4
    assert background.typical == pytest.approx(average(encode([*SENTENCES, *UNRELATED])), abs=1e-5)
    assert dict(background.counts) == {"speech": 3, "screen": 1}
    for source, words in SAID.items():
        assert background.means[source] == pytest.approx(average(encode(words)), abs=1e-2)  # type: ignore[index]


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_level_is_that_of_all_texts_and_of_some_typical_sentences(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    typical, mean, vector = rng.standard_normal((3, DIM)).astype(np.float32)
    background = TextBackground(
        num_texts=count, typical=typical, means={"speech": mean}, counts={"speech": float(count)}
    )
    total, weight = PRIOR_TEXTS * sum(float(a * b) for a, b in zip(typical, vector, strict=True)), PRIOR_TEXTS + count
    total += count * sum(float(a * b) for a, b in zip(mean, vector, strict=True))
    assert background.level("speech", vector) == pytest.approx(total / weight, abs=1e-4)
    assert background.level("screen", vector) == pytest.approx(float(typical @ vector), abs=1e-5)


def test_large_store_is_measured_on_a_sample_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.channels.texts.background, "SAMPLE", 10)
    with create_words(tmp_path) as store:
        add(store, "speech", [f"word {number}" for number in range(30)])
        add(store, "screen", [f"sign {number}" for number in range(10)])
        background = measure_background(store, encode)
    assert background.num_texts == 40
    assert sum(background.counts.values()) == pytest.approx(40)
    assert background.counts["speech"] == pytest.approx(30, abs=4)


def test_background_is_stored_with_its_words(texts: TextStore) -> None:
    assert load_background(texts) is None
    assert not has_typical(texts)
    background = measure_background(texts, encode)
    store_background(texts, background)
    assert has_typical(texts)
    again = load_background(texts)
    assert again is not None
    assert (again.num_texts, dict(again.counts)) == (background.num_texts, dict(background.counts))
    vector = encode(["busy"])[0]
    for source in TEXT_SOURCES:
        assert again.level(source, vector) == pytest.approx(background.level(source, vector), abs=1e-6)


def test_typical_sentences_are_encoded_once(texts: TextStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store_background(texts, measure_background(texts, encode))
    add(texts, "speech", ["one more"])
    encoded: list[str] = []

    def note(given: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        encoded.extend(given)
        return encode(given)

    assert measure_background(texts, note).num_texts == 5
    assert encoded == []
    monkeypatch.setattr(vidret.channels.texts.background, "SENTENCES", SENTENCES[1:])
    assert not has_typical(texts), "those of another list are not used"
    assert load_background(texts) is None
    measure_background(texts, note)
    assert encoded == [*SENTENCES[1:], *UNRELATED]


def test_typical_sentences_of_another_encoder_are_not_used(tmp_path: Path) -> None:
    with create_words(tmp_path / "one") as one, create_words(tmp_path / "two", "sentences-2") as two:
        store_background(one, measure_background(one, encode))
        two.store.metadata.set_many(
            {key: one.store.metadata.get(key) or "" for key in one.store.metadata.keys("background")}
        )
        assert has_typical(one)
        assert not has_typical(two)
        assert load_background(two) is None


def test_empty_store_has_the_level_of_typical_sentences(tmp_path: Path) -> None:
    with create_words(tmp_path) as store:
        background = measure_background(store, encode)
    assert (background.num_texts, dict(background.means), dict(background.counts)) == (0, {}, {})
    vector = encode(["busy"])[0]
    assert background.level("speech", vector) == pytest.approx(float(background.typical @ vector))
