"""A pool of processes that decode single images and parts of videos, so that a hostile file fails alone."""

import os
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vidret.errors import DecodeError, VidretError
from vidret.types import Frames, Picture, Resize
from vidret.video.files import FileStat
from vidret.video.grey import GREY_SHAPE
from vidret.video.workers import messages
from vidret.video.workers.messages import GreyStretch
from vidret.video.workers.process import Process, ProcessGoneError, ProcessPool

_IMAGES_PER_PROCESS = 500


class ImagePool:
    """Decoding processes for single images: started on demand, reused, and replaced after a crash.

    Any thread may use the pool; it waits while all processes are busy. After ``close``, requests fail.
    """

    def __init__(self, num_workers: int, *, timeout_s: float = 30.0, memory: int = 3 << 29) -> None:
        """Create a pool of at most ``num_workers`` processes without starting any.

        An answer may take ``timeout_s`` seconds, a process ``memory`` bytes, 0 for no limit; 1.5 GiB suffice for 8K.
        """
        self._timeout_s = timeout_s
        processes = [Process(memory) for _ in range(num_workers)]
        self.processes = ProcessPool(processes, max_requests=_IMAGES_PER_PROCESS)
        self.close = weakref.finalize(self, self.processes.close)

    def draw_frame(self, path: str, file_stat: FileStat, time_s: float, width: int) -> bytes:
        """Return a JPEG, at most ``width`` pixels wide, of the frame of a video nearest to a time in seconds.

        The video is probed only once while its ``file_stat`` is unchanged. Raise DecodeError if the file is not a
        readable video, or exceeds the time or memory limit.
        """
        request = {"image": "frame", "time_s": time_s, "width": width}
        return bytes(self._request_of_video(request, path, file_stat)[1])

    def read_frames(self, path: str, file_stat: FileStat, times_s: Sequence[float], resize: Resize) -> Frames:
        """Return the frames of a video nearest to some times in seconds, each once; see ``draw_frame``.

        Raise DecodeError if no frame can be read, or the process exceeds the time or memory limit.
        """
        request = {"image": "frames", "times_s": list(times_s), "resize": asdict(resize)}
        return messages.unpack_frames(*self._request_of_video(request, path, file_stat))

    def read_greys(self, path: str, file_stat: FileStat, start_s: float, end_s: float, rate: float) -> GreyStretch:
        """Return grey pictures of part of a video; see ``vidret.video.images.read_greys``.

        Raise DecodeError as for ``draw_frame``.
        """
        request = {"image": "greys", "start_s": start_s, "end_s": end_s, "rate": rate}
        header, payload = self._request_of_video(request, path, file_stat)
        times = np.array(header["times"], np.float64)
        greys = np.frombuffer(payload, np.uint8).reshape(len(times), *GREY_SHAPE)
        width, height = header["size"]
        return GreyStretch(greys, times, (width, height))

    def read_facts(self, path: str, file_stat: FileStat) -> dict[str, Any]:
        """Return the facts about a video; see ``VideoInfo.facts``. Raise DecodeError as for ``draw_frame``."""
        facts: dict[str, Any] = self._request_of_video({"image": "facts"}, path, file_stat)[0]["facts"]
        return facts

    def read_image(self, content: bytes) -> Picture:
        """Decode an image file to RGB; see ``vidret.video.images.read_image``.

        Raise VidretError if the content is not a readable image, or exceeds the time or memory limit.
        """
        try:
            header, payload = self._request({"image": "file"}, content)
        except ProcessGoneError as error:
            raise VidretError(f"image cannot be decoded: {error}") from error
        if header["kind"] == "failed":
            raise VidretError(header["reason"])
        return np.frombuffer(payload, np.uint8).reshape(header["shape"])

    def _request_of_video(
        self, request: messages.Header, path: str, file_stat: FileStat
    ) -> tuple[messages.Header, memoryview]:
        version = (file_stat.st_size, file_stat.st_mtime_ns)
        try:
            header, payload = self._request(request | {"version": version}, os.fsencode(path))
        except ProcessGoneError as error:
            raise DecodeError(path, str(error)) from error
        if header["kind"] == "failed":
            raise messages.read_error(header, path)
        return header, payload

    def _request(self, request: messages.Header, payload: bytes) -> tuple[messages.Header, memoryview]:
        with self.processes.take() as process:
            process.send(request, payload)
            answer = process.receive(self._timeout_s)
            process.is_clean = True
            return answer
