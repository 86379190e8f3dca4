"""Exact reading of chosen frames: with Decord where it was measured to be exact, otherwise with PyAV.

torchcodec reads them on request, and on a GPU. Only this module uses Decord. Both ``decord2`` and the original
``decord`` work.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import is_url, is_utf8
from vidret.types import Frames, Picture, Resize
from vidret.video import torchcodec_decoder
from vidret.video.grey import grey_from_luma
from vidret.video.probe import VideoInfo, probe
from vidret.video.pyav_decoder import PyavDecoder
from vidret.video.reader import FrameDecoder, GaveUpError, Reader, read_fault
from vidret.video.sampling import nearest
from vidret.video.streaming import SamplingMode, StreamedFrame
from vidret.video.torchcodec_decoder import TorchcodecDecoder

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
GPU_DECODERS = ("torchcodec", "decord")  # as ``auto`` prefers them: torchcodec resizes on the GPU
READ_ALL = ("decord", "torchcodec")  # these decode every frame of a video that is streamed
TITLES = {"decord": "Decord", "torchcodec": "torchcodec"}

_log = logging.getLogger(__name__)

# Measured frame by frame, in rising and in shuffled order, with decord 0.6.0 and decord2 3.4.0.
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
# In even sizes, Decord and PyAV convert these to identical RGB; not so 10-bit 4:2:0.
_SAME_COLOURS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "gray", "bgr0"}
_SAME_COLOURS |= {"yuv422p10le"}
# Decord decodes ahead without a limit while its caller is busy: in the worst case the whole file.
_MAX_DECORD_BYTES = 512 << 20


def choose_decoder(info: VideoInfo, decoder: Decoder = "auto", *, gpu: int | None = None) -> tuple[str, str]:
    """Return the decoder for a file and the reason: Decord where it is exact and its memory bounded, otherwise PyAV.

    On a GPU, Decord does not queue frames in main memory, so that their size does not count. ``auto`` is never
    torchcodec on the CPU: each process that uses it loads torch, for about the CPU time of the others.
    """
    if decoder != "auto":
        return decoder, "requested"
    if is_url(info.path):
        return "pyav", "Decord reads local files only"
    kind = info.container.split(",")[0]
    version = _decord_version(gpu=gpu is not None)
    if not version:
        return "pyav", "Decord is not installed"
    if (kind, info.codec) not in _EXACT_WITH_DECORD:
        return "pyav", f"Decord was not measured to be exact on {info.codec} in {kind}"
    if info.codec == "av1" and version.startswith("0."):
        return "pyav", "this version of Decord has no AV1"
    num_bytes = info.num_frames * info.width * info.height * 3
    doubts = {
        "the frame rate varies": info.variable_rate,
        "an edit list removes frames": info.edit_list,
        "groups of pictures are open": info.open_gop,
        "frames are known by order only": info.by_order,
        "timestamps start late": info.reordered and bool(info.pts[0] != 0),
        f"Decord converts {info.pixel_format} colours differently": info.pixel_format not in _SAME_COLOURS,
        "its pixels are not square": info.stretched,
        "Decord converts odd sizes differently": (info.width | info.height) % 2 == 1,
        "it is displayed rotated or mirrored": info.rotation != 0 or info.mirrored,
        "it has several video streams": info.num_streams > 1,
        "it is damaged": info.damage != "",
        "Decord might load all of it into memory": gpu is None and num_bytes > _MAX_DECORD_BYTES,
        "Decord needs a path that is valid UTF-8": not is_utf8(info.path),
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
    gpu_decoders: Sequence[str] = GPU_DECODERS,
    resize: Resize | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    mode: SamplingMode = "exact",
    num_threads: int = 1,
    for_streaming: bool = False,
) -> Reader:
    """Open a probed file for reading.

    Args:
        info: The result of ``probe``.
        decoder: ``"auto"`` chooses by file; the others force one decoder.
        device: With ``cuda:N``, torchcodec decodes 8-bit 4:2:0 H.264, HEVC, VP9 and AV1 on that GPU, or else Decord
            H.264, and they fall back to the CPU with a warning. All other files, and all other devices, are decoded on
            the CPU.
        gpu_decoders: The decoders to try on a GPU.
        resize: How frames are resized; None keeps them full-sized.
        heartbeat: Called for every packet that PyAV decodes, so that a watchdog does not fire when two frames lie hours
            apart. The others read only files that they decode in seconds.
        mode: Which frames ``Reader.stream`` decodes; Decord and torchcodec decode all.
        num_threads: Threads of PyAV.
        for_streaming: Prefer PyAV on the CPU, since the others convert every frame that they decode.

    Raises:
        DecodeError: The file cannot be opened, or not by the requested decoder.
        VidretError: torchcodec is requested and cannot be loaded.
    """

    def spare() -> PyavDecoder:
        return PyavDecoder(info, heartbeat, mode=mode, num_threads=num_threads)

    gpu, fallback = cuda_index(device), ""
    suited = [] if gpu is None else [each for each in gpu_decoders if _suits_gpu(info, each, decoder, gpu)]
    for name, following in pairwise([*suited, ""]):
        try:
            why = f"GPU {gpu} decodes {info.codec}"
            return Reader(info, _open(name, info, gpu), name, why, resize, spare=spare, fallback=fallback)
        except GaveUpError as error:
            instead = TITLES.get(following, "the CPU")
            fallback = f"{TITLES[name]} cannot decode it on GPU {gpu}, using {instead}: {error}"
            _log.warning("%s: %s", info.path, fallback)
    if for_streaming and decoder == "auto":
        name, why = "pyav", "Decord would convert every frame"
    else:
        name, why = choose_decoder(info, decoder)
    why = f"{fallback}; {why}" if fallback else why
    if name in TITLES:
        try:
            return Reader(info, _open(name, info), name, why, resize, spare=spare, fallback=fallback)
        except GaveUpError as error:
            if decoder == name:
                raise DecodeError(info.path, f"{TITLES[name]} cannot read it: {error}") from error
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
    """Return the frames nearest to ``times`` in seconds, or those at ``indices``.

    Damage to the file is described in ``Frames.salvaged``.

    Raises:
        DecodeError: The file is not a readable video, or none of these frames can be read.
        ValueError: Neither or both of ``times`` and ``indices`` are given.
    """
    if (times is None) == (indices is None):
        raise ValueError(f"exactly one of times and indices must be given, got {'none' if times is None else 'both'}")
    info = probe(path)
    with open_reader(info, decoder=decoder, device=device, resize=resize) as reader:
        chosen = indices if times is None else nearest(info.times, np.asarray(times, dtype=np.float64))
        frames = reader.read(chosen if chosen is not None else [])
    if len(frames) == 0:
        raise DecodeError(path, "no frame could be decoded")
    return Frames(frames.pixels, frames.times, frames.salvaged or info.damage)


class _DecordDecoder:
    """A ``FrameDecoder`` that reads single frames; batches would fill memory at full size and fail on rotated files."""

    reads_all = True

    def __init__(self, info: VideoInfo, gpu: int | None = None) -> None:
        if is_url(info.path):
            raise GaveUpError("it reads local files only")
        decord = _decord(gpu=gpu is not None)
        path = os.path.abspath(info.path)  # noqa: PTH100
        self._shape, self._times = (info.height, info.width, 3), info.times
        try:
            context = decord.cpu(0) if gpu is None else decord.gpu(gpu)
            self._reader: Any = decord.VideoReader(path, ctx=context, num_threads=1)
            num_frames = len(self._reader)
        except Exception as error:
            raise GaveUpError(read_fault(error)) from error
        if num_frames != info.num_frames:
            raise GaveUpError(f"Decord counts {num_frames} frames, the container has {info.num_frames}")

    def decode(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        for index in indices:
            try:
                image = self._reader[index].asnumpy()
            except Exception as error:
                raise GaveUpError(read_fault(error)) from error
            if image.shape != self._shape:
                # In rotated videos whose rows swscale pads, Decord takes the padding for a fourth channel.
                raise GaveUpError(f"frames must have shape {self._shape}, got {image.shape} from Decord")
            yield index, image

    def stream(self, first: int) -> Iterator[StreamedFrame]:
        for index, image in self.decode(range(first, len(self._times))):
            grey = grey_from_luma(image[:, :, 1])  # green is most of the brightness
            yield StreamedFrame(index, float(self._times[index]), grey, partial(_identity, image))

    def close(self) -> None:
        self._reader = None


def _identity(image: Picture) -> Picture:
    return image


def _open(name: str, info: VideoInfo, gpu: int | None = None) -> FrameDecoder:
    return TorchcodecDecoder(info, gpu) if name == "torchcodec" else _DecordDecoder(info, gpu)


def try_gpu(gpu: int, name: str = "decord") -> str:
    """Return why a decoder cannot use a GPU, empty if it can; this process keeps a CUDA context afterwards."""
    if name == "torchcodec":
        return torchcodec_decoder.try_torchcodec_gpu(gpu)
    try:
        decord = _decord(gpu=True)
        decord.ndarray.empty((1,), ctx=decord.gpu(gpu))
    except Exception as error:
        return read_fault(error)
    return ""


def _suits_gpu(info: VideoInfo, name: str, decoder: Decoder, gpu: int) -> bool:
    """Return whether a decoder, if it may be used, may decode a file on a GPU."""
    if decoder not in ("auto", name):
        return False
    if name == "torchcodec":
        return torchcodec_decoder.is_torchcodec_installed() and not torchcodec_decoder.find_doubt(info, on_gpu=True)
    if info.codec != "h264" or info.pixel_format != "yuv420p":  # with others its threads may crash
        return False
    return choose_decoder(info, decoder, gpu=gpu)[0] == name


def _decord(*, gpu: bool) -> Any:
    """Import Decord, for the CPU without the CUDA libraries, of which decord2 would otherwise load 800 MB.

    A build with GPU code needs them in any case.
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
