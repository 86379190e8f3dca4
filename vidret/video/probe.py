"""What a file is: its frames' exact times, rate, size and rotation.

Times come from the packets' own timestamps, never from index / rate, so that uneven rates and edit lists are exact.
Only the first frame is decoded, for its size and rotation; all frames only where timestamps do not tell them apart.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Bool, Float64, Int64

from vidret.errors import DecodeError
from vidret.video import files, timeline
from vidret.video.boxes import find_payload
from vidret.video.container import NO_OFFSETS, decode_all, open_container, scan_packets
from vidret.video.display import read_display
from vidret.video.files import SourceFile
from vidret.video.ranges import RemoteFile
from vidret.video.timeline import Packets
from vidret.video.transport import HEAD_BYTES, ends_inside_packet

_PICTURES = {"image2", "tty"}
_ONE_PICTURE = {"mjpeg", "mpjpeg", "apng", "jpegxl_anim"}
_STILL_BRANDS = {"avif", "heic", "heix", "mif1"}
_IS_PICTURE = "is a picture, not a video"
_NOT_DECODED = "no frame could be decoded"
# In MP4 and MOV the times of these do not depend on what packets hold: measured, field by field.
_TIMED = {"h264", "hevc", "av1", "vp9", "prores", "mjpeg", "mpeg4", "mpeg2video"}
# Their clock may restart, so that recordings can be joined byte by byte.
_RESTARTING = {"mpegts", "mpeg"}
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9", "libvpx": "vp8"}
_FALLBACK_RATE = 25.0
_TOLERATED_SECONDS = 1.0
_CLOCK_STEP = 1e-6  # seconds; FFmpeg rounds a container's start to it


@dataclass(frozen=True, slots=True, eq=False)
class VideoInfo:
    """What a video file is. Frame ``k`` is the k-th that a player shows, at ``times[k]`` seconds on the player's clock.

    That clock starts with the container's earliest stream. ``start`` is when the first frame is shown, above 0 where
    sound comes before it, and ``duration`` when the last one ends.

    ``width`` and ``height`` are as displayed: pixels that are not square are ``stretched``, then the frame is
    ``mirrored`` left to right, then turned by ``rotation`` degrees clockwise. ``pts`` (in ticks) and ``keyframes``
    serve the decoder, in the order of presentation. ``by_order`` says that the timestamps do not tell frames apart, so
    that a frame is known by its place only. ``damage`` is empty for a sound file.

    Where the clock restarts within a file, ``times`` and ``pts`` go on, as in what FFmpeg converts: ``clock_offsets``
    are the ticks added to the timestamps of each packet, in the order of the file; there are none in other files.
    """

    path: str
    num_bytes: int
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    stretched: bool
    start: float
    duration: float
    average_rate: float
    real_rate: float
    variable_rate: bool
    edit_list: bool
    open_gop: bool
    reordered: bool
    by_order: bool
    clock_restarts: int
    num_frames: int
    stream: int
    num_streams: int
    damage: str
    times: Float64[np.ndarray, " frame"]
    pts: Int64[np.ndarray, " frame"]
    keyframes: Bool[np.ndarray, " frame"]
    clock_offsets: Int64[np.ndarray, " packet"]

    @property
    def shown_seconds(self) -> float:
        """Return how long frames are shown: from the start of the first to the end of the last."""
        return self.duration - self.start

    @property
    def unbroken_seconds(self) -> float:
        """Return how long frames are shown before the first gap: what is sampled on an even grid ends there."""
        return timeline.first_gap_start(self.times, self.duration) - self.start

    def facts(self) -> dict[str, str | int | float | bool]:
        """Give everything but the arrays, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}


def probe(path: str | Path, *, heartbeat: Callable[[], None] | None = None) -> VideoInfo:
    """Read what a video file is.

    Args:
        path: A regular file, a link to one, or an address. There MP4 and MOV are not read through, others are.
        heartbeat: Called for every packet, so that a caller's watchdog stays calm during long work.

    Raises:
        DecodeError: Why this is no readable video, in a few words.
    """
    name = os.fspath(path)
    with files.open_file(name) as file:
        return _inspect(name, file, heartbeat or (lambda: None))


def _inspect(name: str, file: SourceFile, heartbeat: Callable[[], None]) -> VideoInfo:
    if file.num_bytes == 0:
        raise DecodeError(name, "is empty")
    payload = find_payload(file, file.num_bytes) if isinstance(file, RemoteFile) else []
    with open_container(name, file) as container:
        stream = _choose_stream(name, container)
        if isinstance(file, RemoteFile) and payload and _name_codec(stream) in _TIMED:
            frame = _decode_first(container, stream)
            packets, is_cut_short = _scan_times(name, file, payload, int(stream.index), heartbeat)
        else:
            packets, frame, is_cut_short = scan_packets(container, stream, heartbeat)
        file.check()
        if frame is None:
            raise DecodeError(name, _NOT_DECODED)
        kind, brand = container.format.name, container.metadata.get("major_brand", "").strip()
        average = float(stream.average_rate or 0)
        real = float(stream.base_rate or 0) or average
        tick, index = float(stream.time_base), int(stream.index)
        zero, begins = _read_clock(container, stream)
        declared, promised = int(stream.frames), _promised_seconds(container, stream)
        codec, num_streams = _name_codec(stream), len(container.streams.video)
        display = read_display(frame, stream.sample_aspect_ratio)
    if kind == "mpegts" and ends_inside_packet(files.read_head(file, HEAD_BYTES), file.num_bytes):
        # As much as is there of the last frame is half of it at best.
        is_cut_short, packets = True, timeline.drop_last(packets)
    packets, offsets = timeline.follow_restarts(packets, tick) if kind in _RESTARTING else (packets, NO_OFFSETS)
    by_order = not timeline.has_unique_timestamps(packets) or (kind == "avi" and not packets.keyframes.all())
    pts, keyframes = _count_frames(name, file, index, heartbeat, offsets) if by_order else timeline.sort_frames(packets)
    if len(pts) == 0:
        raise DecodeError(name, _NOT_DECODED)
    if len(pts) == 1 and (kind in _ONE_PICTURE or brand in _STILL_BRANDS):
        raise DecodeError(name, _IS_PICTURE)
    if by_order and (np.diff(pts) <= 0).any():
        # Timestamps that do not rise are no times at all: only the rate is left.
        pts, tick = np.arange(len(pts)), 1 / (average or _FALLBACK_RATE)
    first = float(pts[0]) * tick
    start = begins - zero if by_order else first - zero
    start = start if start > _CLOCK_STEP else 0.0
    times = (pts - pts[0]) * tick + start
    duration = float(times[-1]) + (timeline.last_frame_duration(packets, pts) * tick or 1 / (average or _FALLBACK_RATE))
    missing = promised - (first + duration - start)
    return VideoInfo(
        path=name,
        num_bytes=file.num_bytes,
        container=kind,
        codec=codec,
        pixel_format=frame.format.name,
        width=display.width,
        height=display.height,
        rotation=display.rotation,
        mirrored=display.mirrored,
        stretched=display.stretched,
        start=start,
        duration=duration,
        average_rate=average,
        real_rate=real,
        variable_rate=timeline.has_variable_rate(pts),
        edit_list=bool(packets.discarded.any()),
        open_gop=timeline.has_leading_frames(packets),
        reordered=timeline.is_reordered(packets),
        by_order=by_order,
        clock_restarts=int(np.count_nonzero(np.diff(offsets))),
        num_frames=len(pts),
        stream=index,
        num_streams=num_streams,
        damage=_describe_damage(
            len(pts), declared, is_cut_short or missing > _TOLERATED_SECONDS, timeline.find_gaps(times, duration)
        ),
        times=times,
        pts=pts,
        keyframes=keyframes,
        clock_offsets=offsets,
    )


def _choose_stream(path: str, container: Any) -> Any:
    """Choose the stream a player would show; a cover picture is none."""
    streams = list(container.streams.video)
    kind = container.format.name
    if streams and (kind in _PICTURES or kind.endswith("_pipe")):
        raise DecodeError(path, _IS_PICTURE)
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise DecodeError(path, "holds only a cover picture, no video" if streams else "holds no video")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise DecodeError(path, "its video codec is unknown")
    best = container.streams.best("video")
    return best if best in known else known[0]


def _name_codec(stream: Any) -> str:
    name = str(stream.codec_context.name)
    return _CODECS.get(name, name)


def _decode_first(container: Any, stream: Any) -> Any:
    """Decode the first frame; None where there is none."""
    stream.codec_context.thread_count = 1
    return next(decode_all(container, stream), None)


def _scan_times(
    path: str, file: RemoteFile, payload: list[tuple[int, int]], index: int, heartbeat: Callable[[], None]
) -> tuple[Packets, bool]:
    """Read all packets' times without what they hold, so that the payload is not fetched."""
    file.leave_out(payload)
    with open_container(path, file, parse=False) as container:
        packets, _, is_cut_short = scan_packets(container, container.streams[index], heartbeat, decode=False)
    file.leave_out([])
    return packets, is_cut_short


def _count_frames(
    path: str,
    file: SourceFile,
    index: int,
    heartbeat: Callable[[], None],
    offsets: Int64[np.ndarray, " packet"],
) -> tuple[Int64[np.ndarray, " frame"], Bool[np.ndarray, " frame"]]:
    """Decode everything to learn how many frames there are and when they are shown."""
    with open_container(path, file) as container:
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        stamps = [frame.pts for frame in decode_all(container, stream, heartbeat, offsets)]
    file.check()
    if None in stamps:
        stamps = [0] * len(stamps)
    return np.array(stamps, dtype=np.int64), np.arange(len(stamps)) == 0


def _read_clock(container: Any, stream: Any) -> tuple[float, float]:
    """Return where a player's clock starts, and where the stream does, in seconds of the container's own timestamps."""
    begins = float((stream.start_time or 0) * stream.time_base)
    return begins if container.start_time is None else container.start_time / av.time_base, begins


def _promised_seconds(container: Any, stream: Any) -> float:
    """Say until when a Matroska header promises pictures, else 0: such a file breaks off without an error."""
    if not container.format.name.startswith("matroska"):
        return 0.0
    clock = stream.metadata.get("DURATION", "").split(":")
    if len(clock) == 3:
        try:
            return float(clock[0]) * 3600 + float(clock[1]) * 60 + float(clock[2])
        except ValueError:
            return 0.0
    return (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def _describe_damage(num_frames: int, declared: int, is_cut_short: bool, gaps: Float64[np.ndarray, "gap 2"]) -> str:
    reasons = []
    if is_cut_short and declared > num_frames:
        reasons.append(f"{num_frames} of {declared} frames could be read: truncated")
    elif is_cut_short:
        reasons.append(f"only the first {num_frames} frames could be read: truncated")
    if len(gaps):
        others = f", and in {len(gaps) - 1} other gap{'s' * (len(gaps) > 2)}" if len(gaps) > 1 else ""
        reasons.append(f"shows no new frame from {gaps[0, 0]:.0f} s to {gaps[0, 1]:.0f} s{others}")
    return "; ".join(reasons)
