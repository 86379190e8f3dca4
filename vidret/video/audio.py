"""Sound of a video as mono samples, decoded with PyAV in pieces."""

from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from vidret.errors import DecodeError
from vidret.video.container import decode_packets, open_container, read_packets
from vidret.video.files import open_file

_PIECE_S = 10.0
_TICKS_PER_S = 1_000_000  # of the container's start time


def read_audio(
    path: str, sample_rate: int, *, start_s: float = 0.0, heartbeat: Callable[[], None] = lambda: None
) -> Iterator[tuple[float, Float32[np.ndarray, " sample"]]]:
    """Yield consecutive pieces of the first audio track as (time in seconds, mono samples in -1..1).

    Times are those of a player's clock, as in ``probe``. Gaps of the track are filled with silence, so that the samples
    of all pieces are consecutive. Packets that cannot be decoded are skipped.

    Args:
        path: The path or URL.
        sample_rate: Samples per second.
        start_s: Skip what ends before this time.
        heartbeat: Called for every packet.

    Raises:
        DecodeError: There is no audio track, its codec is unknown, or nothing of it can be decoded.
    """
    with open_file(path) as file, open_container(path, file) as container:
        if not container.streams.audio:
            raise DecodeError(path, "has no audio track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise DecodeError(path, "its audio codec is unknown")
        stream.codec_context.thread_count = 1
        zero_s = (container.start_time or 0) / _TICKS_PER_S
        is_empty = True
        for time_s, samples in _join(
            _resample(stream, container, sample_rate, heartbeat), sample_rate, zero_s, start_s
        ):
            is_empty = False
            yield time_s, samples
        file.check()
        if is_empty and start_s == 0.0:
            raise DecodeError(path, "no sound could be decoded")


def _resample(stream: Any, container: Any, sample_rate: int, heartbeat: Callable[[], None]) -> Iterator[Any]:
    """Yield (seconds or None, samples) of each decoded frame, resampled."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    layout: Any = None

    def packets() -> Iterator[Any]:
        for packet in read_packets(container, stream):
            heartbeat()
            yield packet

    for frame in decode_packets(stream, packets()):
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if layout is not None and shape != layout:  # the track changes its form in the middle
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        layout = shape
        time_s = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        try:
            resampled = resampler.resample(frame)
        except (av.FFmpegError, OSError, ValueError):
            continue
        for part in resampled:
            yield time_s, part.to_ndarray().reshape(-1)
            time_s = None


def _join(
    frames: Iterator[Any], sample_rate: int, zero_s: float, start_s: float
) -> Iterator[tuple[float, Float32[np.ndarray, " sample"]]]:
    """Join frames to pieces; silence fills gaps, and what overlaps the samples before is cut off."""
    position: int | None = None  # the sample that comes next, from the player's zero
    pending: list[Float32[np.ndarray, " sample"]] = []
    begin = 0
    for time_s, samples in frames:
        if position is None:
            position = begin = max(0, round(((time_s or 0.0) - zero_s) * sample_rate))
        elif time_s is not None:
            gap = round((time_s - zero_s) * sample_rate) - position
            if 0.1 * sample_rate < gap < 3600 * sample_rate:
                pending.append(np.zeros(gap, np.float32))
                position += gap
        position += len(samples)
        if position <= start_s * sample_rate:
            begin, pending = position, []
            continue
        pending.append(np.asarray(samples, np.float32))
        if position - begin >= _PIECE_S * sample_rate:
            yield begin / sample_rate, np.concatenate(pending)
            begin, pending = position, []
    if pending and position is not None:
        yield begin / sample_rate, np.concatenate(pending)
