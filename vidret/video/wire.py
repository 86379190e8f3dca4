"""Messages between the pool and its workers: a JSON header and raw bytes, preceded by their lengths.

There is no pickle, because a worker reads untrusted files, and its messages must not be able to run code.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vidret.errors import DecodeError, DecoderFailedError, UnreachableError
from vidret.types import Frames

Header = dict[str, Any]
_ERRORS = {each.__name__: each for each in (DecodeError, UnreachableError, DecoderFailedError)}
_LENGTHS = struct.Struct("<IQ")


def pack_message(header: Header, payload: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Return the two buffers to write: the lengths with the header, and the payload, which is not copied."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text, payload


def unpack_message(read: Callable[[int], memoryview]) -> tuple[Header, memoryview]:
    """Read one message; ``read`` returns exactly the number of bytes requested, or raises EOFError."""
    header_length, payload_length = _LENGTHS.unpack(read(_LENGTHS.size))
    header = json.loads(bytes(read(header_length)))
    return header, read(payload_length)


def describe_error(error: DecodeError) -> Header:
    """Return the header of a message that reports a failed request."""
    kind = next(name for name, each in reversed(_ERRORS.items()) if isinstance(error, each))
    return {"kind": "failed", "error": kind, "reason": error.reason}


def read_error(header: Header, path: str) -> DecodeError:
    """Return the error that a header from ``describe_error`` reports."""
    return _ERRORS[header["error"]](path, header["reason"])


def pack_frames(header: Header, frames: Frames) -> tuple[bytes, bytes | memoryview]:
    """Return the two buffers of a message that holds frames."""
    frame_fields = {"shape": frames.pixels.shape, "times": frames.times.tolist(), "salvaged": frames.salvaged}
    return pack_message(header | frame_fields, np.ascontiguousarray(frames.pixels).reshape(-1).data)


def unpack_frames(header: Header, payload: memoryview) -> Frames:
    """Return the frames of a message from ``pack_frames``; their pixels share the payload's memory."""
    pixels: UInt8[np.ndarray, "frame height width 3"] = np.frombuffer(payload, dtype=np.uint8)
    times = np.array(header["times"], dtype=np.float64)
    return Frames(pixels.reshape(header["shape"]), times, header["salvaged"])
