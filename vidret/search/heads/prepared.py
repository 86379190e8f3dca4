"""Files with the features that a grounding head needs of each video, computed in a separate pass over the video.

Files are either kept, or in a cache from which the least recently used are dropped.
"""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from vidret.disk import DRAFT, drop_oldest
from vidret.errors import DecodeError, StoreError
from vidret.search.heads.base import GroundedVideo
from vidret.store.records import KEPT, PROJECTED
from vidret.text import strip_query
from vidret.video.identity import Identity, check_unchanged
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 2 << 30  # bytes of cached files; files that were requested at indexing are never dropped
CHANGED = "has changed since it was indexed"
ABANDONED = 3600.0  # seconds without a write, after which a partial file counts as left over from a killed run
CACHE, PIECES = "cache", "pieces"
_CONTENT = re.compile(r"\w[\w.-]*")


class PreparedFiles:
    """The files of one head, each named by the content of a video, so that a moved video is found again."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """Set the folder, which need not exist yet, and the maximum number of bytes of cached files."""
        self._folder, self._limit = folder, limit

    def locate(self, content: str, *, keep: bool) -> Path:
        """Return the file of a content, whether it exists or not.

        Raises:
            StoreError: The content, as the catalog has it, is not valid as a file name.
        """
        self._check(content)
        return self._folder / (KEPT if keep else CACHE) / f"{content}{PROJECTED}"

    def locate_pieces(self, name: str) -> Path:
        """Return the folder of the pieces of an incomplete file."""
        self._check(name)
        return self._folder / PIECES / name

    def _check(self, content: str) -> None:
        if not _CONTENT.fullmatch(content):
            raise StoreError(f"{self._folder}: content must be a fingerprint, got {content!r}")

    def is_kept(self, content: str) -> bool:
        """Return whether a content has a file that is never dropped."""
        return self.locate(content, keep=True).exists()

    def get(self, content: str, make: Callable[[Path], None], *, keep: bool) -> Path:
        """Return the file of a content, never dropped with ``keep``; ``make`` writes it if it does not exist."""
        kept, cached = (self.locate(content, keep=is_kept) for is_kept in (True, False))
        target = kept if keep else cached
        if keep and cached.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has just dropped it
                kept.parent.mkdir(parents=True, exist_ok=True)
                cached.replace(kept)
        for existing in (kept, target):
            if existing.exists():
                with contextlib.suppress(OSError):  # the index may be read-only
                    os.utime(existing)
                return existing
        make(target)
        if not keep:
            drop_oldest(target.parent, f"*{PROJECTED}", self._limit, lambda status: status.st_size)
        return target


@runtime_checkable
class PreparedHead(Protocol):
    """A head that needs features of each video that an index does not store: they are computed once, into a file."""

    files: PreparedFiles

    def prepare(self, video: GroundedVideo, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Return the file of a video, computed in a separate pass over the video if it does not exist.

        Raises:
            DecodeError: The video cannot be read, or its content has changed.
            VidretError: The folder cannot be written, or the head does not match the encoder.
        """
        ...


def read_prepared(head: PreparedHead, video: GroundedVideo, read: Callable[[Path], T]) -> T:
    """Return the result of ``read`` for a video's file, which is computed again if it is damaged."""
    path = head.prepare(video)
    try:
        return read(path)
    except StoreError as error:  # damaged, or dropped by another process
        logger.warning("%s; computed again", error)
        with contextlib.suppress(OSError):  # the index may be read-only
            path.unlink()
        return read(head.prepare(video, keep=path.parent.name == KEPT))


def forget_others(folder: Path, contents: Container[str]) -> None:
    """Delete the files of all heads for other contents than these, and leftovers of killed runs."""

    def is_abandoned(path: Path) -> bool:
        return path.suffix == DRAFT and path.stat().st_mtime < time.time() - ABANDONED

    for path in folder.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.parent.name == PIECES:
                if is_abandoned(path) or (path.suffix != DRAFT and path.name not in contents):
                    shutil.rmtree(path, ignore_errors=True)
            elif (path.suffix == PROJECTED and path.stem not in contents) or is_abandoned(path):
                path.unlink()


def decode_segments(path: str, content: str, **how: Any) -> Iterator[OpenedVideo | DecodedSegment]:
    """Yield the opened video, then its decoded segments; ``how`` are arguments of ``DecodePool``.

    Raises:
        DecodeError: The video cannot be read, or its content has changed.
    """
    identity, num_segments = check_unchanged(path, Identity(content), CHANGED), 0
    with DecodePool(1, **how) as pool:
        for message in pool.stream(path):
            match message:
                case OpenedVideo():
                    yield message
                case DecodedSegment():
                    num_segments += 1
                    yield message
                case Finished():
                    check_unchanged(path, identity, CHANGED)
                    if message.salvaged:
                        logger.warning("%s: %s", strip_query(path), message.salvaged)
    if not num_segments:
        raise DecodeError(path, "no frame of it can be read")
