"""Messages between the pool and its workers: a JSON header and raw bytes, both with their lengths in front.

No pickle: a worker reads hostile files, and what it says must not be able to run code.
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
    """Give what to write: the lengths with the header, then the payload, which is not copied."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text, payload


def unpack_message(read: Callable[[int], memoryview]) -> tuple[Header, memoryview]:
    """Read one message; ``read`` gives exactly as many bytes as it is asked for, or raises EOFError."""
    header_length, payload_length = _LENGTHS.unpack(read(_LENGTHS.size))
    header = json.loads(bytes(read(header_length)))
    return header, read(payload_length)


def describe_error(error: DecodeError) -> Header:
    """Return the header of a message that says why a request failed."""
    kind = next(name for name, each in reversed(_ERRORS.items()) if isinstance(error, each))
    return {"kind": "failed", "error": kind, "reason": error.reason}


def read_error(header: Header, path: str) -> DecodeError:
    """Return the error that such a header describes."""
    return _ERRORS[header["error"]](path, header["reason"])


def pack_frames(header: Header, frames: Frames) -> tuple[bytes, bytes | memoryview]:
    """Put frames into a message."""
    about = {"shape": frames.pixels.shape, "times": frames.times.tolist(), "salvaged": frames.salvaged}
    return pack_message(header | about, np.ascontiguousarray(frames.pixels).reshape(-1).data)


def unpack_frames(header: Header, payload: memoryview) -> Frames:
    """Take frames out of a message."""
    pixels: UInt8[np.ndarray, "frame height width 3"] = np.frombuffer(payload, dtype=np.uint8)
    times = np.array(header["times"], dtype=np.float64)
    return Frames(pixels.reshape(header["shape"]), times, header["salvaged"])
