"""Small pictures of frames: each made once, kept in a folder of limited size, grey where a frame cannot be had."""

import asyncio
import hashlib
import io
import logging
import os
import textwrap
import threading
from functools import lru_cache
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidret.errors import DecodeError
from vidret.text import is_address, printable
from vidret.video.content import Look, look_at
from vidret.video.decode import open_reader
from vidret.video.probe import VideoInfo, probe
from vidret.video.sampling import nearest

logger = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
AT_ONCE = 2  # frames decoded at a time
QUALITY = 82
GREY, FAINT = (222, 222, 220), (90, 90, 96)


class Thumbnails:
    """Frames of files as JPEG. A file that changed has new ones, since its size and time are part of their names."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Keep them in a folder, which is made when the first is."""
        self._kept = Kept(folder, max_bytes)
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._making: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, path: str, time: float, width: int) -> bytes:
        """Give the frame nearest to a time; whoever asks for one that is being made waits for that.

        Raises:
            DecodeError: Why there is none.
        """
        try:
            about = await anyio.to_thread.run_sync(look_at, path) if is_address(path) else os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise DecodeError(path, "its file is gone") from error
        name = "\n".join((path, str(about.st_size), str(about.st_mtime_ns), f"{time:.2f}", str(width)))
        key = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
        if key not in self._making:
            make = anyio.to_thread.run_sync(self._make, key, path, about, time, width, limiter=self._limiter)
            self._making[key] = task = asyncio.ensure_future(make)
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(self._making[key])  # others may wait for it when this one no longer does

    def _make(self, key: str, path: str, about: Look, time: float, width: int) -> bytes:
        content = self._kept.get(key)
        if content is None:
            content = draw_frame(_probe(path, about.st_size, about.st_mtime_ns), time, width)
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
        return [(path, path.stat()) for path in self._folder.glob("*.jpg")]


@lru_cache(maxsize=32)
def _probe(path: str, _num_bytes: int, _mtime_ns: int) -> VideoInfo:
    """Read what a file is, which means all its packets: once for all thumbnails of a film."""
    return probe(path)


def draw_frame(info: VideoInfo, time: float, width: int) -> bytes:
    """Make a JPEG of the frame nearest to a time, no wider than ``width``.

    Raises:
        DecodeError: It cannot be read.
    """
    with open_reader(info) as reader:
        frames = reader.read(nearest(info.times, np.array([time])))
    if not len(frames):
        raise DecodeError(info.path, "no frame could be decoded")
    picture = Image.fromarray(np.asarray(frames.pixels[0]))
    picture.thumbnail((width, picture.height))
    return _encode(picture)


def draw_reason(reason: str, width: int) -> bytes:
    """Make a grey JPEG that says why there is no frame."""
    tile = Image.new("RGB", (width, width * 9 // 16), GREY)
    text = "\n".join(textwrap.wrap(printable(reason), max(8, width // 8)))
    ImageDraw.Draw(tile).multiline_text((8, 8), text, FAINT, ImageFont.load_default(13))
    return _encode(tile)


def _encode(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
