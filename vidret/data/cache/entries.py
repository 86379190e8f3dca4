"""Cache entries of video files: where an entry is, or why there is none, valid until the file changes."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from vidret.data.cache.shards import ArrayShards, Facts, name_folder
from vidret.data.frames import VideoSpan
from vidret.errors import DecodeError
from vidret.video.files import stat_file
from vidret.video.identity import fingerprint

logger = logging.getLogger(__name__)

LOG_EVERY = 100  # videos
NOT_READ, LOST = "is not in the cache: changed since it was read, or never read", "is no longer in the cache"
Content = TypeVar("Content")
Entry = tuple[Mapping[str, np.ndarray], Facts]  # arrays, and facts, of which "lost" says what could not be decoded


@dataclass(frozen=True, slots=True)
class CachedVideos:
    """Videos in a cache: the key of each, why the others cannot be read, and what is lost of those read in part."""

    keys: dict[str, str]
    unreadable: dict[str, str]
    salvaged: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class ReadResult(Generic[Content]):
    """The result of reading a span of a file.

    Attributes:
        span: What was read.
        size_bytes: Size of the file; -1 if it does not exist.
        mtime_ns: Modification time of the file.
        failed: Reason why there is no content.
        key: Key of the content, which is the same for a copy of the file.
        content: What was read; None on failure.
    """

    span: VideoSpan
    size_bytes: int
    mtime_ns: int
    failed: str = ""
    key: str = ""
    content: Content | None = None


def read_file(span: VideoSpan, *, read: Callable[[VideoSpan], Content]) -> ReadResult[Content]:
    """Return what a function reads of a span, or the reason why it cannot be read."""
    size_bytes = mtime_ns = -1
    try:
        status = stat_file(span.path)
        size_bytes, mtime_ns = status.st_size, status.st_mtime_ns
        content = read(span)
        key = f"video {fingerprint(span.path)} {span.start} {span.end}"
    except DecodeError as error:
        return ReadResult(span, size_bytes, mtime_ns, failed=error.reason)
    return ReadResult(span, size_bytes, mtime_ns, key=key, content=content)


class VideoEntries:
    """Entries of videos, and records of the files that were read, in a folder that depends on the settings.

    A record is valid while the size and the modification time of its file stay the same. An interrupted build can be
    resumed.
    """

    def __init__(self, folder: str | Path, kind: str, settings: Facts) -> None:
        """Open the cache below a folder; it need not exist yet."""
        self._settings = settings
        self.shards = ArrayShards(Path(folder) / name_folder(kind, settings))

    def find(self, span: VideoSpan) -> tuple[str, str]:
        """Return the key of a span's entry, and the reason why there is none."""
        try:
            status = stat_file(span.path)
        except DecodeError as error:
            return "", error.reason
        key = f"file {span}"
        facts = self.shards.facts(key) if key in self.shards else {}
        if (facts.get("num_bytes"), facts.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
            return "", NOT_READ
        if not facts["failed"] and facts["key"] not in self.shards:
            return "", LOST
        return facts["key"], facts["failed"]

    def look_up(self, spans: Mapping[str, VideoSpan]) -> CachedVideos:
        """Look up every video."""
        found = {video_id: self.find(span) for video_id, span in spans.items()}
        keys = {video_id: key for video_id, (key, failed) in found.items() if not failed}
        lost = {video_id: self.shards.facts(key)["lost"] for video_id, key in keys.items()}
        return CachedVideos(
            keys=keys,
            unreadable={video_id: failed for video_id, (_, failed) in found.items() if failed},
            salvaged={video_id: loss for video_id, loss in lost.items() if loss},
        )

    def _find_new(self, spans: Sequence[VideoSpan]) -> list[VideoSpan]:
        """Return the spans whose files, as they are now, have not been read yet."""
        return [span for span in spans if self.find(span)[1] in (NOT_READ, LOST)]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the cache for appending; see ``ArrayShards.writing``."""
        with self.shards.writing():
            if "about" not in self.shards:
                self.shards.append("about", {}, self._settings)
            yield

    def build(
        self,
        spans: Sequence[VideoSpan],
        read: Callable[[Sequence[VideoSpan]], Iterator[ReadResult[Content]]],
        make_entry: Callable[[Content], Entry],
    ) -> None:
        """Read the videos that are new or have changed, in order, and add their entries. Failures are recorded.

        Of content that is there already, no entry is made.

        Raises:
            VidretError: The folder cannot be written.
        """
        if not self._find_new(spans):
            return
        with self.writing():
            new_spans = self._find_new(spans)
            logger.info("%s: %d of %d videos to read", self.shards.folder, len(new_spans), len(spans))
            for num_done, result in enumerate(read(new_spans), start=1):
                if result.content is not None and result.key not in self.shards:
                    self.shards.append(result.key, *make_entry(result.content))
                if result.size_bytes >= 0:
                    facts = {"num_bytes": result.size_bytes, "mtime_ns": result.mtime_ns, "failed": result.failed}
                    self.shards.append(f"file {result.span}", {}, facts | {"key": result.key})
                if num_done % LOG_EVERY == 0:
                    logger.info("%s: read %d of %d videos", self.shards.folder, num_done, len(new_spans))
