"""How fast an encoder is on this machine, and how much its vectors take on the disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidret.devices import CPU
from vidret.encode.encoder import Encoder
from vidret.types import Frames

BYTES_PER_VALUE = 2  # vectors are stored as float16
QUERY = "two people walk a dog along a beach at sunset"
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpeed:
    """The cost of an encoder: time of all threads on a CPU, which other work does not change much, else wall time.

    Attributes:
        frame_ms: Milliseconds to encode a frame, in a batch of one segment.
        query_ms: Milliseconds to encode a query.
        mb_per_hour: Vectors of an hour of video in MB, without tokens for reranking, if every frame differs.
        device: Where it ran.
    """

    frame_ms: float
    query_ms: float
    mb_per_hour: float
    device: str


def measure_speed(encoder: Encoder, *, repeats: int = 3) -> EncodingSpeed:
    """Measure an encoder on random frames and one query; the best of several runs counts, after one to warm up."""
    sampling, side = encoder.sampling, encoder.resize.crop
    pixels = np.random.default_rng(0).integers(0, 256, (sampling.num_frames, side, side, 3), dtype=np.uint8)
    frames = Frames(pixels, np.arange(sampling.num_frames) / sampling.fps)
    device = str(getattr(encoder, "device", CPU))
    clock = time.process_time if device == CPU else time.perf_counter
    frame_s = _time(lambda: encoder.encode_frames([frames]), repeats, clock) / sampling.num_frames
    segments = sampling.fps / sampling.num_frames
    return EncodingSpeed(
        frame_ms=1000 * frame_s,
        query_ms=1000 * _time(lambda: encoder.encode_text([QUERY]), repeats, clock),
        mb_per_hour=SECONDS_PER_HOUR * (sampling.fps + segments) * encoder.dim * BYTES_PER_VALUE / 1e6,
        device=device,
    )


def _time(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest of some runs; encoders return arrays, so no work is left on a device."""
    run()
    seconds = []
    for _ in range(repeats):
        started = clock()
        run()
        seconds.append(clock() - started)
    return min(seconds)
