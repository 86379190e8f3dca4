"""Read chosen frames, exactly: by Decord on the kinds of file it was measured exact on, else by PyAV.

The only place that knows how Decord and PyAV decode. Both the PyPI ``decord2`` and the classic ``decord`` serve.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import Float64, Int64

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import is_address
from vidret.types import Frames, Resize
from vidret.video.content import open_file
from vidret.video.display import orient
from vidret.video.probe import VideoInfo, decode_all, open_container, probe
from vidret.video.pyav import ONE_THREAD
from vidret.video.reader import GaveUpError, Picture, Reader
from vidret.video.sampling import nearest

Decoder = Literal["auto", "decord", "pyav"]

_log = logging.getLogger(__name__)

# Measured frame by frame, rising and shuffled, with decord 0.6.0 and decord2 3.4.0.
_EXACT_WITH_DECORD = {
    ("mov", "h264"),
    ("mov", "av1"),
    ("mov", "prores"),
    ("mov", "mjpeg"),
    ("matroska", "h264"),
    ("matroska", "vp8"),
    ("matroska", "vp9"),
    ("matroska", "av1"),
    ("matroska", "ffv1"),
}
# Of these, in even sizes, Decord and PyAV make the same RGB, bit for bit; of 10-bit 4:2:0 they do not.
_SAME_COLOURS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "gray", "bgr0"}
_SAME_COLOURS |= {"yuv422p10le"}
_SEEKABLE = {"mov", "matroska"}
# Decord decodes in advance while its caller is busy, without a limit: in the worst case the whole file.
_DECORD_BYTES = 512 << 20
# Decoding a few frames more is cheaper than a jump.
_WORTH_A_SEEK = 8


def choose_decoder(info: VideoInfo, decoder: Decoder = "auto", *, gpu: int | None = None) -> tuple[str, str]:
    """Name the decoder for a file, and why: Decord where it is measured exact and stays small, PyAV everywhere else.

    On a GPU Decord's frames do not wait in this machine's memory.
    """
    if decoder != "auto":
        return decoder, "asked for"
    if is_address(info.path):
        return "pyav", "Decord reads files here only, not addresses"
    kind = info.container.split(",")[0]
    version = _decord_version(gpu=gpu is not None)
    if not version:
        return "pyav", "Decord is not installed"
    if (kind, info.codec) not in _EXACT_WITH_DECORD:
        return "pyav", f"Decord is not known to be exact on {info.codec} in {kind}"
    if info.codec == "av1" and version.startswith("0."):
        return "pyav", "this Decord knows no AV1"
    num_bytes = info.num_frames * info.width * info.height * 3
    doubts = {
        "the frame rate varies": info.variable_rate,
        "an edit list cuts frames": info.edit_list,
        "groups of pictures are open": info.open_gop,
        "frames are known by order only": info.by_order,
        "timestamps start late": info.reordered and bool(info.pts[0] != 0),
        f"Decord converts {info.pixel_format} colours otherwise": info.pixel_format not in _SAME_COLOURS,
        "its pixels are not square": info.stretched,
        "Decord converts odd sizes otherwise": (info.width | info.height) % 2 == 1,
        "it is shown rotated or mirrored": info.rotation != 0 or info.mirrored,
        "it holds several video streams": info.num_streams > 1,
        "it is damaged": info.damage != "",
        "Decord might hold all of it in memory": gpu is None and num_bytes > _DECORD_BYTES,
        "Decord takes no such path": not _is_text(info.path),
    }
    for why, doubtful in doubts.items():
        if doubtful:
            return "pyav", why
    return "decord", f"Decord is exact on {info.codec} in {kind}"


def open_reader(
    info: VideoInfo,
    *,
    decoder: Decoder = "auto",
    device: str = CPU,
    resize: Resize | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Reader:
    """Open a probed file for reading.

    Args:
        info: What ``probe`` found.
        decoder: ``"auto"`` decides by file; the others insist.
        device: With ``cuda:N`` Decord decodes 8-bit 4:2:0 H.264 on that GPU; where it cannot, the CPU does, with a
            warning. Every other file, and every other device, is decoded on the CPU.
        resize: Make small square pictures of the frames; without it they are full-sized.
        alive: Called for every packet that PyAV decodes, so that a caller's watchdog stays calm where hours lie between
            two frames. Decord reads only files that it decodes in seconds.

    Raises:
        DecodeError: The file cannot be opened, or not by the decoder insisted on.
    """

    def spare() -> _PyavSource:
        return _PyavSource(info, alive)

    gpu, fallback = cuda_index(device), ""
    if gpu is not None and _suits_gpu(info) and choose_decoder(info, decoder, gpu=gpu)[0] == "decord":
        try:
            why = f"GPU {gpu} decodes {info.codec}"
            return Reader(info, _DecordSource(info, gpu), "decord", why, resize, spare=spare)
        except GaveUpError as error:
            fallback = f"Decord cannot decode it on GPU {gpu}, the CPU does it: {error}"
            _log.warning("%s: %s", info.path, fallback)
    name, why = choose_decoder(info, decoder)
    why = f"{fallback}; {why}" if fallback else why
    if name == "decord":
        try:
            return Reader(info, _DecordSource(info), name, why, resize, spare=spare, fallback=fallback)
        except GaveUpError as error:
            if decoder == "decord":
                raise DecodeError(info.path, f"Decord cannot read it: {error}") from error
            name, why = "pyav", f"{fallback}; {error}" if fallback else str(error)
    return Reader(info, spare(), name, why, resize, fallback=fallback)


def read_frames(
    path: str,
    *,
    times: Sequence[float] | Float64[np.ndarray, " time"] | None = None,
    indices: Sequence[int] | Int64[np.ndarray, " index"] | None = None,
    decoder: Decoder = "auto",
    device: str = CPU,
    resize: Resize | None = None,
) -> Frames:
    """Read the frames nearest to ``times``, or those of ``indices``; a truncated file says so in ``salvaged``.

    Raises:
        DecodeError: The file is no readable video, or none of these frames can be read.
    """
    if (times is None) == (indices is None):
        raise ValueError("times or indices must be given, and not both")
    info = probe(path)
    with open_reader(info, decoder=decoder, device=device, resize=resize) as reader:
        chosen = indices if times is None else nearest(info.times, np.asarray(times, dtype=np.float64))
        frames = reader.read(chosen if chosen is not None else [])
    if len(frames) == 0:
        raise DecodeError(path, "no frame could be decoded")
    return Frames(frames.pixels, frames.times, frames.salvaged or info.damage)


class _PyavSource:
    """Decode with PyAV: jump to keyframes while jumps prove exact, else walk through the file in order."""

    def __init__(self, info: VideoInfo, alive: Callable[[], None]) -> None:
        self._info, self._alive = info, alive
        self._can_seek = info.container.split(",")[0] in _SEEKABLE and not info.by_order
        self._keys = np.flatnonzero(info.keyframes)
        self._container: Any = None
        self._file = open_file(info.path)
        try:
            self._restart()
        except BaseException:
            self._file.close()
            raise

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        for index in indices:
            is_there = self._reach(index)
            self._file.check()  # what could not be fetched must not pass for the end of the file
            if is_there:
                yield index, self._convert(self._frame)

    def close(self) -> None:
        self._close_container()
        self._file.close()

    def _close_container(self) -> None:
        if self._container is not None:
            self._frames.close()
            self._container.close()
            self._container = None

    def _restart(self) -> None:
        self._close_container()
        self._container = open_container(self._info.path, self._file)
        self._stream = self._container.streams[self._info.stream]
        self._stream.codec_context.thread_count = 1
        self._begin()

    def _begin(self) -> None:
        self._frames: Any = decode_all(self._container, self._stream, self._alive, self._info.clock_offsets)
        self._position = -1
        self._frame: Any = None

    def _reach(self, index: int) -> bool:
        """Make ``index`` the current frame; say whether it is there."""
        before = self._keys[self._keys <= index]
        key = int(before[-1]) if len(before) else 0
        if self._can_seek and (index < self._position or key > self._position + _WORTH_A_SEEK):
            if self._jump(key) and self._walk(index) and not self._frame.is_corrupt:
                return True
            self._can_seek = False
            self._restart()
        elif index < self._position:
            self._restart()
        return self._walk(index)

    def _jump(self, key: int) -> bool:
        """Seek to a keyframe; say whether that led to it or before it."""
        start = self._position
        try:
            self._container.seek(int(self._info.pts[key]), stream=self._stream)
        except (av.FFmpegError, OSError, ValueError):
            return False
        self._begin()
        self._walk(0)
        # A file without an index sends every jump to its beginning: from there on, walk.
        self._can_seek = self._position > start or start > key
        return self._position <= key

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

    def _convert(self, frame: Any) -> Picture:
        info = self._info
        width, height = (info.width, info.height)[:: -1 if info.rotation % 180 else 1]
        picture = frame.to_ndarray(format="rgb24", width=width, height=height, **ONE_THREAD)
        return orient(picture, info.rotation, mirrored=info.mirrored)


class _DecordSource:
    """Decode with Decord, frame by frame: a batch would lie in memory at full size, and fails on rotated files."""

    def __init__(self, info: VideoInfo, gpu: int | None = None) -> None:
        if is_address(info.path):
            raise GaveUpError("it reads files here only, not addresses")
        decord = _decord(gpu=gpu is not None)
        path = os.path.abspath(info.path)  # noqa: PTH100
        self._shape = (info.height, info.width, 3)
        try:
            context = decord.cpu(0) if gpu is None else decord.gpu(gpu)
            self._reader: Any = decord.VideoReader(path, ctx=context, num_threads=1)
            count = len(self._reader)
        except Exception as error:
            raise GaveUpError(_first_line(error)) from error
        if count != info.num_frames:
            raise GaveUpError(f"Decord counts {count} frames, the container holds {info.num_frames}")

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        for index in indices:
            try:
                picture = self._reader[index].asnumpy()
            except Exception as error:
                raise GaveUpError(_first_line(error)) from error
            if picture.shape != self._shape:
                # Rotated by a quarter, at widths that swscale pads, Decord mistakes the padding for a fourth channel.
                raise GaveUpError(f"Decord gives frames of shape {picture.shape}, not {self._shape}")
            yield index, picture

    def close(self) -> None:
        self._reader = None


def try_gpu(gpu: int) -> str:
    """Return why Decord cannot use a GPU, empty where it can; this process then holds a CUDA context."""
    try:
        decord = _decord(gpu=True)
        decord.ndarray.empty((1,), ctx=decord.gpu(gpu))
    except Exception as error:
        return _first_line(error)
    return ""


def _suits_gpu(info: VideoInfo) -> bool:
    """Return whether a file is of the one kind that GPUs decode: in others the decoder's threads may crash."""
    return info.codec == "h264" and info.pixel_format == "yuv420p"


def _decord(*, gpu: bool) -> Any:
    """Import Decord; for the CPU without CUDA's libraries, of which decord2 would load 800 MB where they lie.

    A build with GPU code needs them all the same.
    """
    if gpu or "nvidia" in sys.modules:
        import decord
    else:
        sys.modules["nvidia"] = None  # type: ignore[assignment]
        try:
            import decord
        except OSError:
            del sys.modules["nvidia"]
            return _decord(gpu=True)
        finally:
            sys.modules.pop("nvidia", None)
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _decord_version(*, gpu: bool) -> str:
    try:
        return str(_decord(gpu=gpu).__version__)
    except (ImportError, OSError, RuntimeError):
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
