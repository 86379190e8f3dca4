"""Cache entries of video files: where an entry is, or why there is none, valid until the file changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vidret.data.cache.shards import ArrayShards
from vidret.data.frames import VideoSpan, read_indices
from vidret.errors import DecodeError
from vidret.types import Frames, Resize
from vidret.video.files import stat_file
from vidret.video.identity import fingerprint
from vidret.video.probe import VideoInfo, probe
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool

ChooseFrames = Callable[[VideoInfo, VideoSpan], Int64[np.ndarray, " frame"]]


@dataclass(frozen=True, slots=True)
class EntryState:
    """The cache's state for a video.

    Attributes:
        key: Key of the video's entry.
        failed: Reason why there is no entry.
        is_new: Whether the file, as it is now, has not been read yet.
    """

    key: str = ""
    failed: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReadResult:
    """The result of reading a span of a file.

    Attributes:
        span: What was read.
        size_bytes: Size of the file; -1 if it does not exist.
        mtime_ns: Modification time of the file.
        failed: Reason why there are no frames.
        fingerprint: Fingerprint of the file's content.
        duration_s: Duration of the whole video.
        frames: The frames; None on failure.
        lost: Description of what could not be decoded.
    """

    span: VideoSpan
    size_bytes: int
    mtime_ns: int
    failed: str = ""
    fingerprint: str = ""
    duration_s: float = 0.0
    frames: Frames | None = None
    lost: str = ""

    @property
    def key(self) -> str:
        """Return a key of the content, which is the same for a copy of the file."""
        return f"video {self.fingerprint} {self.span.start} {self.span.end}"


def read_span(span: VideoSpan, *, choose_frames: ChooseFrames, resize: Resize) -> ReadResult:
    """Read the frames whose indices ``choose_frames`` returns."""
    size_bytes = mtime_ns = -1
    try:
        status = stat_file(span.path)
        size_bytes, mtime_ns = status.st_size, status.st_mtime_ns
        info = probe(span.path)
        frames = read_indices(info, choose_frames(info, span), resize)
        content = fingerprint(span.path)
    except DecodeError as error:
        return ReadResult(span=span, size_bytes=size_bytes, mtime_ns=mtime_ns, failed=error.reason)
    return ReadResult(
        span=span,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        fingerprint=content,
        duration_s=info.unbroken_seconds,
        frames=frames,
        lost=frames.salvaged or info.damage,
    )


@dataclass(frozen=True, slots=True, eq=False)
class SegmentsResult:
    """The result of reading a file as an index does.

    Attributes:
        read: What was read; it has no frames of its own.
        segments: The segments with their frames; empty on failure.
        start_s: Start of the video in seconds.
    """

    read: ReadResult
    segments: Sequence[DecodedSegment] = ()
    start_s: float = 0.0


def read_segments(span: VideoSpan, pool: DecodePool) -> SegmentsResult:
    """Read the segments of a whole file, sampled as the pool is set up."""
    size_bytes = mtime_ns = -1
    segments: list[DecodedSegment] = []
    start_s, lost = 0.0, ""
    try:
        status = stat_file(span.path)
        size_bytes, mtime_ns = status.st_size, status.st_mtime_ns
        for message in pool.stream(span.path):
            match message:
                case OpenedVideo():
                    start_s = message.start
                case DecodedSegment():
                    segments.append(message)
                case Finished():
                    lost = message.salvaged
        if not segments:
            raise DecodeError(span.path, "no frame of it can be read")
        info, content = probe(span.path), fingerprint(span.path)
        lost = lost or info.damage
    except DecodeError as error:
        return SegmentsResult(ReadResult(span=span, size_bytes=size_bytes, mtime_ns=mtime_ns, failed=error.reason))
    read = ReadResult(
        span=span,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        fingerprint=content,
        lost=lost,
        duration_s=info.unbroken_seconds,
    )
    return SegmentsResult(read, segments, start_s)


class KnownFiles:
    """Records of read files, kept among the entries of a cache.

    A record is valid while the size and the modification time of its file stay the same.
    """

    def __init__(self, shards: ArrayShards) -> None:
        """Wrap the cache's shards."""
        self._shards = shards

    def find(self, span: VideoSpan) -> EntryState:
        """Return the state of a span's entry."""
        try:
            status = stat_file(span.path)
        except DecodeError as error:
            return EntryState(failed=error.reason)
        key = _file_key(span)
        facts = self._shards.facts(key) if key in self._shards else {}
        if (facts.get("num_bytes"), facts.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
            return EntryState(failed="is not in the cache: changed since it was read, or never read", is_new=True)
        if not facts["failed"] and facts["key"] not in self._shards:
            return EntryState(failed="is no longer in the cache", is_new=True)
        return EntryState(key=facts["key"], failed=facts["failed"])

    def record(self, result: ReadResult) -> None:
        """Record the result of reading a file, unless the file does not exist."""
        if result.size_bytes >= 0:
            facts = {"num_bytes": result.size_bytes, "mtime_ns": result.mtime_ns, "failed": result.failed}
            key = "" if result.failed else result.key
            self._shards.append(_file_key(result.span), {}, facts | {"key": key})


def _file_key(span: VideoSpan) -> str:
    return f"file {span}"
