"""One open container with PyAV: its packets in the order of the file, and their frames."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import av
import numpy as np
from jaxtyping import Int64

from vidret.errors import DecodeError
from vidret.video import files
from vidret.video.files import SourceFile
from vidret.video.pyav import LENIENT_METADATA
from vidret.video.timeline import MISSING, Packets

_PLAYLISTS = {"hls", "dash", "concat"}
_PLAYLIST_MARKS = (b"#EXTM3U", b"ffconcat version", b"<MPD")
_SNIFFED_BYTES = 1024
_IS_PLAYLIST = "is a playlist, not a video"
NO_OFFSETS = np.zeros(0, dtype=np.int64)


def open_container(path: str, file: SourceFile, *, parse: bool = True) -> Any:
    """Open a container with PyAV from its beginning; a playlist is refused, and nothing that it names is opened.

    Args:
        path: The path or address, for errors.
        file: The open file, which stays the caller's to close.
        parse: Look into packets for what the container does not say of them.

    Raises:
        DecodeError: Why it cannot be opened, in a few words.
    """
    # No protocol has this name: what is read here leads nowhere else.
    options = {"protocol_whitelist": "none"} | ({} if parse else {"fflags": "noparse+nofillin"})
    file.seek(0)
    try:
        # Options for codecs, too, would be freed twice by PyAV before 18.
        container = av.open(file, container_options=options, **LENIENT_METADATA)
        file.check()
    except MemoryError:  # PyAV's is an FFmpegError, too, and says nothing about the file
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        file.check()
        raise DecodeError(path, _explain_unopened(files.read_head(file, _SNIFFED_BYTES))) from error
    if container.format.name in _PLAYLISTS:
        container.close()
        raise DecodeError(path, _IS_PLAYLIST)
    return container


def _explain_unopened(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "its index is missing: truncated, or never finished"
    return _IS_PLAYLIST if any(mark in head for mark in _PLAYLIST_MARKS) else "is not a video"


def decode_all(
    container: Any,
    stream: Any,
    heartbeat: Callable[[], None] = lambda: None,
    offsets: Int64[np.ndarray, " packet"] = NO_OFFSETS,
) -> Iterator[Any]:
    """Decode from where the container stands to its end, stepping over packets that do not decode.

    With ``offsets``, as ``VideoInfo.clock_offsets`` has them, it must stand at its beginning.
    """

    def packets() -> Iterator[Any]:
        for packet in read_packets(container, stream, offsets):
            heartbeat()
            yield packet

    return decode_packets(stream, packets())


def decode_packets(stream: Any, packets: Iterable[Any]) -> Iterator[Any]:
    """Decode a stream's packets to their end, stepping over those that do not decode."""
    for packet in packets:
        yield from _decode(stream, packet)
    yield from _decode(stream, None)


def read_packets(container: Any, stream: Any, offsets: Int64[np.ndarray, " packet"] = NO_OFFSETS) -> Iterator[Any]:
    """Read a stream's packets as far as the file goes: where it breaks off, they end."""
    try:
        for number, packet in enumerate(_demux(container, stream)):
            if len(offsets) and packet.pts is not None:
                packet.pts += int(offsets[min(number, len(offsets) - 1)])
            yield packet
    except (av.FFmpegError, OSError, ValueError):
        return


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    """Read a stream's packets to the end of the file.

    Raises:
        av.FFmpegError, OSError, ValueError: The file breaks off.
    """
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except IndexError:  # PyAV, behind the last packet, where streams came up that the file's beginning does not name
        return


def _decode(stream: Any, packet: Any) -> list[Any]:
    try:
        return list(stream.codec_context.decode(packet))
    except (av.FFmpegError, ValueError):
        return []


def scan_packets(
    container: Any, stream: Any, heartbeat: Callable[[], None], *, decode: bool = True
) -> tuple[Packets, Any, bool]:
    """Read all packets, and decode up to the first frame; say whether the file breaks off."""
    stream.codec_context.thread_count = 1
    columns = [array("q"), array("q"), array("q"), array("b"), array("b"), array("b")]
    frame, is_cut_short, is_vp8 = None, False, stream.codec_context.name == "vp8"
    try:
        for packet in _demux(container, stream):
            heartbeat()
            if frame is None and decode:
                frame = next(iter(_decode(stream, packet)), None)
            # VP8 keeps its hidden reference pictures in packets of their own.
            if not (is_vp8 and not bytes(packet)[0] & 0x10):
                pts = MISSING if packet.pts is None else packet.pts
                dts = MISSING if packet.dts is None else packet.dts
                flags = (packet.is_keyframe, packet.is_discard, packet.is_corrupt)
                for column, value in zip(columns, (pts, dts, packet.duration or 0, *flags), strict=True):
                    column.append(value)
    except (av.FFmpegError, OSError, ValueError):
        is_cut_short = True
    if frame is None and decode:
        frame = next(iter(_decode(stream, None)), None)
    pts, dts, durations = (np.array(column, dtype=np.int64) for column in columns[:3])
    keyframes, discarded, corrupt = (np.array(column, dtype=bool) for column in columns[3:])
    # A packet that the end of the file cut in two shows half a frame at best.
    end = len(corrupt) - int(np.argmin(corrupt[::-1])) if not corrupt.all() else 0
    packets = Packets(pts[:end], dts[:end], durations[:end], keyframes[:end], discarded[:end])
    return packets, frame, is_cut_short or end < len(corrupt)
