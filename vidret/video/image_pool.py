"""Decode single images in processes of their own, so that a hostile file costs its own image only."""

import os
import queue
from contextlib import suppress

import numpy as np

from vidret.errors import DecodeError, VidretError
from vidret.types import Picture
from vidret.video import wire
from vidret.video.files import FileStat
from vidret.video.process import Process, ProcessGoneError

_IMAGES_PER_PROCESS = 500  # native libraries leak a little


class ImagePool:
    """Decoding processes for single images: started when first needed, used again, replaced after a crash.

    Any thread may ask; it waits while all processes are busy.
    """

    def __init__(self, num_workers: int, *, timeout_s: float = 30.0, memory: int = 3 << 29) -> None:
        """Prepare the pool; nothing is started yet.

        Args:
            num_workers: Maximum number of processes.
            timeout_s: Seconds that one image may take.
            memory: Bytes that a process may take, 1.5 GiB unless given: enough for frames of 8K. 0 sets no limit.
        """
        self._timeout_s = timeout_s
        self._processes = [Process(memory) for _ in range(num_workers)]
        self._idle: queue.LifoQueue[Process] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)

    def draw_frame(self, path: str, about: FileStat, time_s: float, width: int) -> bytes:
        """Return a JPEG, at most ``width`` pixels wide, of a video's frame nearest to a time.

        Args:
            path: The video's path or address.
            about: Its size and modification time: as long as they stay, it is probed once.
            time_s: Seconds on a player's clock.
            width: Pixels.

        Raises:
            DecodeError: The file is no readable video, or takes too much time or memory.
        """
        version = (about.st_size, about.st_mtime_ns)
        request = {"image": "frame", "version": version, "time_s": time_s, "width": width}
        try:
            header, payload = self._ask(request, os.fsencode(path))
        except ProcessGoneError as error:
            raise DecodeError(path, str(error)) from error
        if header["kind"] == "failed":
            raise wire.read_error(header, path)
        return bytes(payload)

    def read_image(self, content: bytes) -> Picture:
        """Decode an image file to RGB; see ``vidret.video.images.read_image``.

        Raises:
            VidretError: It is no readable image, or takes too much time or memory.
        """
        try:
            header, payload = self._ask({"image": "file"}, content)
        except ProcessGoneError as error:
            raise VidretError(f"image cannot be decoded: {error}") from error
        if header["kind"] == "failed":
            raise VidretError(header["reason"])
        return np.frombuffer(payload, np.uint8).reshape(header["shape"])

    def pids(self) -> list[int]:
        """Return the ids of the processes that run."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        """End all processes; what is asked fails from now on."""
        for process in self._processes:
            process.retire()
        idle: list[Process] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for process in idle:  # whoever uses one of the others clears it away
            process.end()
            self._idle.put(process)

    def _ask(self, request: wire.Header, payload: bytes) -> tuple[wire.Header, memoryview]:
        process, clean = self._idle.get(), False
        try:
            if process.num_files >= _IMAGES_PER_PROCESS:
                process.end()
            process.ensure()
            process.num_files += 1
            process.send(request, payload)
            answer = process.receive(self._timeout_s)
            clean = True
            return answer
        finally:
            if not clean:
                process.end()
            self._idle.put(process)
