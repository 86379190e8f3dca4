"""Rows that travel between the stages on Ray, in Arrow tables, so that pixels cross the object store without a copy.

A row is a small pickled value and bytes beside it. Values are frozen and self-contained, because rows arrive in any
order, and more than once after a worker was lost.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, import-not-found, unused-ignore]

from vidret.errors import DecodeError
from vidret.types import Frames, SegmentEmbedding, ShotChange
from vidret.video.identity import Identity
from vidret.video.sampling import SampledFrames
from vidret.video.workers.messages import FinishedTexts, OpenedVideo, ReadTexts, SegmentStart, WordsRequest

Bytes = bytes | memoryview
Row = tuple[object, Bytes]


@dataclass(frozen=True, slots=True)
class FingerprintTask:
    """A file to fingerprint."""

    job_index: int
    path: str


@dataclass(frozen=True, slots=True)
class Fingerprinted:
    """The identity of a file, or the error."""

    job_index: int
    identity: Identity | None
    error: DecodeError | None = None


@dataclass(frozen=True, slots=True)
class WordsTask:
    """The words of a content to read.

    Attributes:
        fingerprint: The fingerprint under which they are stored.
        paths: All paths of the content.
        request: What to read, and from where; see ``DecodePool.stream``.
    """

    fingerprint: str
    paths: tuple[str, ...]
    request: WordsRequest


@dataclass(frozen=True, slots=True)
class ContentTask:
    """A content to decode, from the first of its files that can be read.

    Attributes:
        content_index: The position of the task in the run.
        fingerprint: The fingerprint of the content.
        files: Its files, as (job index, path).
        stamps: The stamp of each file when it was fingerprinted; see ``Identity``.
        stored: Numbers of segments that need no decoding, if the video still has ``num_segments``.
        num_segments: The number of segments that the store expects.
        start: The number and the start in seconds of the first segment to decode, where segments follow shots; None to
            decode all.
        has_pictures: Whether its pictures are stored, and only its words are wanted.
        words: The words to read; None for none.
    """

    content_index: int
    fingerprint: str
    files: tuple[tuple[int, str], ...]
    stamps: tuple[tuple[int, ...], ...] = ()
    stored: frozenset[int] = frozenset()
    num_segments: int = 0
    start: SegmentStart | None = None
    has_pictures: bool = False
    words: WordsTask | None = None


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of a content, from ``start`` to ``end`` seconds, with its shots, decoded in ``seconds``."""

    content_index: int
    job_index: int
    opened: OpenedVideo
    number: int
    start: float
    end: float
    shots: Sequence[ShotChange]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRow:
    """The frames of a segment; the pixels of their pictures are the bytes beside the row."""

    segment: SegmentInfo
    shape: tuple[int, ...]
    picture_times: np.ndarray
    salvaged: str
    times: np.ndarray
    rows: np.ndarray
    sound: np.ndarray | None

    @classmethod
    def pack(cls, segment: SegmentInfo, frames: SampledFrames) -> "tuple[DecodedRow, Bytes]":
        """Return a row and the pixels beside it."""
        pictures = frames.pictures
        pixels = np.ascontiguousarray(pictures.pixels)
        row = cls(
            segment=segment,
            shape=pixels.shape,
            picture_times=pictures.times,
            salvaged=pictures.salvaged,
            times=frames.times,
            rows=frames.rows,
            sound=pictures.sound,
        )
        return row, pixels.reshape(-1).data

    def unpack(self, pixels: Any) -> SampledFrames:
        """Return the frames; their pixels are read-only."""
        shown = np.frombuffer(pixels, np.uint8).reshape(self.shape)
        pictures = Frames(shown, self.picture_times, self.salvaged, self.sound)
        return SampledFrames(pictures, self.times, self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """The embedding of a segment, encoded in ``seconds``; its packed tokens are the bytes beside the row."""

    segment: SegmentInfo
    embedding: SegmentEmbedding
    seconds: float


@dataclass(frozen=True, slots=True)
class ContentFinished:
    """A content was decoded to its end; ``num_segments`` of its segments were sent."""

    content_index: int
    job_index: int
    opened: OpenedVideo
    salvaged: str
    num_segments: int


@dataclass(frozen=True, slots=True, order=True)
class TextPosition:
    """How far a source of words was read: to ``until_s`` seconds, and ``num_messages`` further messages with that time.

    Two runs of a task with the same file pass the same positions.
    """

    until_s: float
    num_messages: int = 0

    def advance(self, until_s: float) -> "TextPosition":
        """Return the position after a message that reaches ``until_s``."""
        return TextPosition(until_s) if until_s > self.until_s else TextPosition(self.until_s, self.num_messages + 1)


@dataclass(frozen=True, slots=True)
class TextsRow:
    """A message about words of a content, read from ``start`` on.

    The sentence vectors of its texts, in float32, are the bytes beside the row, once they are encoded.
    """

    content_index: int
    start: TextPosition
    message: ReadTexts | FinishedTexts
    duration_s: float


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file cannot be read, or only its words cannot (``words_only``)."""

    content_index: int
    job_index: int
    error: DecodeError
    words_only: bool = False


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The whole run must end; ``reason`` is one sentence."""

    reason: str


def to_table(rows: Iterable[Row]) -> Any:
    """Return an Arrow table of (value, bytes) rows."""
    rows = list(rows)
    values = [pickle.dumps(value, pickle.HIGHEST_PROTOCOL) for value, _ in rows]
    payloads = [payload for _, payload in rows]
    return pa.table({"value": pa.array(values, pa.large_binary()), "payload": pa.array(payloads, pa.large_binary())})


def read_rows(table: Any) -> Iterator[tuple[Any, Bytes]]:
    """Yield the rows of a table; payloads share its memory."""
    for value, payload in zip(_view_values(table["value"]), _view_values(table["payload"]), strict=True):
        yield pickle.loads(value), payload


def _view_values(column: Any) -> Iterator[memoryview]:
    """Yield the values of a column without a copy, unlike ``as_buffer``."""
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        if len(chunk):
            edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
            view = memoryview(values if values is not None else b"")
            yield from (view[start:stop] for start, stop in pairwise(edges))


def distribute(values: "list[Any]", num_tables: int) -> "list[Any]":
    """Return tables of values in turn, so that the large ones that come first are spread over all tables."""
    shares = [values[start::num_tables] for start in range(num_tables)]
    return [to_table((value, b"") for value in share) for share in shares if share]
