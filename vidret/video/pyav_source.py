"""Decode with PyAV, exactly: jump to keyframes while that leads to the frames asked for, else walk through the file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from vidret.video.container import decode_packets, open_container, read_packets
from vidret.video.display import orient
from vidret.video.files import open_file
from vidret.video.probe import VideoInfo
from vidret.video.pyav import ONE_THREAD
from vidret.video.reader import Picture

# Measured frame by frame. In the latter every packet up to the keyframe is read, and none is decoded.
_SEEKABLE = {"mov", "matroska"}
_SKIPPABLE = {"mpegts", "mpeg", "flv", "asf"}
_PREDICTED = {PictureType.P, PictureType.B}
# Decoding a few frames more is cheaper than a jump.
_WORTH_A_JUMP = 8


class PyavSource:
    """Frames of one open file, by index."""

    def __init__(self, info: VideoInfo, heartbeat: Callable[[], None]) -> None:
        """Open the file; ``heartbeat`` is called for every packet that is read."""
        self._info, self._alive = info, heartbeat
        kind = info.container.split(",")[0]
        self._can_seek = kind in _SEEKABLE
        self._can_jump = (self._can_seek or kind in _SKIPPABLE) and not info.by_order
        self._keys = np.flatnonzero(info.keyframes)
        self._container: Any = None
        self._file = open_file(info.path)
        try:
            self._restart()
        except BaseException:
            self._file.close()
            raise

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Return each index with its picture, as far as they can be read."""
        for index in indices:
            is_there = self._reach(index)
            self._file.check()  # what could not be fetched must not pass for the end of the file
            picture = self._convert(self._frame) if is_there else None
            if picture is not None:
                yield index, picture

    def close(self) -> None:
        """Close the file."""
        self._close_container()
        self._file.close()

    def _close_container(self) -> None:
        if self._container is not None:
            self._frames.close()
            self._packets.close()
            self._container.close()
            self._container = None

    def _restart(self) -> None:
        self._close_container()
        self._container = open_container(self._info.path, self._file)
        self._stream = self._container.streams[self._info.stream]
        self._stream.codec_context.thread_count = 1
        self._read_on()

    def _read_on(self) -> None:
        """Read packets from where the container stands: its beginning, or where a seek led."""
        self._packets: Any = read_packets(self._container, self._stream, self._info.clock_offsets)
        self._decode(self._packets)

    def _decode(self, packets: Iterable[Any]) -> None:
        self._frames: Any = decode_packets(self._stream, self._observe(packets))
        self._position = -1
        self._frame: Any = None
        self._last_key: int | None = None

    def _observe(self, packets: Iterable[Any]) -> Iterator[Any]:
        for packet in packets:
            self._alive()
            if packet.is_keyframe and packet.pts is not None:
                self._last_key = packet.pts
            yield packet

    def _reach(self, index: int) -> bool:
        """Make ``index`` the current frame; return whether it is there."""
        if index < self._position and not (self._can_jump and self._can_seek):
            self._restart()
        before = self._keys[self._keys <= index]
        key = int(before[-1]) if len(before) else 0
        if self._can_jump and (index < self._position or self._is_ahead(key)):
            if self._jump(key) and self._begins(key) and self._walk(index) and not self._frame.is_corrupt:
                return True
            self._can_jump = False
            self._restart()
        return self._walk(index)

    def _is_ahead(self, key: int) -> bool:
        """Return whether a keyframe is far ahead, and the decoder, which runs before the frames, has not had it yet."""
        is_fed = self._last_key is not None and self._last_key >= self._info.pts[key]
        return key > self._position + _WORTH_A_JUMP and not is_fed

    def _jump(self, key: int) -> bool:
        return self._seek(key) if self._can_seek else self._skip(key)

    def _seek(self, key: int) -> bool:
        """Seek to a keyframe; return whether that led to it or before it."""
        start = self._position
        try:
            self._container.seek(int(self._info.pts[key]), stream=self._stream)
        except (av.FFmpegError, OSError, ValueError):
            return False
        self._read_on()
        self._walk(0)
        # A file without an index sends every jump to its beginning: from there on, walk.
        self._can_jump = self._position > start or start > key
        return self._position <= key

    def _skip(self, key: int) -> bool:
        """Read up to a keyframe without decoding; return whether it is there."""
        for packet in self._packets:
            self._alive()
            if packet.is_keyframe and packet.pts == self._info.pts[key]:
                self._stream.codec_context.flush_buffers()
                self._decode(chain([packet], self._packets))
                return True
        return False

    def _begins(self, key: int) -> bool:
        """Return whether a keyframe is a whole picture: where a stream refreshes bit by bit, frames are inexact."""
        return self._walk(key) and self._frame.pict_type not in _PREDICTED

    def _walk(self, index: int) -> bool:
        while self._position < index:
            frame = next(self._frames, None)
            if frame is None:
                self._position, self._frame = self._info.num_frames, None
                return False
            position = self._position + 1 if self._info.by_order else self._place(frame.pts)
            if position > self._position:
                self._position, self._frame = position, frame
        return self._position == index and self._frame is not None

    def _place(self, pts: int | None) -> int:
        """Find a frame by its timestamp; -1 for one that is not shown."""
        place = int(np.searchsorted(self._info.pts, pts)) if pts is not None else len(self._info.pts)
        return place if place < len(self._info.pts) and self._info.pts[place] == pts else -1

    def _convert(self, frame: Any) -> Picture | None:
        """Return the picture that a frame shows; None for a damaged one that is none."""
        info = self._info
        width, height = (info.width, info.height)[:: -1 if info.rotation % 180 else 1]
        try:
            picture = frame.to_ndarray(format="rgb24", width=width, height=height, **ONE_THREAD)
        except (MemoryError, BlockingIOError):  # the latter where no thread could be started for want of it
            raise
        except (av.FFmpegError, OSError, ValueError):
            return None
        return orient(picture, info.rotation, mirrored=info.mirrored)
