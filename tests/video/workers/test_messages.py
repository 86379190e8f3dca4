"""Proof for vidret/video/workers/messages.py."""

import io
import json
import os

import numpy as np
import pytest

from tests.video.conftest import EVERY_FRAME, Film, numbers_of, stream_film
from vidret.errors import ChangedError, DecodeError, DecoderFailedError, UnreachableError
from vidret.types import Frames
from vidret.video.workers import messages
from vidret.video.workers.messages import FrameRing
from vidret.video.workers.pool import DecodePool


def reader(*parts: bytes | memoryview) -> tuple[messages.Header, memoryview]:
    stream = io.BytesIO(b"".join(parts))
    return messages.unpack_message(lambda size: memoryview(stream.read(size)))


def test_messages_survive_the_journey() -> None:
    header = {"path": "caf\udce9\n", "skip": [1, 2]}
    again, payload = reader(*messages.pack_message(header, b"\0\xff"))
    assert again == header
    assert bytes(payload) == b"\0\xff"


def test_frames_survive_the_journey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)[:, ::-1]
    header, payload = reader(
        *messages.pack_message(
            *messages.pack_frames({"kind": "segment"}, Frames(pixels, np.array([0.1, 1 / 3]), "why"))
        )
    )
    frames = messages.unpack_frames(header, payload)
    assert (frames.pixels == pixels).all()
    assert frames.times.tolist() == [0.1, 1 / 3]
    assert (header["kind"], frames.salvaged) == ("segment", "why")


def test_errors_keep_their_kind() -> None:
    for kind in (DecodeError, UnreachableError, DecoderFailedError):
        error = messages.read_error(json.loads(json.dumps(messages.describe_error(kind("", "is odd")))), "/a.mp4")
        assert (type(error), str(error)) == (kind, "/a.mp4: is odd")
    assert type(messages.read_error(messages.describe_error(ChangedError("", "is odd")), "/a.mp4")) is DecodeError


# Frames that both processes share.

needs_linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


def open_both() -> tuple[FrameRing, FrameRing]:
    """Return the ends of the parent and of the process."""
    created = FrameRing.create()
    assert created is not None
    return created[0], FrameRing(created[1])


@needs_linux
def test_frames_pass_without_a_copy_and_free_their_slot() -> None:
    parent, process = open_both()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert [process.put(pixels + offset) for offset in range(4)] == [0, 1, 2, None]
    frames = np.frombuffer(parent.take(1, pixels.nbytes), np.uint8).reshape(pixels.shape)
    assert (frames == pixels + 1).all()
    part = frames[1:]
    del frames
    assert process.put(pixels) is None, "a part of the frames is still held"
    del part
    assert process.put(pixels[:, ::-1]) == 1
    assert (np.frombuffer(parent.take(1, pixels.nbytes), np.uint8).reshape(pixels.shape) == pixels[:, ::-1]).all()


@needs_linux
def test_what_does_not_fit_is_refused() -> None:
    parent, process = open_both()
    assert process.put(np.zeros(9 << 20, np.uint8)) is None
    for slot, num_bytes in ((-1, 1), (3, 1), (0, 9 << 20), (0, -1)):
        with pytest.raises(ValueError, match="slot must be in"):
            parent.take(slot, num_bytes)


@needs_linux
@pytest.mark.usefixtures("fresh_processes")
def test_frames_outlive_their_process(films: dict[str, Film]) -> None:
    with DecodePool(1, sampling=EVERY_FRAME) as pool:
        _, segments, _ = stream_film(pool, films["h264.mp4"].path)
        assert len(segments) > 3, "frames that nobody frees do not stop it"
    assert numbers_of(segments) == films["h264.mp4"].numbers
