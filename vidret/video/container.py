"""Packets and frames of a container, read with PyAV in file order; and the date, place and camera of a recording."""

import io
import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import av
import numpy as np
from jaxtyping import Int64

from vidret.errors import DecodeError
from vidret.video import files
from vidret.video.files import SourceFile
from vidret.video.timeline import MISSING, Packets

_MAJOR = int(av.__version__.split(".")[0])

# Metadata need not be valid text. PyAV 19 always replaces invalid bytes, and no longer has this argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if _MAJOR < 19 else {}

# PyAV 17 converts colours in its own threads, which hang in a forked process and compete with other workers.
ONE_THREAD: dict[str, Any] = {"threads": 1} if _MAJOR >= 17 else {}

# Formats whose files name others. The protocol whitelist does not stop FFmpeg 7.1's DASH reader from opening these.
_PLAYLISTS = {"hls", "dash", "concat", "imf", "sdp", "rtsp", "vobsub", "webm_dash_manifest"}
FORMATS = ",".join(sorted(av.formats_available - _PLAYLISTS))
_PLAYLIST_SIGNATURES = (b"#EXTM3U", b"ffconcat version", b"<MPD")
_SNIFFED_BYTES = 1024
_IS_PLAYLIST = "is a playlist, not a video"
NO_OFFSETS = np.zeros(0, dtype=np.int64)
NOT_DECODED = "no frame could be decoded"

_MAX_BOXES = 32  # files with more are fragmented: times are spread over the file, and all of it must be read
HEAD_BYTES = 1020  # five of the longest packets of an MPEG transport stream
_SYNC = 0x47
# Bytes of a packet, and its bytes before the sync byte: plain, with a time code as on Blu-ray, with parity at the end.
_LAYOUTS = ((188, 0), (192, 4), (204, 0))

FIRST_YEAR, LAST_YEAR = 1990, 2100  # of plausible dates; others come from cameras whose clock is not set
# In order of preference. Apple's has the local time zone; QuickTime's and Matroska's are in UTC.
DATE_KEYS = ("com.apple.quicktime.creationdate", "creation_time", "date", "date_utc")
PLACE_KEYS = ("com.apple.quicktime.location.iso6709", "location", "location-eng")
MAKE_KEYS = ("com.apple.quicktime.make", "com.android.manufacturer", "make")
MODEL_KEYS = ("com.apple.quicktime.model", "com.android.model", "model", "camera_model_name")
MAX_CAMERA = 60  # characters


class DamagedPacketError(Exception):
    """A packet failed to decode."""


def open_container(path: str, file: SourceFile, *, parse: bool = True) -> Any:
    """Open a container from its beginning. A playlist is rejected, and nothing that it refers to is opened.

    The caller closes the file. Without ``parse``, packets are not parsed for fields that the container lacks. Raise
    DecodeError if the file is not a video, its index is missing, or it is a playlist.
    """
    # No protocol has this name, so that a file cannot make FFmpeg open another one.
    options = {"protocol_whitelist": "none", "format_whitelist": FORMATS} | (
        {} if parse else {"fflags": "noparse+nofillin"}
    )
    file.seek(0)
    try:
        # Not `options`: PyAV before 18 frees codec options twice.
        container = av.open(file, container_options=options, **LENIENT_METADATA)
        file.check()
    except MemoryError:  # in PyAV also an FFmpegError, and no fault of the file
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        file.check()
        raise DecodeError(path, _explain_unopened(files.read_head(file, _SNIFFED_BYTES))) from error
    return container


def read_start(container: Any) -> float | None:
    """Return the container time at which a player's clock starts, in seconds; None if it declares none.

    Before version 8, FFmpeg includes the priming of audio in Matroska, which is before 0 and is not played.
    """
    if container.start_time is None:
        return None
    start_s = container.start_time / av.time_base
    return max(start_s, 0.0) if container.format.name.startswith("matroska") else float(start_s)


def read_declared_end(container: Any, stream: Any) -> float:
    """Return the declared end of a stream of Matroska, or of an AVI that is cut off, in seconds; 0 for others."""
    if container.format.name == "avi" and 0 < (stream.duration or 0) < stream.frames:  # FFmpeg corrects it by file size
        return float(stream.frames * stream.time_base)
    if not container.format.name.startswith("matroska"):
        return 0.0
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        return float(clock[1]) * 3600 + float(clock[2]) * 60 + float(clock[3])
    return (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def _explain_unopened(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "its index is missing: truncated, or never finished"
    return _IS_PLAYLIST if any(mark in head for mark in _PLAYLIST_SIGNATURES) else "is not a video"


def decode_all(
    container: Any,
    stream: Any,
    heartbeat: Callable[[], None] = lambda: None,
    offsets: Int64[np.ndarray, " packet"] = NO_OFFSETS,
) -> Iterator[Any]:
    """Yield the decoded frames from the position of the container to its end, skipping packets that fail to decode.

    With ``offsets``, see ``VideoInfo.clock_offsets``, the container must be at its beginning.
    """
    return decode_packets(stream, read_packets(container, stream, heartbeat, offsets))


def decode_packets(stream: Any, packets: Iterable[Any], *, skip_damaged: bool = True) -> Iterator[Any]:
    """Yield the decoded frames of a stream's packets, skipping packets that fail to decode.

    Raise DamagedPacketError if a packet fails to decode and ``skip_damaged`` is false.
    """
    for packet in packets:
        yield from _decode(stream, packet, skip_damaged=skip_damaged)
    yield from _decode(stream, None, skip_damaged=skip_damaged)


def read_packets(
    container: Any,
    stream: Any,
    heartbeat: Callable[[], None] = lambda: None,
    offsets: Int64[np.ndarray, " packet"] = NO_OFFSETS,
) -> Iterator[Any]:
    """Yield a stream's packets to the end of the file, or to where it is cut off."""
    try:
        for index, packet in enumerate(_demux(container, stream)):
            heartbeat()
            if len(offsets) and packet.pts is not None:
                packet.pts += int(offsets[min(index, len(offsets) - 1)])
            yield packet
    except (av.FFmpegError, OSError, ValueError):
        return


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    """Yield a stream's packets to the end of the file."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except IndexError:  # PyAV raises it after the last packet if streams appeared that the header does not list
        return


def _decode(stream: Any, packet: Any, *, skip_damaged: bool = True) -> list[Any]:
    try:
        frames = list(stream.codec_context.decode(packet))
    except (av.FFmpegError, ValueError) as error:
        if skip_damaged:
            return []
        raise DamagedPacketError from error
    if not skip_damaged and any(frame.is_corrupt for frame in frames):
        raise DamagedPacketError
    return frames


def scan_packets(
    container: Any, stream: Any, heartbeat: Callable[[], None], *, decode: bool = True
) -> tuple[Packets, Any, bool]:
    """Return all packets, the first decoded frame (None without ``decode``), and whether the file is cut off."""
    stream.codec_context.thread_count = 1
    rows = array("q")
    frame, is_cut_short, is_vp8 = None, False, stream.codec_context.name == "vp8"
    try:
        for packet in _demux(container, stream):
            heartbeat()
            if frame is None and decode:
                frame = next(iter(_decode(stream, packet)), None)
            # VP8 stores its hidden reference frames in separate packets.
            if not (is_vp8 and not bytes(packet)[0] & 0x10):
                pts = MISSING if packet.pts is None else packet.pts
                dts = MISSING if packet.dts is None else packet.dts
                rows.extend((pts, dts, packet.duration or 0, packet.size))
                rows.extend((packet.is_keyframe, packet.is_discard, packet.is_corrupt))
    except (av.FFmpegError, OSError, ValueError):
        is_cut_short = True
    if frame is None and decode:
        frame = next(iter(_decode(stream, None)), None)
    pts, dts, durations, num_bytes, *flags = np.array(rows, dtype=np.int64).reshape(-1, 7).T.copy()
    keyframes, discarded, corrupt = (flag.astype(bool) for flag in flags)
    # A packet that is cut off by the end of the file holds at most a part of a frame.
    end = len(corrupt) - int(np.argmin(corrupt[::-1])) if not corrupt.all() else 0
    packets = Packets(*(column[:end] for column in (pts, dts, durations, keyframes, discarded, num_bytes)))
    return packets, frame, is_cut_short or end < len(corrupt)


def find_payload(file: io.RawIOBase | io.BufferedIOBase, num_bytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges of coded media in an MP4 or MOV file as (start, end); empty if they are unknown.

    The times of frames can be read without them. Only a few bytes of each box are read; the file's position is
    undefined afterwards.
    """
    ranges: list[tuple[int, int]] = []
    box_end = 0
    for kind, start, end in islice(_read_boxes(file, num_bytes), _MAX_BOXES):
        if kind == b"moof" or (box_end == 0 and kind != b"ftyp"):
            return []
        if kind == b"mdat":
            ranges.append((start, min(end, num_bytes)))
        box_end = end
    return ranges if box_end >= num_bytes else []


def ends_inside_box(file: io.RawIOBase | io.BufferedIOBase, num_bytes: int) -> bool:
    """Return whether an MP4 or MOV file is cut off, even if between two frames, which FFmpeg does not report."""
    return max((end for _, _, end in _read_boxes(file, num_bytes)), default=0) > num_bytes


def _read_boxes(file: io.RawIOBase | io.BufferedIOBase, num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each top-level box, and where its content starts and ends by its header, in bytes."""
    start = 0
    while start < num_bytes:
        file.seek(start)
        head = file.read(16)
        if head is None or len(head) < 16:
            return
        size, kind, large_size = struct.unpack(">I4sQ", head)
        header_bytes = 16 if size == 1 else 8
        size = large_size if size == 1 else size or num_bytes - start  # 0 extends to the end of the file
        if size < header_bytes:
            return
        yield kind, start + header_bytes, start + size
        start += size


def ends_inside_packet(head: bytes, num_bytes: int) -> bool:
    """Return whether a file, given its first ``HEAD_BYTES``, is a transport stream that ends inside a packet.

    FFmpeg does not report it.
    """
    for size, offset in _LAYOUTS:
        syncs = head[offset::size]
        if len(syncs) >= 3 and set(syncs) == {_SYNC}:
            return num_bytes % size > 0
    return False


def read_recording(container: Any, stream: Any) -> dict[str, str | float | None]:
    """Return ``filmed``, ``camera``, ``latitude`` and ``longitude`` of ``VideoInfo``.

    They are read from an open container of PyAV and its video stream; tags of the container take precedence.
    """
    # FFmpeg 9 joins the values of a tag that a file has twice, such as a date in its header and in a separate tag.
    pairs = (pair for part in (stream, container) for pair in part.metadata.items())
    tags = {key.lower(): value.partition(";")[0].strip() for key, value in pairs}
    latitude, longitude = parse_place(_find_tag(tags, PLACE_KEYS)) or (None, None)
    make, model = _find_tag(tags, MAKE_KEYS), _find_tag(tags, MODEL_KEYS)
    camera = model if model.casefold().startswith(make.casefold()) else f"{make} {model}".strip()
    dates = (parse_date(tags.get(key, "")) for key in DATE_KEYS)
    filmed = next(filter(None, dates), "")
    return {"filmed": filmed, "camera": camera[:MAX_CAMERA], "latitude": latitude, "longitude": longitude}


def _find_tag(tags: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((tags[key] for key in keys if tags.get(key)), "")


def parse_date(text: str) -> str:
    """Return a date and time in ISO 8601, in UTC if it has no time zone; empty unless it is a plausible date.

    >>> parse_date("2024-05-01T12:00:00+0200"), parse_date("2024-05-01T10:00:00.000000Z"), parse_date("2019")
    ('2024-05-01T12:00:00+02:00', '2024-05-01T10:00:00+00:00', '')
    >>> parse_date("1904-01-01T00:00:00Z"), parse_date("2024-05-01")
    ('', '2024-05-01T00:00:00+00:00')
    """
    if re.match(r"\d{4}-\d\d-\d\d", text) is None:
        return ""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return ""
    date = date.replace(microsecond=0, tzinfo=date.tzinfo or UTC)
    return date.isoformat() if FIRST_YEAR <= date.year < LAST_YEAR else ""


def parse_place(text: str) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees of a place in ISO 6709; None if the text is not one.

    >>> parse_place("+48.1371+011.5754+519.000/"), parse_place("-33.86+151.21/"), parse_place("Munich")
    ((48.1371, 11.5754), (-33.86, 151.21), None)
    """
    match = re.match(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)(?![\d.])", text)
    if match is None:
        return None
    latitude, longitude = map(float, match.groups())
    is_place = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0)
    return (latitude, longitude) if is_place else None
