"""Records and reports of the store, independent of SQLite and FAISS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float64, Int64

from vidret.types import Segment, SegmentEmbedding, ShotChange, TimedText

FileState = Literal["pending", "running", "done", "failed", "missing"]
FILE_STATES: tuple[str, ...] = get_args(FileState)
DEAD_STATES: tuple[FileState, ...] = ("failed", "missing")  # a path in these states does not make a video searchable

# Names shared by several packages: metadata keys, and the folder of prepared moments. The latter has a folder per
# grounding head, whose subfolder KEPT has a file per prepared video, named after its fingerprint.
RANKER, HEAD, CALIBRATION, CONCEPT, PROBABILITIES = "ranker", "head", "calibration", "concept", "judge"
UNCALIBRATED = "uncalibrated"  # set if a run must not calibrate automatically
ENCODER_CLASS = "encoder class"
MOMENTS, KEPT, PROJECTED = "moments", "kept", ".zip"
# The metadata key of the rule by which videos are cut into segments, and its values; the grid if it was never set.
SEGMENTS, FOLLOW_SHOTS, FIXED_GRID = "segments", "shots", "grid"
IMPORTED = "imported"  # the fact that marks a video whose vectors another program made
LANGUAGES, HEARD = "languages", "heard"  # the facts of a video that list its languages and sounds, longest first
SEPARATORS = {LANGUAGES: " ", HEARD: "\n"}  # between listed items
# The properties of a video in the HTTP API, its client and MCP, by the names of the facts.
SHOWN_FACTS = {"width": "width", "height": "height", "average_rate": "fps"}
HAS_TEXTS = "has texts"  # the metadata key that is set if the index has a folder of texts
SAMPLING = "sampling"  # the metadata key of the frames that are decoded to follow shots; all frames if it was never set


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A path in the index, its state, and the id of its video, if known."""

    path: str
    state: str
    reason: str = ""
    video: int | None = None
    num_bytes: int | None = None
    mtime_ns: int | None = None

    @property
    def live(self) -> bool:
        """Whether this path makes its video searchable."""
        return self.video is not None and self.state not in DEAD_STATES


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video, identified by its content. All ``num_segments`` planned segments are stored once it is ``complete``.

    ``num_segments`` is 0 while a video is open-ended: it is known once the file has been decoded to its end.
    """

    id: int
    fingerprint: str
    duration: float
    facts: dict[str, object]
    num_segments: int
    complete: bool
    salvaged: str

    @property
    def open_ended(self) -> bool:
        """Whether the number of segments is not known yet."""
        return not self.num_segments and not self.complete

    @property
    def follows_shots(self) -> bool:
        """Whether its shots are known: its segments were cut in one pass, without a planned number."""
        return self.facts.get(SEGMENTS) == FOLLOW_SHOTS

    @property
    def start(self) -> float:
        """Time of the first frame in seconds, on a player's clock; 0 if it is not known."""
        return _read_start(self.facts)


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A searchable video with its live paths: files before URLs, then the shortest first.

    ``changed`` is the modification time of the first path in seconds since 1970, None if unknown; ``facts`` are
    properties of the file, such as width, height and frame rate. Duration is in seconds. ``num_segments`` are those
    planned, or those stored so far while the video is open-ended.
    """

    id: int
    paths: tuple[str, ...]
    duration: float
    facts: dict[str, object]
    complete: bool
    salvaged: str
    num_segments: int
    changed: float | None

    @property
    def extent(self) -> "Extent":
        """Its start and end in seconds; 0 for an unknown start."""
        return Extent(_read_start(self.facts), self.duration)


class VideoSize(NamedTuple):
    """The stored part of a video: its length, the number of its segments, and the row of the last one."""

    id: int
    seconds: float
    num_segments: int
    last_segment: int


class Extent(NamedTuple):
    """The start and the end of a video or a clip, in seconds."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """The length in seconds."""
        return self.end - self.start


def _read_start(facts: Mapping[str, object]) -> float:
    start = facts.get("start")
    return float(start) if isinstance(start, int | float) else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class NewSegment:
    """A segment to store: its video, its index ``number`` there, and its ``start`` and ``end`` in seconds.

    ``shots`` are the shot changes in it, and those close to its ends that were found with it. ``text`` is the text of a
    segment of a track.
    """

    video: int
    number: int
    start: float
    end: float
    embedding: SegmentEmbedding
    tokens: bytes = b""
    shots: Sequence[ShotChange] = ()
    text: TimedText | None = None


class SegmentLocation(NamedTuple):
    """The location of a segment's vectors and tokens in the feature files, and their checksums."""

    row: int
    frame_row: int
    num_frames: int
    token_byte: int
    num_bytes: int
    row_sum: int
    frames_sum: int
    tokens_sum: int


class StoredRow(NamedTuple):
    """The row of a segment in the catalog; ``times`` of frames are in seconds."""

    segment: Segment
    times: Float64[np.ndarray, " frame"]
    location: SegmentLocation


@dataclass(frozen=True, slots=True, eq=False)
class StoredSegments:
    """Segments with their frame vectors as stored, frame times in seconds, and packed tokens."""

    ids: Int64[np.ndarray, " id"]
    segments: Sequence[Segment]
    frames: Sequence[Float[np.ndarray, "_frame dim"]]
    times: Sequence[Float64[np.ndarray, " _frame"]]
    tokens: Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class BadSegment:
    """A stored segment whose bytes do not match their checksums."""

    id: int
    video: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class BadFile:
    """A damaged file of saved vectors; search results stay correct, since it is rebuilt."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The counts of deletions by ``Store.prune``; ``freed_bytes`` is 0 if too few rows were dead for a compaction."""

    files: int
    videos: int
    segments: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Statistics of an index.

    Attributes:
        path: Folder of the index.
        format: Version of its format.
        encoder_name: Name of its encoder.
        encoder_fingerprint: Fingerprint of the encoder's weights and settings.
        dim: Dimensions of a vector.
        generation: Number of changes so far that affect searches.
        files: Number of files by state.
        videos: Number of videos.
        complete_videos: Number of videos that are stored as a whole.
        segments: Number of segments.
        searchable: Number of segments that searches may return.
        frames: Number of frames.
        with_tokens: Number of segments with the tokens of an aligner.
        seconds: Total duration of the segments in seconds.
        num_bytes: Size of the index folder in bytes.
        vectors: Kind of the saved vectors.
        memory: Memory limit of the vectors in bytes; None without one.
        store: Where the vectors are: ``faiss`` or the address of a Milvus.
        segment_rule: How videos are cut into segments: ``shots`` or ``grid``.
        sampling: Which frames are decoded: ``exact``, ``balanced`` or ``fast``.
        imported: Number of videos whose vectors another program made.
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
    segment_rule: str = FIXED_GRID
    sampling: str = "exact"
    imported: int = 0
