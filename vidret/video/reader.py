"""Read frames of a file by index, by time or in order, resized, with the decoder that suits the file."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import strip_query
from vidret.types import Frames, Picture, Resize
from vidret.video.container import NOT_DECODED
from vidret.video.decoders.base import FrameDecoder, GaveUpError, SamplingMode, StreamedFrame
from vidret.video.decoders.pyav import PyavDecoder
from vidret.video.decoders.registry import EXACT_DECODERS, Decoder, choose_decoder, find_decoder, suits_gpu
from vidret.video.geometry import plan_resize, resize_image
from vidret.video.probe import VideoInfo, probe
from vidret.video.sampling import nearest

_log = logging.getLogger(__name__)


class Reader:
    """Frames of one open file, read by index.

    Calls with rising indices decode nothing twice; a call may also go back.
    ``decoder`` is the decoder in use and ``why`` the reason for it. ``fallback`` is why another decoder gave up; empty
    if none did. ``observe``, if set, is called with the index and the full-size image of every decoded frame. Use the
    reader as a context manager.
    """

    def __init__(
        self,
        info: VideoInfo,
        source: FrameDecoder,
        decoder: str,
        why: str,
        resize: Resize | None,
        spare: Callable[[], FrameDecoder] | None = None,
        *,
        fallback: str = "",
    ) -> None:
        """Wrap a decoder; use ``open_reader`` to choose one. ``spare`` opens the file with PyAV if it gives up."""
        self.info, self.decoder, self.why, self.fallback = info, decoder, why, fallback
        self._source, self._resize, self._spare = source, resize, spare
        self.observe: Callable[[int, Picture], None] | None = None

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " index"]) -> Frames:
        """Return the frames at these indices in rising order, each once.

        Unreadable frames are left out, and ``Frames.salvaged`` reports their number. Raise ValueError if an index is
        outside the file, or GaveUpError if the decoder gave up and there is no other.
        """
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.info.num_frames:
            raise ValueError(f"indices must be in 0..{self.info.num_frames - 1}, got {wanted[0]}..{wanted[-1]}")
        images: dict[int, Picture] = {}
        try:
            self._decode_missing(wanted, images)
        except GaveUpError as error:
            self._fall_back(error)
            self._decode_missing(wanted, images)
        kept = np.array(sorted(images), dtype=np.int64)
        salvaged = "" if len(kept) == len(wanted) else f"{len(kept)} of {len(wanted)} frames could be read"
        if salvaged:
            salvaged += ": truncated" if "truncated" in self.info.damage else ": damaged"
        height, width = self.info.height, self.info.width
        if self._resize:
            plan = plan_resize(height, width, self._resize)
            height, width = plan.crop_height, plan.crop_width
        pixels = np.empty((len(kept), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(kept):
            pixels[row] = images.pop(int(index))
        return Frames(pixels, self.info.times[kept], salvaged)

    @property
    def reads_all(self) -> bool:
        """Whether ``stream`` decodes all frames."""
        return self._source.reads_all

    def stream(self, first: int = 0) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file, without unreadable ones.

        Raise GaveUpError if the decoder gave up and there is no other.
        """
        position = first
        try:
            for frame in self._source.stream(first):
                position = frame.index + 1
                yield frame
        except GaveUpError as error:
            self._fall_back(error)
            yield from self._source.stream(position)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fall_back(self, error: GaveUpError) -> None:
        """Continue with PyAV, or raise the error if the file cannot be opened again."""
        if self._spare is None:
            raise error
        _log.info("%s: %s gave up (%s), continuing with PyAV", strip_query(self.info.path), self.decoder, error)
        self._source.close()
        self.fallback = f"{self.decoder} gave up ({self.why}): {error}"
        self._source, self.decoder, self.why = self._spare(), "pyav", self.fallback

    def _decode_missing(self, wanted: Int64[np.ndarray, " index"], images: dict[int, Picture]) -> None:
        for index, image in self._source.decode([int(i) for i in wanted if i not in images]):
            if not isinstance(image, np.ndarray):
                if self.observe is None and self._resize:
                    images[index] = image.resize(self._resize)
                    continue
                image = image.read()
            if self.observe is not None:
                self.observe(index, image)
            images[index] = resize_image(image, self._resize) if self._resize else image


def open_reader(
    info: VideoInfo,
    *,
    decoder: Decoder = "auto",
    device: str = CPU,
    gpu_decoders: Sequence[str] = EXACT_DECODERS,
    resize: Resize | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    mode: SamplingMode = "exact",
    num_threads: int = 1,
    for_streaming: bool = False,
) -> Reader:
    """Open a probed file for reading; frames have full size if ``resize`` is None.

    ``decoder`` is the one to use, or ``"auto"`` to choose by file. With ``cuda:N``, the ``gpu_decoders`` are tried on
    that GPU: torchcodec on 8-bit 4:2:0 H.264, HEVC, VP9 and AV1, then Decord on H.264; a failure falls back to the CPU
    with a warning. All other files and devices are decoded on the CPU. With ``for_streaming``, ``"auto"`` is PyAV on
    the CPU, since the others convert every frame that they decode.

    PyAV calls ``heartbeat`` for every packet, so that a watchdog does not fire when two frames are hours apart, uses
    ``num_threads`` threads, and streams the frames of the ``mode``; the others ignore these and stream every frame.

    Raises:
        DecodeError: The file cannot be opened, or not by the requested decoder.
        VidretError: torchcodec is requested and cannot be loaded.
    """

    def spare() -> PyavDecoder:
        return PyavDecoder(info, heartbeat, mode=mode, num_threads=num_threads)

    gpu, fallback = cuda_index(device), ""
    suited = [] if gpu is None else [name for name in gpu_decoders if suits_gpu(info, name, decoder)]
    for name, following in pairwise([*suited, ""]):
        try:
            why = f"GPU {gpu} decodes {info.codec}"
            return Reader(info, find_decoder(name)(info, gpu), name, why, resize, spare=spare, fallback=fallback)
        except GaveUpError as error:
            instead = find_decoder(following).title if following else "the CPU"
            fallback = f"{find_decoder(name).title} cannot decode it on GPU {gpu}, using {instead}: {error}"
            _log.warning("%s: %s", strip_query(info.path), fallback)
    if for_streaming and decoder == "auto":
        name, why = "pyav", "Decord would convert every frame"
    else:
        name, why = choose_decoder(info, decoder)
    why = f"{fallback}; {why}" if fallback else why
    if name in EXACT_DECODERS:
        try:
            return Reader(info, find_decoder(name)(info), name, why, resize, spare=spare, fallback=fallback)
        except GaveUpError as error:
            if decoder == name:
                raise DecodeError(info.path, f"{find_decoder(name).title} cannot read it: {error}") from error
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

    ``Frames.salvaged`` describes damage to the file. Raise DecodeError if the file is not a readable video or none of
    these frames can be read, or ValueError if neither or both of ``times`` and ``indices`` are given.
    """
    if (times is None) == (indices is None):
        raise ValueError(f"exactly one of times and indices must be given, got {'none' if times is None else 'both'}")
    info = probe(path)
    chosen = indices if times is None else nearest(info.times, np.asarray(times, dtype=np.float64))
    frames = read_chosen(info, chosen if chosen is not None else [], decoder=decoder, device=device, resize=resize)
    return Frames(frames.pixels, frames.times, frames.salvaged or info.damage)


def read_chosen(
    info: VideoInfo,
    indices: Sequence[int] | Int64[np.ndarray, " index"],
    *,
    decoder: Decoder = "auto",
    device: str = CPU,
    resize: Resize | None = None,
) -> Frames:
    """Return the frames at these indices of a probed file, each once; raise DecodeError if none of them can be read."""
    with open_reader(info, decoder=decoder, device=device, resize=resize) as reader:
        frames = reader.read(indices)
    if not len(frames):
        raise DecodeError(info.path, NOT_DECODED)
    return frames
