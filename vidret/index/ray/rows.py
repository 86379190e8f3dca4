"""What travels between the stages: rows of an Arrow table, so that pixels cross the object store without being copied.

A row holds a small value, pickled, and bytes beside it. The values are frozen and say all that their reader needs, for
rows come in any order, and after the loss of a worker more than once.
"""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, import-not-found, unused-ignore]

from vidret.errors import DecodeError
from vidret.types import Frames, SegmentEmbedding
from vidret.video.identity import Identity
from vidret.video.pool import OpenedVideo

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class FingerprintTask:
    """A file to be looked into: its number among the jobs."""

    file: int
    path: str


@dataclass(frozen=True, slots=True)
class Named:
    """What a file holds, or why that cannot be said."""

    file: int
    identity: Identity | None
    error: DecodeError | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A content to be decoded, from the first of its files that can be read.

    ``stamps`` are what the files bore when they were named, as ``Identity`` has them. ``stored`` are the numbers of the
    segments that need no decoding, if it is still cut into ``num_segments``.
    """

    number: int
    fingerprint: str
    files: tuple[tuple[int, str], ...]
    stamps: tuple[tuple[int, ...], ...] = ()
    stored: frozenset[int] = frozenset()
    num_segments: int = 0


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of a content; ``seconds`` is how long its decoding took, and then its encoding."""

    content: int
    file: int
    opened: OpenedVideo
    number: int
    start: float
    end: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A segment's frames, whose pixels are the bytes beside it."""

    part: SegmentInfo
    shape: tuple[int, ...]
    times: np.ndarray
    salvaged: str

    @classmethod
    def of(cls, part: SegmentInfo, frames: Frames) -> "tuple[Decoded, Bytes]":
        """Make a row of frames."""
        pixels = np.ascontiguousarray(frames.pixels)
        return cls(part, pixels.shape, frames.times, frames.salvaged), pixels.reshape(-1).data

    def frames(self, pixels: Any) -> Frames:
        """Make frames of a row; its pixels cannot be written to."""
        return Frames(np.frombuffer(pixels, np.uint8).reshape(self.shape), self.times, self.salvaged)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A segment's vectors; the tokens that a ranker packed are the bytes beside it."""

    part: SegmentInfo
    embedding: SegmentEmbedding
    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A content was decoded to its end; ``num_parts`` segments of it are on their way or arrived."""

    content: int
    file: int
    opened: OpenedVideo
    salvaged: str
    num_parts: int


@dataclass(frozen=True, slots=True)
class Failed:
    """One file cannot be read."""

    content: int
    file: int
    error: DecodeError


@dataclass(frozen=True, slots=True)
class Broken:
    """What ends the run, in one sentence."""

    reason: str


def to_table(rows: Iterable[tuple[object, Bytes]]) -> Any:
    """Make a table of rows."""
    several = list(rows)
    abouts = [pickle.dumps(about, pickle.HIGHEST_PROTOCOL) for about, _ in several]
    payloads = [payload for _, payload in several]
    return pa.table({"about": pa.array(abouts, pa.large_binary()), "payload": pa.array(payloads, pa.large_binary())})


def read_rows(table: Any) -> Iterator[tuple[Any, Bytes]]:
    """Give a table's rows; what lies beside a value is looked at where it lies."""
    for about, payload in zip(_look_into(table["about"]), _look_into(table["payload"]), strict=True):
        yield pickle.loads(about), payload


def _look_into(column: Any) -> Iterator[memoryview]:
    """Give each of a column's values without a copy, which ``as_buffer`` of a value is not."""
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        if len(chunk):
            edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
            whole = memoryview(values if values is not None else b"")
            yield from (whole[start:stop] for start, stop in pairwise(edges))


def distribute(items: "list[Any]", num_tables: int) -> "list[Any]":
    """Deal values into tables like cards, so that the large ones that come first do not end up in one."""
    hands = [items[start::num_tables] for start in range(num_tables)]
    return [to_table((item, b"") for item in hand) for hand in hands if hand]
