"""Timed texts for tests, with random vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import TextSource, TimedText

DIM = 8


def make_texts(words: Sequence[str], source: TextSource = "speech", language: str = "en") -> list[TimedText]:
    """Return texts of two seconds each, one after another."""
    return [TimedText(2.0 * i, 2.0 * i + 2, text, source, 0.5, language) for i, text in enumerate(words)]


def random_vectors(texts: Sequence[TimedText]) -> Float32[np.ndarray, "text dim"]:
    """Return unit vectors that depend on the texts alone."""
    rows = [np.random.default_rng(list(text.text.encode())).standard_normal(DIM) for text in texts]
    vectors = np.array(rows, np.float32).reshape(-1, DIM)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def create_words(index: Path, fingerprint: str = "sentences-1") -> TextStore:
    """Open the texts of an index for writing."""
    return TextStore.create(index, encoder="sentences", fingerprint=fingerprint, dim=DIM)


def add_words(
    index: Path,
    content: str,
    words: Sequence[str],
    *,
    source: TextSource = "speech",
    model: str = "model",
    complete: bool = True,
    note: str = "",
    language: str = "en",
) -> None:
    """Add a track to an index."""
    texts = make_texts(words, source, language)
    with create_words(index) as store:
        track = store.begin(content, source, model, duration_s=60.0)
        if texts:
            store.add(track, texts, random_vectors(texts), until_s=texts[-1].end)
        if complete:
            store.finish(track, note=note)
        store.save()


def find_words(texts: TextStore, words: str) -> list[str]:
    """Return the texts that a full-text search finds, the best first."""
    ids = texts.index.search(texts.index.stems([words])[0], 50)
    return [text.text.text for text in texts.read_segments(texts.find_segments(ids))]


def search_words(index: Path, words: str) -> list[str]:
    """Return the texts of an index that a full-text search finds, the best first."""
    with TextStore.open(index) as texts:
        return find_words(texts, words)


def find_content(index: Path, name: str) -> str:
    """Return the fingerprint of an indexed file by its name."""
    with Store.open(index) as store:
        record = next(record for record in store.files.find() if Path(record.path).name == name)
        assert record.video is not None
        return store.videos.get(record.video).fingerprint
