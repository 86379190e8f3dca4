"""A cache of arrays on disk: one file per video or text, named after a hash of its source.

A file appears when it is complete. So an interrupted build can be resumed, and several processes may read and write.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vidret.data.records import VideoSpan
from vidret.disk import locking, replacing
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.video.files import stat_file

logger = logging.getLogger(__name__)

FORMAT = 2
LOG_EVERY = 100  # videos
NOT_READ = "is not in the cache: changed since it was read, or never read"
Facts = Mapping[str, Any]  # as JSON; "failed" is the reason for missing arrays, "lost" what could not be decoded
Entry = tuple[Mapping[str, np.ndarray], Facts]
Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class CachedVideos:
    """Videos in a cache: their keys, the reasons for unreadable ones, and the losses of those read in part."""

    keys: dict[str, str]
    unreadable: dict[str, str]
    salvaged: dict[str, str]


def try_entry(source: Source, *, make: Callable[[Source], Entry]) -> Entry:
    """Return the entry that ``make`` returns, or one with the reason if the video cannot be read."""
    try:
        return make(source)
    except DecodeError as error:
        return {}, {"failed": error.reason}


class CacheEntries:
    """Entries of videos and texts, in a folder that depends on the settings.

    The entry of a video is valid while the size and the modification time of its file stay the same.
    """

    def __init__(self, folder: str | Path, kind: str, settings: Facts) -> None:
        """Open the cache below a folder; it need not exist yet."""
        self.folder = Path(folder) / f"{kind}-{_hash(json.dumps({'format': FORMAT, **settings}, sort_keys=True))}"

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def num_bytes(self, key: str) -> int:
        """Return the size of an entry."""
        return self._path(key).stat().st_size

    def facts(self, key: str) -> Facts:
        """Return the facts of an entry."""
        return self.read(key, with_arrays=False)[1]

    def read(self, key: str, *, with_arrays: bool = True) -> Entry:
        """Return the arrays of an entry, or none of them, and its facts.

        Raises:
            VidretError: The file is missing or damaged.
        """
        path = self._path(key)
        try:
            with safe_open(path, "np") as file:
                names = file.keys() if with_arrays else ()
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["facts"])
        except (OSError, SafetensorError) as error:
            raise VidretError(f"{path}: cannot be read ({error}); delete it, and it is made again") from error

    def write(self, key: str, entry: Entry) -> None:
        """Write an entry.

        Raises:
            VidretError: It cannot be written, for example because the disk is full.
        """
        arrays, facts = entry
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = save(contiguous, {"facts": json.dumps(facts)})
        path = self._path(key)
        with replacing(path, durable=True) as draft:
            draft.write_bytes(content)

    def find(self, span: VideoSpan) -> tuple[str, Facts]:
        """Return the key of a span's entry, and its facts."""
        try:
            status = stat_file(span.path)
        except DecodeError as error:
            return "", {"failed": error.reason}
        key = f"{span.path} {span.start} {span.end} {status.st_size} {status.st_mtime_ns}"
        return key, self.facts(key) if key in self else {"failed": NOT_READ}

    def look_up(self, spans: Mapping[str, VideoSpan]) -> CachedVideos:
        """Look up every video."""
        entries = {video_id: self.find(span) for video_id, span in spans.items()}
        return CachedVideos(
            keys={video_id: key for video_id, (key, facts) in entries.items() if "failed" not in facts},
            unreadable={video_id: facts["failed"] for video_id, (_, facts) in entries.items() if "failed" in facts},
            salvaged={video_id: facts["lost"] for video_id, (_, facts) in entries.items() if facts.get("lost")},
        )

    def build(self, spans: Sequence[VideoSpan], make_all: Callable[[Sequence[VideoSpan]], Iterator[Entry]]) -> None:
        """Add the entries of new and changed videos, which ``make_all`` yields in order.

        Another process that builds the same entries waits, and then finds them. On a file system without locks, as on
        some clusters, both read all videos, and a warning is logged.

        Raises:
            VidretError: The folder cannot be written.
        """
        if not self._find_missing(spans):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VidretError(f"{self.folder}: cannot be written ({error.strerror})") from error
        with ExitStack() as held:
            try:
                held.enter_context(locking(self.folder / "build.lock"))
            except StoreError as error:
                logger.warning("%s; builds of this cache at the same time each read all videos", error)
            keys = self._find_missing(spans)  # without those that another build has made
            logger.info("%s: %d of %d videos to read", self.folder, len(keys), len(spans))
            made = make_all(list(keys)) if keys else ()
            for num_done, (span, entry) in enumerate(zip(keys, made, strict=True), start=1):
                if "failed" not in entry[1] or self.find(span)[0] == keys[span]:  # else it is gone, and may come back
                    self.write(keys[span], entry)
                if num_done % LOG_EVERY == 0:
                    logger.info("%s: read %d of %d videos", self.folder, num_done, len(keys))

    def _find_missing(self, spans: Sequence[VideoSpan]) -> dict[VideoSpan, str]:
        """Return the keys of the missing entries."""
        entries = {span: self.find(span) for span in spans}
        return {span: key for span, (key, facts) in entries.items() if facts.get("failed") == NOT_READ}

    def _path(self, key: str) -> Path:
        return self.folder / f"{_hash(key)}.safetensors"


def _hash(text: str) -> str:
    # Paths that are not UTF-8 have surrogates, and texts from JSON may.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
