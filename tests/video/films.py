"""Write small videos whose every frame shows its own number, so that an answer can be checked by looking."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from tests.fakes import write_pictures

Picture = NDArray[np.uint8]

ROWS, COLUMNS = 2, 4
TURNS = {90: ((0, -1), (1, 0)), 180: ((-1, 0), (0, -1)), 270: ((0, 1), (-1, 0))}  # degrees anticlockwise


def draw(number: int, width: int = 64, height: int = 48) -> Picture:
    """Draw a number as eight grey blocks, dark or bright, that survive a lossy codec."""
    bits = np.array([(number >> bit) & 1 for bit in range(ROWS * COLUMNS)]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = np.where(bits[rows][:, columns] == 1, 208, 48).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_number(picture: Picture) -> int:
    """Read the number that ``draw`` drew."""
    height, width = picture.shape[:2]
    value = 0
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        y, x = int((row + 0.5) * height / ROWS), int((column + 0.5) * width / COLUMNS)
        value |= int(picture[y - 3 : y + 3, x - 3 : x + 3].mean() > 128) << bit
    return value


def read_numbers(pixels: Picture) -> list[int]:
    """Read the number of every frame."""
    return [read_number(picture) for picture in pixels]


def write_video(
    path: Path,
    numbers: Sequence[int],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    rate: int | Fraction = 25,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    shift: int = 0,
    audio: bool = False,
    sound_start: int = 0,
    pixel_ratio: Fraction | None = None,
    timecode: str = "",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode one frame per number; ``pts`` in frame periods, ``shift`` moves the packets before muxing.

    ``sound_start`` is in samples, 16,000 a second; ``pixel_ratio`` is a pixel's width over its height.
    """
    with keep_scheduling(), av.open(str(path), "w", options=container_options or {}) as container:
        stream = cast(Any, container.add_stream(codec, rate=rate, options=options or {}))
        stream.width, stream.height = size if rotation % 180 == 0 else size[::-1]
        stream.pix_fmt = pix_fmt
        container.metadata.update(metadata or {})
        stream.codec_context.time_base = 1 / Fraction(rate)
        stream.codec_context.thread_count = 1  # more take longer to start than small pictures take
        if timecode:
            stream.metadata["timecode"] = timecode
        if pixel_ratio:
            stream.codec_context.sample_aspect_ratio = pixel_ratio
        sound = cast(Any, container.add_stream("aac", rate=16000, layout="mono")) if audio else None
        packets = []
        for position, frame_number in enumerate(numbers):
            picture = np.rot90(draw(frame_number, *size), -rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = pts[position] if pts else position
            frame.time_base = 1 / Fraction(rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            packet.pts += shift
            packet.dts += shift
            container.mux(packet)
        if sound is not None:
            write_sound(container, sound, seconds=float(len(numbers) / rate), start=sound_start)
    if rotation:
        set_matrix(path, *TURNS[rotation])
    return path


@contextmanager
def keep_scheduling() -> Iterator[None]:
    """Restore how this thread is scheduled at the end.

    As root, SVT-AV1 gives the thread that opens it the highest real-time priority for good. All that the thread starts
    later, such as a browser, inherits it and starves the machine.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def set_matrix(path: Path, right: tuple[int, int], down: tuple[int, int]) -> None:
    """Write into an MP4 where the right and the bottom of its pictures go on the screen, whose y axis points down."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    rows = (*right, 0, *down, 0, 0, 0, 1 << 14)
    data[at : at + 36] = struct.pack(">9i", *(value << 16 for value in rows))
    path.write_bytes(data)


def write_sound(container: Any, stream: Any, seconds: float, start: int = 0) -> None:
    """Encode silence that starts at a sample."""
    for position in range(start, start + int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, position, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_cover(path: Path) -> Path:
    """Encode silence with a cover picture."""
    with av.open(str(path), "w") as container:
        sound = cast(Any, container.add_stream("aac", rate=16000, layout="mono"))
        cover = cast(Any, container.add_stream("mjpeg", rate=1))
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        container.mux(cover.encode(av.VideoFrame.from_ndarray(draw(1), format="rgb24")))
        container.mux(cover.encode(None))
        write_sound(container, sound, seconds=1)
    return path


def write_audio(path: Path) -> Path:
    """Encode silence only."""
    with av.open(str(path), "w") as container:
        write_sound(container, container.add_stream("aac", rate=16000, layout="mono"), seconds=1)
    return path


def write_scenes(path: Path, lengths: Sequence[int], *, rate: int = 25, options: dict[str, str] | None = None) -> Path:
    """Write shots of some numbers of frames: each a texture of its own that moves slowly."""
    pictures = []
    for scene, length in enumerate(lengths):
        rng = np.random.default_rng(scene)
        texture = np.kron(rng.integers(20, 236, (16, 20, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        shifts = (index * 16 // length for index in range(length))
        pictures += [texture[16 : 16 + 96, shift : shift + 128] for shift in shifts]
    return write_pictures(path, pictures, rate, faststart=False, **(options or {}))
