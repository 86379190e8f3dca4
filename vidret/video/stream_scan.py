"""One pass over a container: its video stream, its packets, and what its header declares.

The boxes of an MP4 or MOV file say where the coded media is, which need not be fetched to read the times of frames.
The packets of an MPEG transport stream say whether it is cut off, which FFmpeg does not report.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
from av.stream import Disposition

from vidret.errors import DecodeError
from vidret.video.container import decode_all, open_container, read_start, scan_packets
from vidret.video.files import SourceFile, read_head
from vidret.video.geometry import Display, read_display
from vidret.video.hdr import HDR_TRANSFERS
from vidret.video.ranges import RemoteFile
from vidret.video.recording import Recording, read_recording
from vidret.video.rendering import describe_rendering
from vidret.video.timeline import Packets, drop_last

IS_IMAGE = "is a picture, not a video"
NOT_DECODED = "no frame could be decoded"
_IMAGE_FORMATS = {"image2", "tty"}
# In MP4 and MOV the timestamps of these codecs do not depend on packet contents: measured field by field.
_TIMED_BY_CONTAINER = {"h264", "hevc", "av1", "vp9", "prores", "mjpeg", "mpeg4", "mpeg2video"}
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9", "libvpx": "vp8"}

_MAX_BOXES = 32  # files with more are fragmented: times are spread over the file, and all of it must be read

HEAD_BYTES = 1020  # five of the longest packets
_SYNC = 0x47
# Bytes of a packet and before its sync byte: plain, with a time code as on Blu-ray, and with parity bytes at the end.
_LAYOUTS = ((188, 0), (192, 4), (204, 0))


@dataclass(frozen=True, slots=True, eq=False)
class StreamScan:
    """The result of one pass over a container.

    Times are in seconds of the container's timestamps; those of ``packets`` are in ticks of ``tick`` seconds.
    ``declared_end`` is when the last frame ends according to the header, 0 if it does not say. ``timecode`` is empty if
    the container has none.
    """

    kind: str
    brand: str
    codec: str
    pixel_format: str
    rendering: str
    display: Display
    average_rate: float
    real_rate: float
    tick: float
    stream: int
    num_streams: int
    has_audio: bool
    timecode: str
    recording: Recording
    hdr: bool
    container_start: float
    stream_start: float
    declared_frames: int
    declared_end: float
    packets: Packets
    is_cut_short: bool


def scan_stream(name: str, file: SourceFile, heartbeat: Callable[[], None]) -> StreamScan:
    """Read the packets of a video, and decode its first frame.

    Args:
        name: The path or URL.
        file: The open file.
        heartbeat: Called for every packet.

    Raises:
        DecodeError: The file is not a readable video.
    """
    payload = find_payload(file, file.num_bytes) if isinstance(file, RemoteFile) else []
    with open_container(name, file) as container:
        stream = _choose_stream(name, container)
        if isinstance(file, RemoteFile) and payload and _name_codec(stream) in _TIMED_BY_CONTAINER:
            frame = _decode_first(container, stream)
            packets, is_cut_short = _scan_times(name, file, payload, int(stream.index), heartbeat)
        else:
            packets, frame, is_cut_short = scan_packets(container, stream, heartbeat)
        file.check()
        if frame is None:
            raise DecodeError(name, NOT_DECODED)
        if container.format.name == "mpegts" and ends_inside_packet(read_head(file, HEAD_BYTES), file.num_bytes):
            # The last frame is incomplete.
            packets, is_cut_short = drop_last(packets), True
        average_rate = float(stream.average_rate or 0)
        container_start, stream_start = _read_clock(container, stream)
        return StreamScan(
            kind=container.format.name,
            brand=container.metadata.get("major_brand", "").strip(),
            codec=_name_codec(stream),
            pixel_format=frame.format.name,
            rendering=describe_rendering(frame, int(stream.codec_context.color_trc)),
            display=read_display(frame, stream.sample_aspect_ratio),
            average_rate=average_rate,
            real_rate=float(stream.base_rate or 0) or average_rate,
            tick=float(stream.time_base),
            stream=int(stream.index),
            num_streams=len(container.streams.video),
            has_audio=bool(container.streams.audio),
            timecode=_read_timecode(container, stream),
            recording=read_recording(container, stream),
            hdr=int(stream.codec_context.color_trc) in HDR_TRANSFERS,
            container_start=container_start,
            stream_start=stream_start,
            declared_frames=int(stream.frames),
            declared_end=_read_declared_end(container, stream),
            packets=packets,
            is_cut_short=is_cut_short,
        )


def _choose_stream(path: str, container: Any) -> Any:
    """Return the stream that a player shows, which is never a cover image."""
    streams = list(container.streams.video)
    kind = container.format.name
    if streams and (kind in _IMAGE_FORMATS or kind.endswith("_pipe")):
        raise DecodeError(path, IS_IMAGE)
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
    """Return the first frame, None if there is none."""
    stream.codec_context.thread_count = 1
    return next(decode_all(container, stream), None)


def _scan_times(
    path: str, file: RemoteFile, payload: list[tuple[int, int]], index: int, heartbeat: Callable[[], None]
) -> tuple[Packets, bool]:
    """Return the times of all packets without fetching their contents, and whether the file is cut off."""
    file.skip_ranges(payload)
    with open_container(path, file, parse=False) as container:
        packets, _, is_cut_short = scan_packets(container, container.streams[index], heartbeat, decode=False)
    file.skip_ranges([])
    return packets, is_cut_short


def _read_timecode(container: Any, stream: Any) -> str:
    """Return the timecode of the first frame that a container states, of this stream if possible; empty without one."""
    for part in (stream, *container.streams.data, container):
        for key, value in part.metadata.items():
            if key.lower() == "timecode" and value.strip():
                return str(value.strip())
    return ""


def _read_clock(container: Any, stream: Any) -> tuple[float, float]:
    """Return the start of a player's clock and of the stream, in seconds of the container's timestamps."""
    stream_start = float((stream.start_time or 0) * stream.time_base)
    container_start = read_start(container)
    return stream_start if container_start is None else container_start, stream_start


def _read_declared_end(container: Any, stream: Any) -> float:
    """Return when the last frame ends according to a Matroska header, in seconds; 0 for other formats.

    A truncated Matroska file can be read without an error.
    """
    if not container.format.name.startswith("matroska"):
        return 0.0
    clock = stream.metadata.get("DURATION", "").split(":")
    if len(clock) == 3:
        try:
            return float(clock[0]) * 3600 + float(clock[1]) * 60 + float(clock[2])
        except ValueError:
            return 0.0
    return (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def find_payload(file: io.RawIOBase | io.BufferedIOBase, num_bytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges of coded media as (start, end); empty if they are unknown.

    Reads a few bytes at the start of each box. The file's position afterwards is undefined.
    """
    ranges: list[tuple[int, int]] = []
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if head is None or len(head) < 16:
            return ranges if start == num_bytes else []
        size, kind, large_size = struct.unpack(">I4sQ", head)
        if start == 0 and kind != b"ftyp":
            return []
        header_bytes = 16 if size == 1 else 8
        size = large_size if size == 1 else size or num_bytes - start  # 0 extends to the end of the file
        if size < header_bytes:
            return []
        if kind == b"mdat":
            ranges.append((start + header_bytes, min(start + size, num_bytes)))
        elif kind == b"moof":
            return []
        start = min(start + size, num_bytes)
    return []


def ends_inside_packet(head: bytes, num_bytes: int) -> bool:
    """Return whether a file ends in the middle of a packet; False if it does not start with packets.

    Args:
        head: The first ``HEAD_BYTES`` of the file, or all of a shorter one.
        num_bytes: The size of the file.
    """
    for size, offset in _LAYOUTS:
        syncs = head[offset::size]
        if len(syncs) >= 3 and set(syncs) == {_SYNC}:
            return num_bytes % size > 0
    return False
