"""Proof for vidret/video/workers/messages.py."""

import io
import json

import numpy as np

from vidret.errors import ChangedError, DecodeError, DecoderFailedError, UnreachableError
from vidret.types import Frames
from vidret.video.workers import messages


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
