"""Packets of containers, boxes made by hand and by films, and transport streams that are cut off."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.video.conftest import NUM_FRAMES, Film
from vidret.video.container import (
    HEAD_BYTES,
    ends_inside_box,
    ends_inside_packet,
    find_payload,
    open_container,
    read_packets,
    scan_packets,
)
from vidret.video.files import open_file


class Growing:
    """A container in which a stream comes up late: PyAV fails at it behind the last packet."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def demux(self, stream: Any) -> Iterator[Any]:
        yield from self._container.demux(stream)
        raise IndexError("list index out of range")


def test_a_stream_that_comes_up_late_costs_no_packet(films: dict[str, Film]) -> None:
    path = str(films["h264.ts"].path)
    with open_file(path) as file, open_container(path, file) as container:
        packets, frame, is_cut_short = scan_packets(Growing(container), container.streams.video[0], lambda: None)
        assert len(packets.pts) == NUM_FRAMES
        assert frame is not None
        assert not is_cut_short
    with open_file(path) as file, open_container(path, file) as container:
        assert len(list(read_packets(Growing(container), container.streams.video[0]))) == NUM_FRAMES


def test_packets_are_the_files_own(films: dict[str, Film]) -> None:
    path = str(films["h264.mp4"].path)
    with open_file(path) as file, open_container(path, file) as container:
        packets = list(read_packets(container, container.streams.video[0]))
    with open_file(path) as file, open_container(path, file) as container:
        scanned, _, _ = scan_packets(container, container.streams.video[0], lambda: None, decode=False)
    assert [packet.pts for packet in packets] == scanned.pts.tolist()
    assert [packet.is_keyframe for packet in packets] == scanned.keyframes.tolist()


def box(kind: bytes, content: bytes, *, large: bool = False, size: int | None = None) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


START = box(b"ftyp", b"isom0000")


def payload(data: bytes) -> list[bytes]:
    return [data[start:end] for start, end in find_payload(io.BytesIO(data), len(data))]


@pytest.mark.parametrize("large", [False, True])
def test_the_payload_is_what_lies_in_mdat(large: bool) -> None:
    pictures = box(b"mdat", b"pictures" * 9, large=large)
    assert payload(START + pictures + box(b"moov", b"m" * 30)) == [b"pictures" * 9]
    assert payload(START + box(b"moov", b"m" * 30) + pictures) == [b"pictures" * 9]
    assert payload(START + pictures + pictures + box(b"moov", b"m" * 30)) == [b"pictures" * 9] * 2
    assert payload(START + box(b"moov", b"m" * 30) + box(b"mdat", b"to the end", size=0)) == [b"to the end"]
    assert payload((START + box(b"moov", b"m" * 30) + box(b"mdat", bytes(900)))[:400]) == [bytes(400 - 54 - 8)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no boxes at all, but text",
        START[:10],
        START + box(b"moov", b"") + box(b"moof", b"f" * 20) + box(b"mdat", b"p" * 20),
        START + box(b"mdat", b"p" * 20) + box(b"bad!", b"", size=3) + bytes(20),
        START + box(b"mdat", b"p" * 20) * 40,
    ],
)
def test_where_that_is_not_known_nothing_is_left_out(data: bytes) -> None:
    assert payload(data) == []


def test_a_box_that_the_file_does_not_hold_completely() -> None:
    data = START + box(b"moov", b"m" * 30) + box(b"mdat", b"p" * 30)
    for end in range(len(data) - 20, len(data)):
        assert ends_inside_box(io.BytesIO(data[:end]), end)
    for whole in (b"", data, data + box(b"mdat", b"to the end", size=0), data + box(b"bad!", b"", size=3)):
        assert not ends_inside_box(io.BytesIO(whole), len(whole))


def test_films(films: dict[str, Film]) -> None:
    for name, film in films.items():
        found = payload(film.path.read_bytes())
        has_payload = Path(name).suffix in (".mp4", ".mov") and name != "h264_fragments.mp4"
        assert bool(found) == has_payload, name


@pytest.mark.parametrize(("size", "before"), [(188, 0), (192, 4), (204, 0)])
@pytest.mark.parametrize("num_packets", [3, 10])
def test_packets_of_each_length_are_counted(size: int, before: int, num_packets: int) -> None:
    packet = bytes(before) + b"G" + bytes(size - before - 1)
    data = packet * num_packets
    for end in (len(data), len(data) + 1, len(data) + size - 1):
        content = (data + packet)[:end]
        assert ends_inside_packet(content[:HEAD_BYTES], len(content)) == (end % size > 0)
    for data in (b"", b"G", bytes(2000), b"G" + bytes(187) + b"G", bytes(7) + (b"G" + bytes(187)) * 9):
        assert not ends_inside_packet(data[:HEAD_BYTES], len(data)), "no packets"
