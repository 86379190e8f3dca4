"""Proof for vidret/video/stream_scan.py: boxes made by hand and by films, transport streams that are cut off."""

import io
import struct
from pathlib import Path

import pytest

from tests.video.conftest import Film
from vidret.video.stream_scan import HEAD_BYTES, ends_inside_packet, find_payload


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


def test_a_file_cut_in_its_payload_has_what_is_left() -> None:
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


def test_films(films: dict[str, Film]) -> None:
    for name, film in films.items():
        found = payload(film.path.read_bytes())
        whole = Path(name).suffix in (".mp4", ".mov") and name != "h264_fragments.mp4"
        assert bool(found) == whole, name


@pytest.mark.parametrize(("size", "before"), [(188, 0), (192, 4), (204, 0)])
@pytest.mark.parametrize("num_packets", [3, 10])
def test_packets_of_each_length_are_counted(size: int, before: int, num_packets: int) -> None:
    packet = bytes(before) + b"G" + bytes(size - before - 1)
    data = packet * num_packets
    for end in (len(data), len(data) + 1, len(data) + size - 1):
        whole = (data + packet)[:end]
        assert ends_inside_packet(whole[:HEAD_BYTES], len(whole)) == (end % size > 0)


@pytest.mark.parametrize("data", [b"", b"G", bytes(2000), b"G" + bytes(187) + b"G", bytes(7) + (b"G" + bytes(187)) * 9])
def test_of_what_is_no_packet_nothing_is_said(data: bytes) -> None:
    assert not ends_inside_packet(data[:HEAD_BYTES], len(data))
