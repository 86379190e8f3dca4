"""Texts that stay the same are encoded once, whatever happens to the files of their vectors."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import ColourEncoder
from vidret.encode import text_cache
from vidret.encode.text_cache import encode_once, locate_folder
from vidret.types import TextEmbedding

TEXTS = ("red", "blue and green", "a white wall")


class CountingEncoder(ColourEncoder):
    """Counts the texts that it encodes, and moves their vectors; it has the states of a text tower."""

    def __init__(self, fingerprint: str = "colours-1", shift: float = 0.0) -> None:
        super().__init__(fingerprint)
        self.num_texts, self._shift = 0, np.float32(shift)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        self.num_texts += len(texts)
        return [
            replace(
                embedding,
                sentence=embedding.sentence + self._shift,
                words=np.ones((row, 3), np.float32),
                states=np.eye(2 + row, 3),
            )
            for row, embedding in enumerate(super().encode_text(texts))
        ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return locate_folder()


def encode(encoder: CountingEncoder, texts: Sequence[str] = TEXTS) -> int:
    """Return how many texts the encoder encodes, once the result is that of the encoder itself."""
    before = encoder.num_texts
    embeddings = encode_once(encoder, texts)
    num_texts = encoder.num_texts - before
    for one, other in zip(embeddings, encoder.encode_text(texts), strict=True):
        assert one.text == other.text
        for name in ("sentence", "words", "states"):
            actual, expected = getattr(one, name), getattr(other, name)
            assert actual.dtype == expected.dtype
            assert np.array_equal(actual, expected)
    return num_texts


def test_texts_are_encoded_once_by_each_encoder(folder: Path) -> None:
    assert encode(CountingEncoder()) == len(TEXTS)
    assert encode(CountingEncoder()) == 1
    assert encode(CountingEncoder("colours-2")) == len(TEXTS)
    assert encode(CountingEncoder(), TEXTS[:2]) == 2
    assert len(list(folder.iterdir())) == 3


def test_an_encoder_that_encodes_otherwise_under_one_name_encodes_again() -> None:
    encode(CountingEncoder())
    assert encode(CountingEncoder(shift=0.01)) == 1 + len(TEXTS)


class StatelessEncoder(CountingEncoder):
    """Has no text tower whose states it could give."""

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [replace(embedding, states=None) for embedding in super().encode_text(texts)]


def test_an_encoder_that_now_has_states_encodes_again() -> None:
    encode_once(StatelessEncoder(), TEXTS)
    assert encode(CountingEncoder()) == len(TEXTS) + 1  # the first one to compare


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_damaged_file_is_replaced(folder: Path, position: int) -> None:
    encode(CountingEncoder())
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert encode(CountingEncoder()) == len(TEXTS)
    path.write_bytes(content[:10])
    assert encode(CountingEncoder()) == len(TEXTS)
    assert encode(CountingEncoder()) == 1


def test_texts_that_may_mention_concepts_of_an_index_are_encoded(folder: Path) -> None:
    assert encode(CountingEncoder(), ["red", "@rex on grass"]) == 2
    assert not folder.exists()


def test_files_used_last_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MAX_FILES", 2)
    for text in ("red", "green"):
        encode(CountingEncoder(), [text])
    for age, path in enumerate(folder.iterdir()):
        os.utime(path, (age + 1, age + 1))
    encode(CountingEncoder(), ["red"])
    encode(CountingEncoder(), ["blue"])
    assert encode(CountingEncoder(), ["red", "red"]) == 2  # replaces the third file
    assert len(list(folder.iterdir())) == 2


def test_few_bytes_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MAX_BYTES", 100)
    assert encode(CountingEncoder()) == len(TEXTS)
    assert not folder.exists()
