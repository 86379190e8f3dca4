"""Films of plain colours in which words are said and shown, with fake encoders of pictures and of sentences."""

import re
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

import vidret.channels.texts.sentence_models
import vidret.search.query.planning
from tests.fakes import COLOURS, ColourEncoder, unit, write_film
from tests.indexed_texts import find_content
from vidret.engine import Engine
from vidret.search.preparation import save_text_background
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import Frames, SegmentEmbedding, TextEmbedding, TextSource, TimedText

DIM = 64
COMMON = frozenset(["a", "the", "of", "in", "on", "to", "is", "and", "or", "with", "for", "says", "someone", "that"])
FILMS = {
    "red": (("red", 12),),
    "blue": (("blue", 12),),
    "turn": (("green", 6), ("yellow", 6)),
    "back": (("yellow", 6), ("green", 6)),
    "white": (("white", 12),),
}
# Film, source, start, end, words.
WORDS: tuple[tuple[str, TextSource, float, float, str], ...] = (
    ("red", "speech", 1, 3, "the line is busy"),
    ("red", "speech", 8, 10, "please call again tomorrow"),
    ("red", "screen", 0, 4, "platform nine"),
    ("blue", "speech", 1, 3, "please call again tomorrow"),
    ("blue", "speech", 8, 10, "the line is busy"),
    ("blue", "subtitles", 5, 7, "good morning captain"),
    ("turn", "speech", 1, 4, "sand the door lightly"),
    ("back", "speech", 1, 4, "sand the door lightly"),
)


@cache
def word_vector(word: str, dim: int) -> np.ndarray:
    return unit(np.random.default_rng(zlib.crc32(word.encode("utf-8", "replace"))).standard_normal(dim))


class NamedColours(ColourEncoder):
    """Each colour has a direction of its own, which its name shares; other words have random ones."""

    name, dim = "named colours", 32

    def __init__(self) -> None:
        super().__init__("named-1")

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        values = np.array(list(COLOURS.values()))
        embeddings = []
        for frames in batch:
            seen = frames.pixels.reshape(len(frames), -1, 3).mean(axis=1)
            nearest = ((seen[:, None] - values) ** 2).sum(axis=2).argmin(axis=1)
            vectors = np.eye(self.dim, dtype=np.float32)[nearest]
            embeddings.append(SegmentEmbedding(unit(vectors.mean(axis=0)), vectors, frames.times))
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [self._embed(text) for text in texts]

    def _embed(self, text: str) -> TextEmbedding:
        names = list(COLOURS)
        words = text.lower().split() or [""]
        rows = [np.eye(self.dim)[names.index(w)] if w in names else word_vector(w, self.dim) for w in words]
        vectors = np.array(rows, np.float32)
        return TextEmbedding(text, unit(vectors.mean(axis=0)), vectors)


class RandomTexts(NamedColours):
    """An encoder in whose vectors no word is the name of a colour."""

    dim = 12


class FakeSentences:
    """The mean of a random vector for each word that is not common."""

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        rows = []
        for text in texts:
            words = [word for word in re.findall(r"\w+", text.lower()) if word not in COMMON] or [""]
            rows.append(np.sum([word_vector(word, DIM) for word in words], axis=0))
        return unit(np.array(rows, np.float32).reshape(-1, DIM))

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        return self.encode(texts)


def fake_sentences(patch: pytest.MonkeyPatch) -> None:
    """Let searches embed words with ``FakeSentences``, whose vectors say nothing about wording."""
    planning = vidret.search.query.planning
    for module in (planning, vidret.channels.texts.sentence_models):
        patch.setattr(module, "load_sentence_encoder", FakeSentences)
    patch.setattr(planning, "estimate_intents", lambda vectors: np.zeros((len(vectors), len(planning.CLASSES))))
    patch.setattr(planning, "is_english", lambda _: False)


def make_films(folder: Path) -> Path:
    """Write the films, and index them without words; return the index."""
    for name, scenes in FILMS.items():
        write_film(folder / "films" / f"{name}.mp4", *scenes, salt=sum(map(ord, name)) % 100)
    with Engine(folder / "index", NamedColours()) as engine:
        engine.index([folder / "films"])
    return folder / "index"


def open_texts(index: Path) -> TextStore:
    """Open the words of an index for writing."""
    return TextStore.create(index, encoder="fake sentences", fingerprint="fake-1", dim=DIM)


def say(index: Path, name: str, source: TextSource, texts: Sequence[tuple[float, float, str]]) -> None:
    """Add a track of (start, end, words) to a film by its name."""
    content = find_content(index, f"{name}.mp4")
    timed = [TimedText(start, end, text, source, 0.9, "en") for start, end, text in texts]
    with open_texts(index) as store:
        track = store.begin(content, source, "model", duration_s=12.0)
        if timed:
            store.add(track, timed, FakeSentences().encode([text.text for text in timed]), until_s=12.0)
        store.finish(track)
        store.save()


def add_all_words(index: Path) -> None:
    """Add ``WORDS`` to an index."""
    for name, source in dict.fromkeys((name, source) for name, source, *_ in WORDS):
        say(index, name, source, [row[2:] for row in WORDS if row[:2] == (name, source)])


def save_background(index: Path) -> None:
    """Store the background of the words, as an indexing run does."""
    with Store.open(index) as store:
        save_text_background(store)


def make_worded_films(folder: Path) -> Path:
    """Write the films, and index them with ``WORDS`` and their background; return the index."""
    index = make_films(folder)
    add_all_words(index)
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        save_background(index)
    return index


def make_random_index(path: Path, films: Path, numbers: Sequence[int]) -> None:
    """Make an index of videos that depend on their numbers alone, each at a path of its own in a folder of two."""
    encoder = RandomTexts()
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        for video_index in numbers:
            rng, film = (
                np.random.default_rng(video_index),
                films / str(video_index % 2) / f"{path.name}_{video_index}.mp4",
            )
            film.parent.mkdir(parents=True, exist_ok=True)
            film.touch()
            video = store.writer.begin_video(f"v{video_index}", duration=16.0, facts={}, num_segments=4)
            store.writer.set_file(str(film), state="done", video=video)
            segments = []
            for index in range(4):
                frames = unit(rng.standard_normal((4, encoder.dim)))
                times = 4.0 * index + np.arange(4) + 0.5
                embedding = SegmentEmbedding(unit(frames.mean(axis=0)), frames, times)
                segments.append(NewSegment(video, index, 4.0 * index, 4.0 * index + 4, embedding))
            store.writer.add_segments(segments)
            store.writer.finish_video(video)
