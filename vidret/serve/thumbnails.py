"""Thumbnails of frames, cached in a folder of limited size."""

import asyncio
import hashlib
import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

import anyio
import anyio.to_thread

from vidret.disk import drop_oldest, replacing
from vidret.errors import DecodeError, StoreError
from vidret.serve.problems import make_busy
from vidret.video.files import FileStat, stat_file
from vidret.video.workers.image_pool import ImagePool

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BYTES = 256 << 20
NUM_PROCESSES = 2
MAX_STATS = 8  # concurrent stat calls, so that hanging remote storage does not block all threads of the server
MAX_WAITING = 256
SLOW_S = 1.0  # a failure that takes longer is remembered
RETRY_AFTER_S = 600.0  # time before a file that failed slowly is tried again, unless it changes


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A frame of the current content of a file, at a time in seconds, at most ``width`` pixels wide."""

    path: str
    file_stat: FileStat
    time: float
    width: int

    @property
    def key(self) -> str:
        """The cache key, which differs for other frames and for other contents of the file."""
        version = str(self.file_stat.st_size), str(self.file_stat.st_mtime_ns)
        name = "\n".join((self.path, *version, f"{self.time:.2f}", str(self.width)))
        return hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()


class Thumbnails:
    """JPEG frames of files, decoded in separate processes, since a video may be broken or malicious.

    The cache key includes the size and time of the file, so that a changed file has new thumbnails.
    """

    def __init__(self, folder: Path, *, pool: ImagePool | None = None) -> None:
        """Use a folder as the cache; the first thumbnail creates it."""
        self._cache = ThumbnailCache(folder, MAX_BYTES)
        self._pool = pool or ImagePool(NUM_PROCESSES)
        self._limiter = anyio.CapacityLimiter(NUM_PROCESSES)
        self._stat_limiter = anyio.CapacityLimiter(MAX_STATS)
        self._pending: dict[str, asyncio.Task[bytes]] = {}
        self._slow_failures: dict[tuple[str, int, int], tuple[float, str]] = {}  # time and reason, by file version

    async def ask_disk(self, ask: Callable[..., T], *values: object) -> T:
        """Call a function that may hang with a disk, in one of a few threads that are for nothing else."""
        return await anyio.to_thread.run_sync(ask, *values, limiter=self._stat_limiter)

    async def find(self, path: str, time: float, width: int, file_stat: FileStat | None = None) -> Thumbnail:
        """Return the thumbnail of a file at a time in seconds, at most ``width`` pixels wide, without drawing it."""
        if file_stat is None:
            file_stat = await self.ask_disk(stat_file, path)
        return Thumbnail(path, file_stat, time, width)

    async def get(self, path: str, time: float, width: int, file_stat: FileStat | None = None) -> bytes:
        """Return the JPEG of a frame; see ``find`` and ``draw``."""
        return await self.draw(await self.find(path, time, width, file_stat))

    async def draw(self, thumbnail: Thumbnail) -> bytes:
        """Return the JPEG of a frame. Requests for the same one share one computation.

        Raises:
            DecodeError: The frame cannot be decoded.
            RefusedError: Too many thumbnails are pending.
        """
        key = thumbnail.key
        content = await anyio.to_thread.run_sync(self._cache.get, key)
        if content is not None:
            return content
        if key not in self._pending:
            if len(self._pending) >= MAX_WAITING:
                raise make_busy(f"{MAX_WAITING} frames are pending")
            make = anyio.to_thread.run_sync(self._make, key, thumbnail, limiter=self._limiter)
            self._pending[key] = task = asyncio.ensure_future(make)
            task.add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(self._pending[key])  # other requests may wait for it

    def close(self) -> None:
        """Stop the processes."""
        self._pool.close()

    def _forget(self, key: str, task: "asyncio.Task[bytes]") -> None:
        del self._pending[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved, since all waiting requests may have been cancelled

    def _make(self, key: str, thumbnail: Thumbnail) -> bytes:
        path, file_stat = thumbnail.path, thumbnail.file_stat
        version = (path, file_stat.st_size, file_stat.st_mtime_ns)
        started = monotonic()
        failed, reason = self._slow_failures.get(version, (-math.inf, ""))
        if started - failed < RETRY_AFTER_S:
            raise DecodeError(path, reason)
        try:
            content = self._pool.draw_frame(path, file_stat, thumbnail.time, thumbnail.width)
        except DecodeError as error:
            if monotonic() - started > SLOW_S:  # other frames of this file would take as long
                if len(self._slow_failures) >= MAX_WAITING:
                    self._slow_failures.clear()
                self._slow_failures[version] = monotonic(), error.reason
            raise
        self._cache.put(key, content)
        return content


class ThumbnailCache:
    """JPEG files in a folder of limited size; the least recently used ones are dropped."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._is_failing = False
        self._num_bytes = self._shrink(max_bytes)

    def get(self, key: str) -> bytes | None:
        """Return a file, or None if it is not cached."""
        path = self._folder / f"{key}.jpg"
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Store a file atomically; a failure is logged, once until it works again."""
        path = self._folder / f"{key}.jpg"
        try:
            if not self._folder.parent.exists():  # writing would recreate the folder of a deleted index
                raise StoreError(f"{self._folder.parent}: the index is gone")
            with replacing(path) as draft:
                draft.write_bytes(content)
            with self._lock:
                self._num_bytes += len(content)
                if self._num_bytes > self._max_bytes:
                    self._num_bytes = self._shrink(0.9 * self._max_bytes)  # to 90 %, so that it shrinks rarely
            self._is_failing = False
        except (StoreError, OSError) as error:
            if not self._is_failing:
                logger.warning("thumbnails are not cached: %s", error)
            self._is_failing = True

    def _shrink(self, max_bytes: float) -> int:
        """Drop the least recently used files, and drafts of a killed server; return the remaining number of bytes."""
        return drop_oldest(self._folder, f"{'[0-9a-f]' * 32}.jpg*", max_bytes, lambda status: status.st_size)
