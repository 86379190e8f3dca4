"""The options, jobs, progress and report of an indexing run, on threads or on Ray."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from vidret.channels.texts.options import WordsOptions
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.store.identities.tracks import IdentityKind
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SAMPLING, SEGMENTS, PruneReport
from vidret.store.store import Store
from vidret.types import LayerTokens, Segment, SegmentEmbedding, TextSource
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode, choose_mode
from vidret.video.decoders.registry import DECODERS, EXACT_DECODERS, Decoder

if TYPE_CHECKING:
    from vidret.video.workers.process import ProcessPool


@dataclass(frozen=True, slots=True)
class FileJob:
    """A file to index, with its size and modification time; ``disk_bytes`` is less than the size of a sparse file.

    ``is_stored`` marks an unchanged file that lacks only words, faces or voices.
    """

    path: str
    num_bytes: int
    mtime_ns: int
    disk_bytes: int = 0
    is_stored: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        num_files: Number of new and changed files, which have to be read.
        done: Number of these files that are finished.
        failed: Number of these files that failed.
        num_segments: Number of segments encoded so far.
        seconds: Duration of these segments in seconds.
        share: Share of the work that is done, from 0 to 1; it never decreases.
        elapsed: Time since the start of the run in seconds.
        interrupted: Whether the run was interrupted, and finishes the segments in progress.
        file: Path of the file that is being read, the first of several; empty if none is.
    """

    num_files: int
    done: int
    failed: int
    num_segments: int
    seconds: float
    share: float
    elapsed: float
    interrupted: bool = False
    file: str = ""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The result of a run.

    Attributes:
        encoded: Number of files that were encoded.
        linked: Number of files whose content was stored already, because they were moved, renamed or copied.
        unchanged: Number of files whose content has not changed since the last run.
        moved: Old and new paths of the files that were moved or renamed since the last run.
        deleted_copies: Paths of the files that were deleted since the last run, each with the path of a copy
            that still exists.
        missing: Number of files in the index that no longer exist, without a copy of their content elsewhere.
        gone: Paths of the missing files.
        failed: Paths of files that cannot be read, with reasons.
        salvaged: Paths of files that could be read in part, with descriptions of the damage.
        num_segments: Number of segments that were encoded.
        seconds: Duration of these segments in seconds.
        elapsed: Duration of the run in seconds.
        interrupted: Whether the run was interrupted.
        pruned: Counts of removed items; None if ``prune`` was not requested.
        unpruned: Missing files that were not removed although ``prune`` was requested, because no listed folder with
            any video contains them: their drive may be unmounted.
        junk: Folders that were skipped: of thumbnails or deleted files, or with a ``.nomedia`` file.
        texts: Number of texts that were read, by source of words; empty if none were read.
        tracks: Number of tracks of faces and of voices that were read; empty if none were.
        workers: The number of files read at once, and the reason for it; empty if none had to be read.
        speeds: Throughput of each stage of a run on Ray, by a description of its unit.
    """

    encoded: int = 0
    linked: int = 0
    unchanged: int = 0
    moved: list[tuple[str, str]] = field(default_factory=list)
    deleted_copies: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0
    gone: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    salvaged: list[tuple[str, str]] = field(default_factory=list)
    num_segments: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    interrupted: bool = False
    pruned: PruneReport | None = None
    unpruned: list[str] = field(default_factory=list)
    junk: list[str] = field(default_factory=list)
    texts: dict[TextSource, int] = field(default_factory=dict)
    tracks: dict[IdentityKind, int] = field(default_factory=dict)
    workers: str = ""
    speeds: dict[str, float] = field(default_factory=dict)


class Workload:
    """The work of a run, in segments of equal length: done and remaining.

    The work on a file is known once the file is opened. Until then it is estimated from the file's bytes on disk at the
    rate of the opened files, and is at least one. A file that needs no encoding or fails counts as one.
    """

    def __init__(self) -> None:
        self._unopened: dict[str, int] = {}  # bytes on disk
        self._remaining: dict[str, float] = {}  # segments of opened files
        self._unopened_bytes = self._opened_bytes = self._opened_segments = 0
        self._done = self._known = 0.0  # segments
        self._share = 0.0

    def add(self, path: str, disk_bytes: int) -> None:
        """Add a file that has to be read."""
        self._unopened[path] = disk_bytes
        self._unopened_bytes += disk_bytes

    def open(self, path: str, num_segments: int, num_remaining: float) -> None:
        """Set the number of segments of an added file, and of those that have to be encoded."""
        if path not in self._unopened:
            return
        disk_bytes = self._unopened.pop(path)
        self._unopened_bytes -= disk_bytes
        self._opened_bytes += disk_bytes
        self._opened_segments += num_segments
        self._remaining[path] = num_remaining
        self._known += num_remaining

    def advance(self, path: str, num_segments: float = 1.0) -> None:
        """Count segments of a file as encoded."""
        done = min(self._remaining.get(path, 0.0), num_segments)
        if done > 0:
            self._remaining[path] -= done
            self._done += done

    def finish(self, path: str) -> None:
        """Count all remaining work on a file as done."""
        if path in self._unopened:
            self._unopened_bytes -= self._unopened.pop(path)
            self._known += 1
            self._done += 1
        self._done += self._remaining.pop(path, 0)

    @property
    def file(self) -> str:
        """The path that has been open longest; empty if none is."""
        return next(iter(self._remaining), "")

    def share(self) -> float:
        """Return the fraction of the work that is done, 0..1; it never decreases."""
        rate = self._opened_segments / self._opened_bytes if self._opened_bytes else 0.0
        total = self._known + max(len(self._unopened), self._unopened_bytes * rate)
        self._share = max(self._share, self._done / total if total else 1.0)
        return self._share


Pack = Callable[[SegmentEmbedding], bytes]


class MomentRecorder(Protocol):
    """Stores the features of a run's videos that a grounding head needs.

    Attributes:
        num_layers: Number of the encoder's last layers that the head reads.
    """

    num_layers: int

    def record(self, content: str, layers: LayerTokens, segment: Segment, *, first: float) -> None:
        """Store the features of a segment, before it is committed; the video starts at ``first`` seconds."""
        ...

    def finish(self, path: str, content: str, segments: Sequence[Segment], *, first: float) -> None:
        """Join the features of all segments of a video, before it is marked as complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """Options of an indexing run.

    Attributes:
        pack: Returns the bytes to store beside the vectors of an embedding; None stores none. On Ray it is pickled.
        tokens: Whether ``pack`` needs token embeddings.
        workers: See ``Engine.index``.
        decoder: See ``Engine.index``.
        device: The device of the encoder. On any but the CPU, several segments are encoded together. With ``cuda:N``,
            that GPU also decodes (see ``DecodePool``), and a Ray started on this machine has only that GPU; a cluster
            assigns its own GPUs.
        others: Other devices of that kind that encode and decode, each with the encoder loaded there. Not on Ray.
        timeout: See ``Engine.index``.
        retry_failed: See ``Engine.index``.
        prune_below: Remove missing files below these folders from the index, with their vectors; None removes nothing.
        shot_sampling: Which frames are decoded to cut segments at shots; None cuts them on a grid.
        moments: Stores the features for a grounding head, from the pass that encodes; None for none. Not on Ray.
        words: Which words to read besides the pictures; None for none.
        tracks: The models by which faces and voices are read, by kind; empty for none.
        started: Decoding processes that are already starting, on the CPU; None starts them. Not on Ray.
        check: Called before the first file is encoded, if any has to be; an exception from it ends the run.
        on_progress: See ``Engine.index``.
    """

    pack: Pack | None
    tokens: bool
    workers: int | None
    decoder: Decoder
    device: str
    others: Sequence[tuple[str, Encoder]]
    timeout: float
    retry_failed: bool
    prune_below: Sequence[str] | None
    shot_sampling: SamplingMode | None
    moments: MomentRecorder | None
    words: WordsOptions | None
    tracks: Mapping[IdentityKind, str]
    started: "ProcessPool | None"
    check: Callable[[], None] | None
    on_progress: Callable[[Progress], None] | None


def record_rule(
    store: Store, *, shots: bool | None, mode: SamplingMode | None, whole: bool, decoder: Decoder
) -> SamplingMode | None:
    """Return which frames a run decodes to follow shots, None for a fixed grid; record the choice in the open index.

    ``shots`` is whether segments follow shots, and ``mode`` which frames are decoded for it; None keeps the index's
    setting. A new index follows shots in the mode ``exact``, unless the encoder sees ``whole`` videos, each as one
    segment. An index without a recorded setting has a grid. Decord and torchcodec decode all frames.

    Raises:
        VidretError: The mode or the decoder is unknown, they cannot be combined, shots are on for whole videos, or the
            index was made with the other rule for segments.
    """
    if mode is not None and mode not in SAMPLING_MODES:
        raise VidretError(f"sampling must be {', '.join(SAMPLING_MODES)}, got {mode}")
    if decoder not in DECODERS:
        raise VidretError(f"decoder must be {', '.join(DECODERS)}, got {decoder}")
    if shots and whole:
        raise VidretError("shots must be off for an encoder of whole videos, got on")
    recorded = store.metadata.get(SEGMENTS) or (FIXED_GRID if store.videos.fingerprints() else None)
    rule = recorded or (FIXED_GRID if whole or shots is False else FOLLOW_SHOTS)
    follow_shots = rule == FOLLOW_SHOTS
    if shots is not None and not whole and shots != follow_shots:
        made, got = ("on", "off") if follow_shots else ("off", "on")
        raise VidretError(f"{store.path}: shots must be {made}, as the index was made, got {got}; use a new index")
    recorded_mode = store.metadata.get(SAMPLING)
    chosen = mode or choose_mode(recorded_mode)
    if chosen != "exact" and not follow_shots:
        raise VidretError(f"{store.path}: sampling must be exact where segments do not follow shots, got {chosen}")
    if chosen != "exact" and decoder in EXACT_DECODERS:
        rule = f"decoder must be auto or pyav with sampling {chosen}"
        raise VidretError(f"{rule}, got {decoder}, which decodes all frames")
    if store.metadata.get(SEGMENTS) is None:
        store.metadata.set(SEGMENTS, rule)
    if chosen != recorded_mode:
        store.metadata.set(SAMPLING, chosen)
    return chosen if follow_shots else None
