"""Read chosen frames, exactly: by Decord on the kinds of file it was measured exact on, else by PyAV.

The only place that knows how Decord decodes. Both the PyPI ``decord2`` and the classic ``decord`` serve.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import is_url
from vidret.types import Frames, Resize
from vidret.video.probe import VideoInfo, probe
from vidret.video.pyav_source import PyavSource
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
# Decord decodes in advance while its caller is busy, without a limit: in the worst case the whole file.
_DECORD_BYTES = 512 << 20


def choose_decoder(info: VideoInfo, decoder: Decoder = "auto", *, gpu: int | None = None) -> tuple[str, str]:
    """Name the decoder for a file, and why: Decord where it is measured exact and stays small, PyAV everywhere else.

    On a GPU Decord's frames do not wait in this machine's memory.
    """
    if decoder != "auto":
        return decoder, "asked for"
    if is_url(info.path):
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
    heartbeat: Callable[[], None] = lambda: None,
) -> Reader:
    """Open a probed file for reading.

    Args:
        info: What ``probe`` found.
        decoder: ``"auto"`` decides by file; the others insist.
        device: With ``cuda:N`` Decord decodes 8-bit 4:2:0 H.264 on that GPU; where it cannot, the CPU does, with a
            warning. Every other file, and every other device, is decoded on the CPU.
        resize: Make small square pictures of the frames; without it they are full-sized.
        heartbeat: Called for every packet that PyAV decodes, so that a watchdog stays calm where hours lie between
            two frames. Decord reads only files that it decodes in seconds.

    Raises:
        DecodeError: The file cannot be opened, or not by the decoder insisted on.
    """

    def spare() -> PyavSource:
        return PyavSource(info, heartbeat)

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


class _DecordSource:
    """Decode with Decord, frame by frame: a batch would lie in memory at full size, and fails on rotated files."""

    def __init__(self, info: VideoInfo, gpu: int | None = None) -> None:
        if is_url(info.path):
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
