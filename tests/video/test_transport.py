"""Proof for vidret/video/transport.py."""

import pytest

from vidret.video.transport import HEAD_BYTES, ends_inside_packet


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
