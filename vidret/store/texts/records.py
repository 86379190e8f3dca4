"""Records of the text store, and how a text is stored as a segment."""

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vidret.store.records import FileRecord
from vidret.types import SegmentEmbedding, TextSource, TimedText

MAX_TEXTS = 1 << 24  # of one track


@dataclass(frozen=True, slots=True)
class TextTrack:
    """One source of one content.

    Attributes:
        id: Its id in the text store.
        fingerprint: Of the content.
        source: Where the texts come from.
        model: What read them.
        complete: Whether all of the content was read.
        until_s: The time up to which it was read, in seconds.
        num_texts: Number of stored texts.
        note: Why nothing or not everything was read; empty otherwise.
    """

    id: int
    fingerprint: str
    source: TextSource
    model: str
    complete: bool
    until_s: float
    num_texts: int
    note: str


@dataclass(frozen=True, slots=True)
class StoredText:
    """A stored text: its id, the fingerprint of its content, and the text."""

    id: int
    fingerprint: str
    text: TimedText


@dataclass(frozen=True, slots=True)
class TextCounts:
    """Counts of one source: its texts, its tracks, and how many of these are complete."""

    source: TextSource
    texts: int
    tracks: int
    complete: int


def make_key(fingerprint: str, source: TextSource, model: str) -> str:
    """Return the name of a track in the store: it holds the place of a path, and of a content's fingerprint."""
    return f"{fingerprint} {source} {model}"


def text_id(track_id: int, number: int) -> int:
    """Return the id of a text in the full-text index."""
    return track_id * MAX_TEXTS + number


def track_exists(record: FileRecord) -> bool:
    """Return whether a record stands for a track; a repair may have lost its video."""
    return record.video is not None and record.state != "missing"


def identify_text(text: TimedText) -> tuple[str, int, int]:
    """Return what tells a text of a track from others: the words, and the times in milliseconds."""
    return text.text, round(text.start * 1000), round(text.end * 1000)


def embed_text(vector: Float[np.ndarray, " dim"]) -> SegmentEmbedding:
    """Return a text's vector as the embedding of a segment without frames."""
    return SegmentEmbedding(np.asarray(vector), np.zeros((0, len(vector)), np.float32), np.zeros(0))


def pack_text(text: TimedText) -> bytes:
    """Return a text as bytes, which are stored where a segment has its tokens."""
    return json.dumps([text.text, text.source, round(text.confidence, 4), text.language, text.start, text.end]).encode()


def unpack_text(row: int, data: bytes | memoryview, fingerprint: str) -> StoredText:
    """Return the text from ``pack_text``."""
    text, source, confidence, language, start, end = json.loads(str(data, "utf-8"))
    return StoredText(row, fingerprint, TimedText(start, end, text, source, confidence, language))
