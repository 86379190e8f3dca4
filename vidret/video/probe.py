"""Probe a video file: the exact times of its frames, its rate, size and rotation.

Times come from packet timestamps, never from index / rate, so that uneven rates and edit lists are exact. Only the
first frame is decoded, for its size and rotation; all frames are decoded only if timestamps cannot tell them apart.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from av.stream import Disposition
from jaxtyping import Bool, Float64, Int64

from vidret.errors import DecodeError
from vidret.video import files, timeline
from vidret.video.container import (
    HEAD_BYTES,
    NO_OFFSETS,
    NOT_DECODED,
    decode_all,
    ends_inside_box,
    ends_inside_packet,
    find_payload,
    open_container,
    read_declared_end,
    read_recording,
    read_start,
    scan_packets,
)
from vidret.video.files import SourceFile
from vidret.video.geometry import read_display
from vidret.video.ranges import RemoteFile
from vidret.video.rendering import HDR_TRANSFERS, describe_rendering
from vidret.video.timeline import Packets

_IS_IMAGE = "is a picture, not a video"
_IMAGE_FORMATS = {"image2", "tty"}
# In MP4 and MOV the timestamps of these codecs do not depend on packet contents: measured field by field.
_TIMED_BY_CONTAINER = {"h264", "hevc", "av1", "vp9", "prores", "mjpeg", "mpeg4", "mpeg2video"}
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9", "libvpx": "vp8"}
_SINGLE_IMAGE_FORMATS = {"mjpeg", "mpjpeg", "apng", "gif", "jpegxl_anim"}
_STILL_BRANDS = {"avif", "heic", "heix", "mif1"}
# The clock of these formats may restart, so that recordings can be concatenated.
_RESTARTING_FORMATS, _RESTARTING_TICK_S = {"mpegts", "mpeg"}, 1 / 90_000
_FALLBACK_RATE, _MAX_RATE = 25.0, 1000.0  # frames per second
_MISSING_TOLERANCE_S = 1.0
_MIN_ORDERED = 48  # frames that must be in order, of a codec that reorders them; more than any codec reorders
# Upper bounds for a packet in which every block of 16 x 16 pixels is skipped.
_STILL_BYTES, _STILL_BYTES_PER_BLOCK = 44, 0.0075
_CLOCK_STEP_S = 1e-6  # FFmpeg rounds the start of a container to this


@dataclass(frozen=True, slots=True, eq=False)
class VideoInfo:
    """Facts about a video file. Frame ``k`` is the k-th that a player shows, at ``times[k]`` seconds.

    Attributes:
        path: The path or URL.
        num_bytes: The size of the file.
        container: FFmpeg's names of the format, separated by commas.
        codec: The name of the codec.
        pixel_format: FFmpeg's name of the pixel format.
        rendering: The conversion that only PyAV applies to its frames, see ``describe_rendering``; empty if none.
        width: The displayed width in pixels.
        height: The displayed height in pixels.
        rotation: Degrees by which frames are rotated clockwise, after they are stretched and mirrored.
        mirrored: Frames are displayed mirrored left to right.
        stretched: Frames have pixels that are not square.
        start: When the first frame is shown, in seconds on a player's clock, which starts with the container's earliest
            stream: above 0 if sound begins earlier.
        duration: When the last frame ends, in seconds on that clock.
        average_rate: Frames per second, as the container declares.
        real_rate: FFmpeg's guess at the rate of the smallest frame step.
        variable_rate: Frames are not evenly spaced.
        edit_list: An edit list removes frames.
        open_gop: A frame is stored after a keyframe but shown before it.
        reordered: Frames are stored in another order than they are shown in (B-frames).
        by_order: Timestamps do not tell frames apart, so that a frame is known only by its position.
        longest_group: The longest time without a keyframe, in seconds.
        clock_restarts: How often the clock restarts. ``times`` and ``pts`` continue across restarts.
        num_frames: The number of shown frames.
        stream: The index of the video stream.
        num_streams: The number of video streams.
        has_audio: The file has an audio stream.
        timecode: The timecode of the first frame, such as ``01:00:00:00``, as the container states it; empty if it does
            not.
        filmed: When the recording began, in the form of ISO 8601 with a time zone; empty if unknown.
        camera: Make and model, empty if unknown.
        latitude: In degrees, positive in the north; None if unknown.
        longitude: In degrees, positive in the east; None if unknown.
        hdr: The video has a high dynamic range: its transfer function is PQ or HLG.
        transfer: Its transfer function, a number of ITU-T H.273.
        damage: A description of the damage, empty for an intact file.
        times: When frames begin, in seconds on a player's clock.
        pts: Timestamps in ticks, in presentation order.
        keyframes: Which frames are keyframes.
        still: Which frames hardly differ from the one before, judging by the sizes of packets, and are no reference of
            another; see ``timeline.find_still``.
        clock_offsets: Ticks added to the timestamps of each packet, in file order; empty if the clock never restarts.
    """

    path: str
    num_bytes: int
    container: str
    codec: str
    pixel_format: str
    rendering: str
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
    longest_group: float
    clock_restarts: int
    num_frames: int
    stream: int
    num_streams: int
    has_audio: bool
    timecode: str
    filmed: str
    camera: str
    latitude: float | None
    longitude: float | None
    hdr: bool
    transfer: int
    damage: str
    times: Float64[np.ndarray, " frame"]
    pts: Int64[np.ndarray, " frame"]
    keyframes: Bool[np.ndarray, " frame"]
    still: Bool[np.ndarray, " frame"]
    clock_offsets: Int64[np.ndarray, " packet"]

    @property
    def shown_seconds(self) -> float:
        """Return the time from the start of the first frame to the end of the last, in seconds."""
        return self.duration - self.start

    @property
    def mean_rate(self) -> float:
        """Return the declared frames per second, or the measured ones if the container declares none."""
        return self.average_rate or self.num_frames / max(self.shown_seconds, 1e-6)

    @property
    def num_pixels(self) -> int:
        """Return the number of pixels of a frame."""
        return self.width * self.height

    @property
    def unbroken_seconds(self) -> float:
        """Return the time from the start of the first frame to the first gap, where even sampling ends, in seconds."""
        return timeline.first_gap_start(self.times, self.duration) - self.start

    @property
    def section_offsets_s(self) -> list[float]:
        """Return the seconds added to the timestamps of each section between restarts of the clock; empty if none."""
        is_first = np.diff(self.clock_offsets, prepend=self.clock_offsets[:1] - 1) != 0
        return [float(offset) * _RESTARTING_TICK_S for offset in self.clock_offsets[is_first]]

    def facts(self) -> dict[str, str | int | float | bool]:
        """Return all known fields except the arrays, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, np.ndarray | None)}


def probe(path: str | Path, *, heartbeat: Callable[[], None] | None = None) -> VideoInfo:
    """Return the facts about a regular file, a link to one, or a file at a URL; DecodeError if it is no readable video.

    Of MP4 and MOV files at URLs only the index is read; other formats are read completely. ``heartbeat`` is called for
    every packet, so that a watchdog does not fire during long work.
    """
    name = os.fspath(path)
    with files.open_file(name) as file:
        return _inspect(name, file, heartbeat or (lambda: None))


def _inspect(name: str, file: SourceFile, heartbeat: Callable[[], None]) -> VideoInfo:
    if file.num_bytes == 0:
        raise DecodeError(name, "is empty")
    scan = _scan(name, file, heartbeat)
    facts, packets, offsets = scan.facts, scan.packets, NO_OFFSETS
    kind = facts["container"]
    if kind in _RESTARTING_FORMATS:
        packets, offsets = timeline.follow_restarts(packets, scan.tick)
    packets, num_outliers = timeline.discard_outliers(packets)
    by_order = not timeline.has_unique_timestamps(packets) or (kind == "avi" and not packets.keyframes.all())
    if scan.reorders and not by_order and timeline.rises(packets.pts):
        by_order = _has_decoding_times(name, file, facts["stream"], offsets)
    pts, keyframes = (
        _count_frames(name, file, facts["stream"], heartbeat, offsets) if by_order else timeline.sort_frames(packets)
    )
    if len(pts) == 0:
        raise DecodeError(name, NOT_DECODED)
    stream_start = scan.stream_start if by_order else None
    if by_order and kind == "avi" and len(pts) == len(packets.dts) and timeline.rises(packets.dts):
        # An AVI shows one frame per chunk, at the time of the chunk; FFmpeg guesses other times where it is reordered.
        pts, stream_start = packets.dts, None
    if len(pts) == 1 and (kind in _SINGLE_IMAGE_FORMATS or scan.brand in _STILL_BRANDS):
        raise DecodeError(name, _IS_IMAGE)
    tick, frame_s = scan.tick, 1 / (facts["average_rate"] or _FALLBACK_RATE)
    if by_order and not timeline.rises(pts):
        # Timestamps that do not rise are useless: assume a constant rate.
        pts, tick = np.arange(len(pts)), frame_s
    first = float(pts[0]) * tick
    first_s = first if stream_start is None else stream_start
    start = 0.0 if scan.container_start is None else first_s - scan.container_start
    start = start if start > _CLOCK_STEP_S else 0.0
    times = (pts - pts[0]) * tick + start
    duration = float(times[-1]) + (timeline.last_frame_duration(packets, pts) * tick or frame_s)
    is_cut_short = scan.is_cut_short or scan.declared_end - (first + duration - start) > _MISSING_TOLERANCE_S
    gaps = timeline.find_gaps(times, duration)
    open_gop, still = timeline.has_leading_frames(packets), np.zeros(len(pts), dtype=bool)
    if not (by_order or open_gop):  # otherwise packets do not show which frames are still
        num_blocks = facts["width"] * facts["height"] / 256
        still = timeline.find_still(packets, _STILL_BYTES + _STILL_BYTES_PER_BLOCK * num_blocks)
    return VideoInfo(
        path=name,
        num_bytes=file.num_bytes,
        **facts,
        start=start,
        duration=duration,
        variable_rate=timeline.has_variable_rate(pts),
        edit_list=bool(scan.packets.discarded.any()),
        open_gop=open_gop,
        reordered=timeline.is_reordered(packets),
        by_order=by_order,
        longest_group=float(np.diff([start, *times[keyframes], duration]).max()),
        clock_restarts=int(np.count_nonzero(np.diff(offsets))),
        num_frames=len(pts),
        damage=_describe_damage(len(pts), scan.declared_frames, is_cut_short, gaps, num_outliers),
        times=times,
        pts=pts,
        keyframes=keyframes,
        still=still,
        clock_offsets=offsets,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """The result of one pass over a container.

    Times are in seconds of the container's timestamps; those of ``packets`` are in ticks of ``tick`` seconds.
    ``declared_end`` is the end of the last frame according to the header, 0 if unknown. ``facts`` are the fields of
    ``VideoInfo`` that come from the header and the first frame. ``reorders`` is whether the codec says that it stores
    frames in another order than they are shown in.
    """

    facts: dict[str, Any]
    brand: str
    tick: float
    container_start: float | None
    stream_start: float
    declared_frames: int
    declared_end: float
    packets: Packets
    reorders: bool
    is_cut_short: bool


def _scan(name: str, file: SourceFile, heartbeat: Callable[[], None]) -> _Scan:
    """Read the packets of a video, and decode its first frame."""
    payload = find_payload(file, file.num_bytes) if isinstance(file, RemoteFile) else []
    with open_container(name, file) as container:
        stream = _choose_stream(name, container)
        kind, context = container.format.name, stream.codec_context
        codec = _CODECS.get(context.name, str(context.name))
        if isinstance(file, RemoteFile) and payload and codec in _TIMED_BY_CONTAINER:
            context.thread_count = 1
            frame = next(decode_all(container, stream), None)
            packets, is_cut_short = _scan_times(name, file, payload, int(stream.index), heartbeat)
        else:
            packets, frame, is_cut_short = scan_packets(container, stream, heartbeat)
        file.check()
        if frame is None:
            raise DecodeError(name, NOT_DECODED)
        if kind == "mpegts" and ends_inside_packet(files.read_head(file, HEAD_BYTES), file.num_bytes):
            packets, is_cut_short = timeline.drop_last(packets), True  # the last frame is incomplete
        # Boxes of a fragmented file at a URL are not looked for: they are spread over all of it.
        lacks_frames = not stream.frames or len(packets.dts) < stream.frames
        if kind.startswith("mov") and lacks_frames and (payload or not isinstance(file, RemoteFile)):
            is_cut_short = is_cut_short or ends_inside_box(file, file.num_bytes)
        # For raw DV and some WMV, FFmpeg states the rate of ticks as the frame rate.
        stated = (float(rate) for rate in (stream.average_rate, stream.base_rate) if rate and rate < _MAX_RATE)
        average_rate, transfer = next(stated, 0.0), int(context.color_trc)
        stream_start = float((stream.start_time or 0) * stream.time_base)
        facts = {
            "container": kind,
            "codec": codec,
            "pixel_format": frame.format.name,
            "rendering": describe_rendering(frame, transfer),
            "average_rate": average_rate,
            "real_rate": float(stream.base_rate or 0) or average_rate,
            "stream": int(stream.index),
            "num_streams": len(container.streams.video),
            "has_audio": bool(container.streams.audio),
            "timecode": _read_timecode(container, stream),
            "hdr": transfer in HDR_TRANSFERS,
            "transfer": transfer,
            **read_display(frame, stream.sample_aspect_ratio),
            **read_recording(container, stream),
        }
        return _Scan(
            facts=facts,
            brand=container.metadata.get("major_brand", "").strip(),
            tick=float(stream.time_base),
            container_start=read_start(container),
            stream_start=stream_start,
            declared_frames=int(stream.frames),
            declared_end=read_declared_end(container, stream),
            packets=packets,
            reorders=bool(context.has_b_frames),
            is_cut_short=is_cut_short,
        )


def _choose_stream(path: str, container: Any) -> Any:
    """Return the stream that a player shows, which is never a cover image."""
    streams = list(container.streams.video)
    kind = container.format.name
    if streams and (kind in _IMAGE_FORMATS or kind.endswith("_pipe")):
        raise DecodeError(path, _IS_IMAGE)
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise DecodeError(path, "holds only a cover picture, no video" if streams else "holds no video")
    decodable = [stream for stream in moving if stream.codec_context is not None]
    if not decodable:
        raise DecodeError(path, "its video codec is unknown")
    best = container.streams.best("video")
    return best if best in decodable else decodable[0]


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
    """Return the timecode of the first frame, from this stream's metadata if possible; empty if there is none."""
    for part in (stream, *container.streams.data, container):
        for key, value in part.metadata.items():
            if key.lower() == "timecode" and value.strip():
                return str(value.strip())
    return ""


def _has_decoding_times(path: str, file: SourceFile, index: int, offsets: Int64[np.ndarray, " packet"]) -> bool:
    """Return whether timestamps are those of decoding, as some programs write them: the first frames are not in order.

    Only a few frames are decoded.
    """
    with open_container(path, file) as container:
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        stamps = [frame.pts for frame in islice(decode_all(container, stream, offsets=offsets), _MIN_ORDERED)]
    return None not in stamps and any(later < stamp for stamp, later in pairwise(stamps))


def _count_frames(
    path: str, file: SourceFile, index: int, heartbeat: Callable[[], None], offsets: Int64[np.ndarray, " packet"]
) -> tuple[Int64[np.ndarray, " frame"], Bool[np.ndarray, " frame"]]:
    """Return the timestamps of all frames and which are keyframes, by decoding the whole file."""
    with open_container(path, file) as container:
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        stamps = [frame.pts for frame in decode_all(container, stream, heartbeat, offsets)]
    file.check()
    if None in stamps:
        stamps = [0] * len(stamps)
    return np.array(stamps, dtype=np.int64), np.arange(len(stamps)) == 0


def _describe_damage(
    num_frames: int, declared: int, is_cut_short: bool, gaps: Float64[np.ndarray, "gap 2"], num_outliers: int
) -> str:
    reasons = []
    if is_cut_short and declared > num_frames:
        reasons.append(f"{num_frames} of {declared} frames could be read: truncated")
    elif is_cut_short:
        reasons.append(f"only the first {num_frames} frames could be read: truncated")
    if len(gaps):
        others = f", and in {len(gaps) - 1} other gap{'s' * (len(gaps) > 2)}" if len(gaps) > 1 else ""
        reasons.append(f"shows no new frame from {gaps[0, 0]:.0f} s to {gaps[0, 1]:.0f} s{others}")
    if num_outliers:
        reasons.append(f"{num_outliers} frame{'s have' if num_outliers > 1 else ' has'} a damaged timestamp")
    return "; ".join(reasons)
