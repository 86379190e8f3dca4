"""What the store says about itself: frozen rows and reports, free of SQLite and FAISS."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float16, Float64, Int64

from vidret.types import Segment, SegmentEmbedding

FileState = Literal["pending", "running", "done", "failed", "missing"]
FILE_STATES: tuple[str, ...] = get_args(FileState)
DEAD_STATES: tuple[str, ...] = ("failed", "missing")  # a path in one of these makes no video searchable

# What others keep with an index, by names that more than one room knows. Facts say what it was made for; below the
# folder of moments lies a folder a grounding head, and in it what was kept of contents on request: a file each.
RANKER, HEAD, CALIBRATION = "ranker", "head", "calibration"
MOMENTS, KEPT, PROJECTED = "moments", "kept", ".zip"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One path the index knows, what was found there, and the video (content) it holds, if that is known."""

    path: str
    state: str
    reason: str = ""
    video: int | None = None
    num_bytes: int | None = None
    mtime_ns: int | None = None

    @property
    def live(self) -> bool:
        """Say whether this path makes its video searchable."""
        return self.video is not None and self.state not in DEAD_STATES


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One content, however many paths hold it; ``num_segments`` are planned, and stored once ``complete``."""

    id: int
    fingerprint: str
    duration: float
    facts: dict[str, object]
    num_segments: int
    complete: bool
    salvaged: str

    @property
    def start(self) -> float:
        """Return when the first frame is shown, in seconds on a player's clock; 0 where an older index does not say."""
        start = self.facts.get("start")
        return float(start) if isinstance(start, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """One content as a search may find it: its live paths, in order, and when the first of them changed.

    ``changed`` is in seconds since 1970, None where it is not known; ``facts`` are what the file says of itself, such
    as width, height and fps.
    """

    id: int
    paths: tuple[str, ...]
    duration: float
    facts: dict[str, object]
    complete: bool
    salvaged: str
    num_segments: int
    changed: float | None


class NewSegment(NamedTuple):
    """A segment to be stored: the ``number``-th of a video that was begun, from ``start`` to ``end`` in seconds."""

    video: int
    number: int
    start: float
    end: float
    embedding: SegmentEmbedding
    tokens: bytes = b""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment's vectors and tokens lie in the feature files, and the checksums that prove it."""

    row: int
    frame_row: int
    num_frames: int
    token_byte: int
    num_bytes: int
    row_sum: int
    frames_sum: int
    tokens_sum: int


class StoredRow(NamedTuple):
    """What the catalog holds of a segment: ``times`` are those of its frames, in seconds."""

    segment: Segment
    times: Float64[np.ndarray, " frame"]
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class StoredSegments:
    """What is stored of some segments: frame vectors as they are stored, their times in seconds, and tokens."""

    ids: Int64[np.ndarray, " id"]
    segments: list[Segment]
    frames: list[Float16[np.ndarray, "_frame dim"]]
    times: list[Float64[np.ndarray, " _frame"]]
    tokens: list[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class BadSegment:
    """A stored segment whose bytes no longer match their checksum."""

    id: int
    video: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file of saved vectors that is not what was saved; it costs the time to build it anew, never an answer."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What ``Store.prune`` removed; ``freed_bytes`` is 0 when the dead rows were too few to rewrite the files."""

    files: int
    videos: int
    segments: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """An index in numbers; ``files`` counts by state, ``searchable`` are the segments a search may return.

    ``with_tokens`` are the segments that have tokens for an aligner stored beside their vectors. ``vectors`` names the
    kinds of the saved search index, and ``memory`` the bytes it was told to fit. ``store`` says where the vectors are:
    ``faiss`` or the address of a Milvus.
    """

    path: str
    format: int
    encoder_name: str
    encoder_fingerprint: str
    dim: int
    generation: int
    files: Mapping[str, int]
    videos: int
    complete_videos: int
    segments: int
    searchable: int
    frames: int
    with_tokens: int
    seconds: float
    num_bytes: int
    vectors: str
    memory: int | None = None
    store: str = "faiss"
