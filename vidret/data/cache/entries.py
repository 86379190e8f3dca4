"""What a cache knows of video files: where the entry of each is, or why it has none, as long as the file stays."""

from collections.abc import Callable
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

Choose = Callable[[VideoInfo, VideoSpan], Int64[np.ndarray, " frame"]]


@dataclass(frozen=True, slots=True)
class EntryState:
    """The key of a video's entry, or why there is none; ``is_new`` where the cache knows nothing of it as it is now."""

    key: str = ""
    failed: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What came of reading a part of a file: its frames, or the reason why there are none.

    ``lost`` says what could not be read; ``num_bytes`` is -1 where there is no file.
    """

    part: VideoSpan
    num_bytes: int
    mtime_ns: int
    failed: str = ""
    fingerprint: str = ""
    duration: float = 0.0
    frames: Frames | None = None
    lost: str = ""

    @property
    def key(self) -> str:
        """Name the content: the same for a copy of the file."""
        return f"video {self.fingerprint} {self.part.start} {self.part.end}"


def read_part(part: VideoSpan, *, choose: Choose, resize: Resize) -> Reading:
    """Read those frames of a part of a file that ``choose`` gives the indices of."""
    num_bytes = mtime_ns = -1
    try:
        about = stat_file(part.path)
        num_bytes, mtime_ns = about.st_size, about.st_mtime_ns
        info = probe(part.path)
        frames = read_indices(info, choose(info, part), resize)
        content = fingerprint(part.path)
    except DecodeError as error:
        return Reading(part, num_bytes, mtime_ns, error.reason)
    lost = frames.salvaged or info.damage
    return Reading(part, num_bytes, mtime_ns, "", content, info.unbroken_seconds, frames, lost)


class KnownFiles:
    """Notes on files among the entries of a cache. They count as long as a file's size and time of change stay."""

    def __init__(self, shards: ArrayShards) -> None:
        """Take the cache."""
        self._shards = shards

    def find(self, part: VideoSpan) -> EntryState:
        """Say where the entry of a part is, or why there is none."""
        try:
            about = stat_file(part.path)
        except DecodeError as error:
            return EntryState(failed=error.reason)
        key = _file_key(part)
        facts = self._shards.facts(key) if key in self._shards else {}
        if (facts.get("num_bytes"), facts.get("mtime_ns")) != (about.st_size, about.st_mtime_ns):
            return EntryState(failed="is not in the cache: it changed since, or was never read", is_new=True)
        if not facts["failed"] and facts["key"] not in self._shards:
            return EntryState(failed="is not in the cache any more", is_new=True)
        return EntryState(key=facts["key"], failed=facts["failed"])

    def note(self, reading: Reading) -> None:
        """Note what came of reading a part; of a file that is not there nothing can be noted."""
        if reading.num_bytes >= 0:
            facts = {"num_bytes": reading.num_bytes, "mtime_ns": reading.mtime_ns, "failed": reading.failed}
            key = "" if reading.failed else reading.key
            self._shards.append(_file_key(reading.part), {}, facts | {"key": key})


def _file_key(part: VideoSpan) -> str:
    return f"file {part}"
