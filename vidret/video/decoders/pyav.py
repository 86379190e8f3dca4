"""Exact decoding with PyAV: seek to a keyframe where that is reliable, otherwise decode the file in order."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import av
import numpy as np
from av.video.frame import PictureType
from jaxtyping import Bool, UInt8

from vidret.types import Picture
from vidret.video.container import ONE_THREAD, DamagedPacketError, decode_packets, open_container, read_packets
from vidret.video.decoders.base import SamplingMode, StreamedFrame
from vidret.video.files import open_file
from vidret.video.geometry import orient
from vidret.video.grey import Grey, grey_from_luma
from vidret.video.probe import VideoInfo
from vidret.video.rendering import Renderer

T = TypeVar("T")

# Measured frame by frame. In skippable containers every packet before the keyframe is read but not decoded.
_SEEKABLE = {"mov", "matroska"}
_SKIPPABLE = {"mpegts", "mpeg", "flv", "asf"}
_PREDICTED = {PictureType.P, PictureType.B}
# Largest difference between both ends of a still stretch, in grey levels: on average, and at any pixel.
_MAX_STILL_DIFFERENCE, _MAX_STILL_STEP = 0.5, 16
_MIN_JUMP = 8  # frames; decoding fewer is cheaper than a jump
_MIN_KEYFRAMES = 6  # of a video to decode only its keyframes; fewer do not represent a short clip
_MAX_KEYFRAME_GAP_S = 10.0  # between such keyframes; in longer gaps, more frames are decoded

_PLANAR_8_BIT = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "nv12", "gray"}
_PLANAR_10_BIT = {"yuv420p10le", "yuv422p10le", "yuv444p10le"}
_SMALL = (256, 144)  # pixels; frames of other formats are scaled down to this


class PyavDecoder:
    """A ``FrameDecoder`` for any file that FFmpeg reads."""

    def __init__(
        self, info: VideoInfo, heartbeat: Callable[[], None], *, mode: SamplingMode = "exact", num_threads: int = 1
    ) -> None:
        """Open a probed file; ``heartbeat`` is called for every packet that is read.

        ``stream`` decodes the frames of the mode, or all if frames are known only by their order. Frames do not depend
        on the number of threads, since a damaged file is decoded by one. Raise DecodeError if the file cannot be
        opened.
        """
        self._info, self._heartbeat, self._num_threads = info, heartbeat, num_threads
        self._mode: SamplingMode = "exact" if info.by_order else mode
        self.reads_all = self._mode == "exact"
        kind = info.container.split(",")[0]
        self._can_seek = kind in _SEEKABLE
        self._can_jump = (self._can_seek or kind in _SKIPPABLE) and not info.by_order
        self._keyframes = np.flatnonzero(info.keyframes)
        # Lists, since every packet and frame is looked up, which takes NumPy 30 times as long.
        self._pts: list[int] = info.pts.tolist()
        self._key_pts: list[int] = info.pts[self._keyframes].tolist()
        following_s = np.append(info.times[self._keyframes], info.duration)
        has_enough = len(self._keyframes) >= _MIN_KEYFRAMES
        self._is_gap_short = (np.diff(following_s) <= _MAX_KEYFRAME_GAP_S) & has_enough  # after each keyframe
        self._leaves_still_out = False
        self._apart: PyavDecoder | None = None  # decodes frames that were left out
        self._container: Any = None
        self._file = open_file(info.path)
        try:
            self._restart()
            self._renderer = Renderer(int(self._stream.codec_context.color_trc))
        except BaseException:
            self._file.close()
            raise

    def decode(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield each index with its RGB image, without unreadable frames.

        Raise DecodeError if a range of a remote file cannot be fetched.
        """
        for index in indices:
            is_reached = self._advance_to(index)
            self._file.check()  # a failed fetch looks like the end of the file
            image = self._convert(self._frame) if is_reached else None
            if image is not None:
                yield index, image

    def stream(self, first: int = 0) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end, without unreadable ones and those that the mode leaves out.

        Still frames, see ``VideoInfo.still``, are not decoded if the frames before and after them look alike: all share
        one picture. So do decoded frames of a group of pictures with a still end, while they look like the first one.
        Raise DecodeError if a range of a remote file cannot be fetched.
        """
        self._advance_to(first)
        self._leaves_still_out = self._can_leave_still_out()
        ends_still = self._find_still_groups()
        before: StreamedFrame | None = None
        shared: StreamedFrame | None = None
        while self._frame is not None:
            frame, index = self._frame, self._position
            grey = _read_grey(frame)
            if grey is not None:
                time_s, read_image = float(self._info.times[index]), _ReadOnce(partial(self._convert, frame))
                current = StreamedFrame(index, time_s, grey, read_image, partial(self._convert_luma, frame))
                if shared is not None and ends_still[index] and _look_alike(shared.grey, grey):
                    current = replace(current, read_image=shared.read_image, read_luma=shared.read_luma)
                else:
                    shared = current
                if before is not None:
                    yield from self._stream_still(before, current)
                yield current
                before = current
            self._stream_on(first, index + 1)
        self._file.check()  # a failed fetch looks like the end of the file

    def _stream_on(self, first: int, index: int) -> None:
        """Decode up to ``index`` in a stream that began at ``first``."""
        try:
            self._walk(index)
        except DamagedPacketError:
            leaves_still_out = self._leaves_still_out
            self._use_one_thread()
            self._advance_to(first)
            self._leaves_still_out = leaves_still_out
            self._walk(index)

    def _can_leave_still_out(self) -> bool:
        """Return whether still frames can be left out, and decoded later if they turn out to differ."""
        info = self._info
        is_simple = not (info.damage or info.edit_list) and self._mode != "fast"
        return is_simple and self._can_jump and self._can_seek and bool(info.still.any())

    def _find_still_groups(self) -> Bool[np.ndarray, " frame"]:
        """Return which frames belong to groups of pictures with a still end; none if still frames are decoded."""
        if not self._leaves_still_out:
            return np.zeros_like(self._info.still)
        groups = np.cumsum(self._info.keyframes)
        return np.isin(groups, groups[self._info.still])

    def _stream_still(self, before: StreamedFrame, after: StreamedFrame) -> Iterator[StreamedFrame]:
        """Yield the still frames between two decoded frames; decode them if these two differ."""
        if not self._leaves_still_out or after.index == before.index + 1:
            return
        between = np.arange(before.index + 1, after.index)
        still = between[self._info.still[between]]
        if len(still) == 0:
            return
        if _look_alike(before.grey, after.grey):
            for index in still:
                yield StreamedFrame(
                    int(index), float(self._info.times[index]), before.grey, before.read_image, before.read_luma
                )
            return
        if self._apart is None:
            every_frame = replace(self._info, still=np.zeros_like(self._info.still))
            self._apart = PyavDecoder(every_frame, self._heartbeat, mode=self._mode)
        for frame in self._apart.stream(before.index):  # only those that the mode decodes
            if frame.index >= after.index:
                break
            if frame.index > before.index:
                yield frame

    def close(self) -> None:
        """Close the file."""
        if self._apart is not None:
            self._apart.close()
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
        context = self._stream.codec_context
        context.thread_count = self._num_threads
        options = {}
        if self._num_threads > 1:
            context.thread_type = "FRAME"
            options["err_detect"] = "explode"
            # A thread that logs to Python waits for the interpreter, which waits for that thread when it closes the
            # decoder. PyAV logs nothing by default, but torchvision before 0.26 lets it.
            av.logging.set_level(None)
        if self._mode != "exact":
            options["skip_loop_filter"] = "all"
            context.skip_frame = "NONREF"
        context.options = options
        self._read_from_here()

    def _read_from_here(self) -> None:
        """Read packets from the container's position: its beginning, or the target of a seek."""
        self._packets: Any = read_packets(self._container, self._stream, self._heartbeat, self._info.clock_offsets)
        self._decode_from(self._packets)

    def _decode_from(self, packets: Iterable[Any]) -> None:
        skip_damaged = self._num_threads == 1
        self._frames: Any = decode_packets(self._stream, self._observe(packets), skip_damaged=skip_damaged)
        self._position = -1
        self._frame: Any = None
        self._last_keyframe_pts: int | None = None
        self._last_sent = self._info.num_frames - 1 if self._info.by_order else -1  # last frame whose packet was sent

    def _observe(self, packets: Iterable[Any]) -> Iterator[Any]:
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                self._last_keyframe_pts = packet.pts
            if packet.is_keyframe or not self._leaves_out(packet.pts):
                self._last_sent = max(self._last_sent, self._find_index(packet.pts))
                yield packet

    def _leaves_out(self, pts: int | None) -> bool:
        """Return whether a packet is not decoded: it is still, or in a short gap between keyframes in mode ``fast``."""
        if self._leaves_still_out:
            index = self._find_index(pts)
            return index >= 0 and bool(self._info.still[index])
        if self._mode != "fast" or pts is None:
            return False
        following = bisect_left(self._key_pts, pts)
        return following > 0 and bool(self._is_gap_short[following - 1])

    def _advance_to(self, index: int) -> bool:
        """Make ``index`` the current frame, and return whether that succeeded."""
        try:
            return self._jump_or_walk(index)
        except DamagedPacketError:
            self._use_one_thread()
            return self._jump_or_walk(index)

    def _use_one_thread(self) -> None:
        """Read the file again from its beginning, since several threads decode damage differently each time."""
        self._num_threads = 1
        self._restart()

    def _jump_or_walk(self, index: int) -> bool:
        is_behind = index < self._position or self._leaves_still_out  # frames left out cannot be reached by decoding on
        self._leaves_still_out = False
        if is_behind and not (self._can_jump and self._can_seek):
            self._restart()
        before = self._keyframes[self._keyframes <= index]
        keyframe = int(before[-1]) if len(before) else 0
        if self._can_jump and (is_behind or self._is_far_ahead(keyframe)):
            has_jumped = self._seek(keyframe) if self._can_seek else self._skip(keyframe)
            if has_jumped and self._starts_at(keyframe) and self._walk(index) and not self._frame.is_corrupt:
                return True
            self._can_jump = False
            self._restart()
        return self._walk(index)

    def _is_far_ahead(self, keyframe: int) -> bool:
        """Return whether a jump to a keyframe pays: it is far ahead, and its packet was not yet sent to the decoder."""
        is_sent = self._last_keyframe_pts is not None and self._last_keyframe_pts >= self._info.pts[keyframe]
        return keyframe > self._position + _MIN_JUMP and not is_sent

    def _seek(self, keyframe: int) -> bool:
        """Seek to a keyframe, and return whether the next frame is that one or an earlier one."""
        start = self._position
        try:
            self._container.seek(int(self._info.pts[keyframe]), stream=self._stream)
        except (av.FFmpegError, OSError, ValueError):
            return False
        self._read_from_here()
        self._walk(0)
        # In a file without an index every seek leads to its beginning: do not seek again.
        self._can_jump = self._position > start or start > keyframe
        return self._position <= keyframe

    def _skip(self, keyframe: int) -> bool:
        """Read up to a keyframe without decoding, and return whether it was found."""
        for packet in self._packets:
            if packet.is_keyframe and packet.pts == self._info.pts[keyframe]:
                self._stream.codec_context.flush_buffers()
                self._decode_from(chain([packet], self._packets))
                return True
        return False

    def _starts_at(self, keyframe: int) -> bool:
        """Return whether a keyframe is decoded as a complete image; after a gradual refresh, frames are inexact."""
        return self._walk(keyframe) and self._frame.pict_type not in _PREDICTED

    def _walk(self, index: int) -> bool:
        """Decode up to ``index``, and return whether that frame was decoded."""
        while self._position < index:
            frame = next(self._frames, None)
            if frame is None and self._num_threads > 1 and self._lacks_last_frames():
                raise DamagedPacketError  # several threads do not report damage at the end of the file
            if frame is None:
                self._position, self._frame = self._info.num_frames, None
                return False
            position = self._position + 1 if self._info.by_order else self._find_index(frame.pts)
            if position > self._position:
                self._position, self._frame = position, frame
        return self._position == index and self._frame is not None

    def _lacks_last_frames(self) -> bool:
        """Return whether the decoder received frames after the current one, of which a single thread returns any."""
        if self._position >= self._last_sent or self._mode == "exact":
            return self._position < self._last_sent
        with closing(PyavDecoder(self._info, self._heartbeat, mode=self._mode)) as alone:
            return any(frame.index > self._position for frame in alone.stream(max(0, self._position)))

    def _find_index(self, pts: int | None) -> int:
        """Return the index of the frame with a timestamp, -1 for a frame that is not shown."""
        index = bisect_left(self._pts, pts) if pts is not None else len(self._pts)
        return index if index < len(self._pts) and self._pts[index] == pts else -1

    def _convert_luma(self, frame: Any) -> UInt8[np.ndarray, "height width"] | None:
        """Return the luma of a frame as displayed, except for the aspect ratio; None if it is too damaged."""
        luma = _read_damaged(partial(frame.to_ndarray, format="gray", **ONE_THREAD))
        return None if luma is None else orient(luma, self._info.rotation, mirrored=self._info.mirrored)

    def _convert(self, frame: Any) -> Picture | None:
        """Return the RGB image of a frame as displayed; None if it is too damaged to convert."""
        info = self._info
        width, height = (info.width, info.height)[:: -1 if info.rotation % 180 else 1]
        image = _read_damaged(partial(self._renderer.render, frame, width, height))
        return None if image is None else orient(image, info.rotation, mirrored=info.mirrored)


def _read_grey(frame: Any) -> Grey | None:
    """Return a small grey picture of a frame, None if it is too damaged to convert."""
    return _read_damaged(lambda: grey_from_luma(read_luma(frame)))


def _read_damaged(read: Callable[[], T]) -> T | None:
    """Return the result of ``read`` on a frame; None if the frame is too damaged."""
    try:
        return read()
    except (MemoryError, BlockingIOError):  # the latter if there was no memory to start a thread
        raise
    except (av.FFmpegError, OSError, ValueError):
        return None


class _ReadOnce:
    """An image that is converted when it is first read, and kept."""

    def __init__(self, read: Callable[[], Picture | None]) -> None:
        self._read: Callable[[], Picture | None] | None = read
        self._image: Picture | None = None

    def __call__(self) -> Picture | None:
        if self._read is not None:
            self._image, self._read = self._read(), None
        return self._image


def _look_alike(one: Grey, other: Grey) -> bool:
    """Return whether two grey pictures hardly differ, on average and at every pixel."""
    difference = np.abs(one.astype(np.int16) - other)
    return float(difference.mean()) <= _MAX_STILL_DIFFERENCE and int(difference.max()) <= _MAX_STILL_STEP


def read_luma(frame: Any) -> UInt8[np.ndarray, "height width"]:
    """Return the luma of a PyAV frame, of any size, as a view that is valid while the frame is.

    Raise av.FFmpegError, OSError or ValueError if the frame is too damaged.
    """
    name = frame.format.name
    if name in _PLANAR_8_BIT:
        return _view_plane(frame, np.uint8)
    if name in _PLANAR_10_BIT:
        return (_view_plane(frame, np.uint16)[::2, ::2] >> 2).astype(np.uint8)
    width, height = _SMALL
    return _view_plane(frame.reformat(width=width, height=height, format="gray"), np.uint8)


def _view_plane(frame: Any, dtype: type[np.uint8 | np.uint16]) -> np.ndarray:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[: frame.height, : frame.width]
