"""Proof for vidret/video/container.py, beside what test_probe.py and decoders/test_exactness.py see of it."""

from collections.abc import Iterator
from typing import Any

from tests.video.conftest import NUM_FRAMES, Film
from vidret.video.container import open_container, read_packets, scan_packets
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
