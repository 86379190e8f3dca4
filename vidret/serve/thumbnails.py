"""Small pictures of frames: each made once, kept in a folder of limited size, grey where a frame cannot be had."""

import asyncio
import hashlib
import logging
import math
import os
import textwrap
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread
from PIL import Image, ImageDraw, ImageFont

from vidret.errors import DecodeError
from vidret.serve.problems import RefusedError
from vidret.text import sanitize
from vidret.video.files import FileStat, stat_file
from vidret.video.image_pool import ImagePool
from vidret.video.images import encode_jpeg

logger = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
AT_ONCE = 2  # frames decoded at a time, each in a process
LOOKS_AT_ONCE = 8  # files looked at: a store that stays silent must not hold all threads of the server
MOST_WAITING = 256
COSTLY_S = 1.0
RETRY_AFTER_S = 600.0  # before a file that failed at such a cost is tried again, unless it changes
GREY, FAINT = (222, 222, 220), (90, 90, 96)


class Thumbnails:
    """Frames of files as JPEG, decoded in processes of their own: a video may be broken, or mean harm.

    A file that changed has new ones, since its size and time are part of their names.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, pool: ImagePool | None = None) -> None:
        """Keep them in a folder, which is made when the first is.

        Args:
            folder: The folder.
            max_bytes: Its size.
            pool: What decodes; one of ``AT_ONCE`` processes unless given.
        """
        self._kept = Kept(folder, max_bytes)
        self._pool = pool or ImagePool(AT_ONCE)
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._looking = anyio.CapacityLimiter(LOOKS_AT_ONCE)
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._costly: dict[tuple[str, int, int], tuple[float, str]] = {}  # when each failed, and why

    async def get(self, path: str, time: float, width: int, about: FileStat | None = None) -> bytes:
        """Return the frame nearest to a time; whoever asks for one that is being made waits for that.

        Args:
            path: The video's path or address.
            time: In seconds.
            width: In pixels, at most.
            about: What is known of the file; it is looked at unless given.

        Raises:
            DecodeError: Why there is none.
            RefusedError: Too many are waited for already.
        """
        if about is None:
            about = await anyio.to_thread.run_sync(stat_file, path, limiter=self._looking)
        name = "\n".join((path, str(about.st_size), str(about.st_mtime_ns), f"{time:.2f}", str(width)))
        key = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
        content = await anyio.to_thread.run_sync(self._kept.get, key)
        if content is not None:
            return content
        if key not in self._making:
            if len(self._making) >= MOST_WAITING:
                raise RefusedError(503, f"the server is busy: {MOST_WAITING} frames wait already", {"Retry-After": "1"})
            make = anyio.to_thread.run_sync(self._make, key, path, about, time, width, limiter=self._limiter)
            self._making[key] = task = asyncio.ensure_future(make)
            task.add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(self._making[key])  # others may wait for it when this one no longer does

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _forget(self, key: str, task: "asyncio.Task[bytes]") -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits any more who would take it

    def _make(self, key: str, path: str, about: FileStat, time: float, width: int) -> bytes:
        version = (path, about.st_size, about.st_mtime_ns)
        started = monotonic()
        failed, reason = self._costly.get(version, (-math.inf, ""))
        if started - failed < RETRY_AFTER_S:
            raise DecodeError(path, reason)
        try:
            content = self._pool.draw_frame(path, about, time, width)
        except DecodeError as error:
            if monotonic() - started > COSTLY_S:  # its other frames would cost as much, and keep others waiting
                if len(self._costly) >= MOST_WAITING:
                    self._costly.clear()
                self._costly[version] = monotonic(), error.reason
            raise
        self._kept.put(key, content)
        return content


class Kept:
    """Files in a folder; beyond a size those go that were not asked for the longest."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Count what is there from earlier."""
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._num_bytes = sum(about.st_size for _, about in self._list())

    def get(self, key: str) -> bytes | None:
        """Read a file; None where it is not kept."""
        path = self._folder / f"{key}.jpg"
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep a file, whole or not at all; where the disk refuses, say so and go on without."""
        path = self._folder / f"{key}.jpg"
        try:
            self._folder.mkdir(exist_ok=True)
            with self._lock:
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.replace(path)
                self._num_bytes += len(content)
                if self._num_bytes > self._max_bytes:
                    self._shrink()
        except OSError as error:
            logger.warning("thumbnails are not kept: %s", error)

    def _shrink(self) -> None:
        """Drop the oldest until a tenth of the room is free, so that this is seldom."""
        found = sorted(self._list(), key=lambda each: each[1].st_mtime_ns)
        self._num_bytes = sum(about.st_size for _, about in found)
        for path, about in found:
            if self._num_bytes <= 0.9 * self._max_bytes:
                break
            path.unlink(missing_ok=True)
            self._num_bytes -= about.st_size

    def _list(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._folder.glob("*.jpg"):
            with suppress(FileNotFoundError):  # another server of this index has just dropped it
                found.append((path, path.stat()))
        return found


def draw_reason(reason: str, width: int) -> bytes:
    """Make a grey JPEG that says why there is no frame."""
    tile = Image.new("RGB", (width, width * 9 // 16), GREY)
    text = "\n".join(textwrap.wrap(sanitize(reason), max(8, width // 8)))
    ImageDraw.Draw(tile).multiline_text((8, 8), text, FAINT, ImageFont.load_default(13))
    return encode_jpeg(tile)
