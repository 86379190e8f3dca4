"""Messages between the pool and its workers: a JSON header and raw bytes, preceded by their lengths.

They are not pickled, because a worker reads untrusted files and its messages must not run code. Frames go through
shared memory where the system has it.
"""

import base64
import contextlib
import json
import math
import mmap
import os
import queue
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float64, UInt8

from vidret.errors import DecodeError, DecoderFailedError, UnreachableError
from vidret.types import Frames, ShotChange, SoundWindows, TextSource, TimedText
from vidret.video.grey import Greys
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment

Header = dict[str, Any]
_ERRORS = {kind.__name__: kind for kind in (DecodeError, UnreachableError, DecoderFailedError)}
_LENGTHS = struct.Struct("<IQ")
HEARTBEAT_S = 1.0
_NUM_SLOTS = 3  # one segment's frames are encoded, one's wait, one's are written
_SLOT_BYTES = 8 << 20  # untouched memory costs nothing


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A probed file.

    Attributes:
        facts: See ``VideoInfo.facts``.
        cuts: The segments of a grid as (index, start, end) in seconds; empty if segments follow shots, which are not
            known yet.
        num_expected: The approximate number of segments.
        decoder: The decoder in use.
    """

    facts: dict[str, str | int | float | bool]
    cuts: list[tuple[int, float, float]]
    num_expected: int
    decoder: str

    @property
    def duration(self) -> float:
        """When the last frame ends, in seconds."""
        return float(self.facts["duration"])

    @property
    def start(self) -> float:
        """When the first frame begins, in seconds."""
        return float(self.facts["start"])


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a file.

    ``salvaged`` describes the part that could not be read, and ``fallback`` why a decoder gave up; both may be empty.
    """

    salvaged: str
    fallback: str = ""


TrackSource = Literal["face", "voice"]
ReadSource = TextSource | TrackSource


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """New texts of a file from one source, which is read up to ``until_s`` seconds; for sounds, with their windows."""

    source: TextSource
    until_s: float
    texts: list[TimedText]
    windows: SoundWindows | None = None
    window_model: str = ""  # the model that computed the windows


@dataclass(frozen=True, slots=True)
class ReadTracks:
    """New tracks of faces or voices in a file, as JSON objects."""

    source: TrackSource
    tracks: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FinishedSource:
    """The end of one source; ``note`` is the reason if not all of it was read, and empty otherwise."""

    source: ReadSource
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class GreyStretch:
    """Grey pictures of part of a video, their times in seconds, and the width and height of the video."""

    greys: Greys
    times: Float64[np.ndarray, " frame"]
    size: tuple[int, int]


Content = ReadTexts | ReadTracks | FinishedSource
Message = OpenedVideo | DecodedSegment | Finished | Content
WordsRequest = Mapping[TextSource, Mapping[str, Any]]
ReadRequest = Mapping[Any, Mapping[str, Any]]  # by ``ReadSource``: words, faces and voices


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The segments and sources to read from an opened video.

    Attributes:
        skip: Indices of the segments of a grid that are not sent.
        start: Index, and start in seconds, of the first segment to send if segments follow shots; None for none.
        words: The sources to read, each with its options: ``start_s``, the time to read from; ``segment`` for the
            screen, index and start of a segment at or before that; ``model`` for speech, faces and voices, with a
            ``digest`` for the latter two; ``sidecars`` for subtitles, the paths of subtitle files.
    """

    skip: Collection[int] = ()
    start: tuple[int, float] | None = None
    words: ReadRequest = field(default_factory=dict)


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
    kind = next(name for name, type_ in reversed(_ERRORS.items()) if isinstance(error, type_))
    return {"kind": "failed", "error": kind, "reason": error.reason}


def read_error(header: Header, path: str) -> DecodeError:
    """Return the error that a header from ``describe_error`` reports."""
    return _ERRORS[header["error"]](path, header["reason"])


def pack_frames(header: Header, frames: Frames) -> tuple[Header, bytes | memoryview]:
    """Return a message with frames: their pixels, followed by their sound."""
    pixels = np.ascontiguousarray(frames.pixels).reshape(-1).data
    if frames.sound is None:
        return header | describe_frames(frames), pixels
    return header | describe_frames(frames) | {"has_sound": True}, bytes(pixels) + frames.sound.tobytes()


def describe_frames(frames: Frames) -> Header:
    """Return the fields of a header that describe frames."""
    return {"shape": frames.pixels.shape, "times": frames.times.tolist(), "salvaged": frames.salvaged}


def unpack_frames(header: Header, payload: memoryview) -> Frames:
    """Return the frames of ``pack_frames``; their pixels share the payload's memory."""
    num_bytes = math.prod(header["shape"])
    pixels: UInt8[np.ndarray, "frame height width 3"] = np.frombuffer(payload, np.uint8, num_bytes)
    times = np.array(header["times"], dtype=np.float64)
    sound = np.frombuffer(bytes(payload[num_bytes:]), np.int16) if header.get("has_sound") else None
    return Frames(pixels.reshape(header["shape"]), times, header["salvaged"], sound)


def read_decoded_segment(header: Header, payload: memoryview) -> DecodedSegment:
    """Return the segment of a ``segment`` message; its pixels share the payload's memory."""
    pictures = unpack_frames(header, payload)
    frames = SampledFrames(pictures, np.array(header["sample_times"], np.float64), np.array(header["rows"], np.int64))
    shots = [ShotChange(start, end, kind) for start, end, kind in header["shots"]]
    return DecodedSegment(header["number"], header["start"], header["end"], frames, shots)


def read_found(header: Header) -> Content:
    """Return the content of a message about a source: its texts, its tracks, or its end."""
    match header["kind"]:
        case "tracks":
            return ReadTracks(header["source"], header["tracks"])
        case "source_end":
            return FinishedSource(header["source"], header["note"])
    source: TextSource = header["source"]
    texts = [
        TimedText(start, end, text, source, confidence, language)
        for start, end, text, confidence, language in header["texts"]
    ]
    windows = unpack_windows(header["windows"]) if header.get("windows") else None
    return ReadTexts(source, header["until_s"], texts, windows, header.get("window_model", ""))


def pack_windows(windows: SoundWindows) -> Header:
    """Return windows of audio as a JSON object for a header."""
    vectors = base64.b64encode(windows.vectors.tobytes()).decode()
    return {"starts": windows.starts.tolist(), "ends": windows.ends.tolist(), "vectors": vectors}


def unpack_windows(header: Header) -> SoundWindows:
    """Return the windows from ``pack_windows``."""
    starts, ends = (np.array(header[name], np.float64) for name in ("starts", "ends"))
    vectors = np.frombuffer(base64.b64decode(header["vectors"]), np.float16).reshape(len(starts), -1)
    return SoundWindows(starts=starts, ends=ends, vectors=vectors)


class FrameRing:
    """One end of the memory that a decoding process shares with its parent, which reads frames there without a copy.

    Its first bytes mark the slots in use. The process takes a free slot, and the parent frees it once its frames are no
    longer referenced. The memory has no name, so that it is freed when both end. Frames go through the pipe if all
    slots are in use, or if they exceed one slot.
    """

    def __init__(self, descriptor: int) -> None:
        """Map the memory of a descriptor, and close that."""
        memory = mmap.mmap(descriptor, mmap.PAGESIZE + _NUM_SLOTS * _SLOT_BYTES)
        os.close(descriptor)
        self._in_use: UInt8[np.ndarray, " slot"] = np.frombuffer(memory, np.uint8, _NUM_SLOTS)
        self._memory = memory

    @classmethod
    def create(cls) -> tuple[Self, int] | None:
        """Return a new ring, and the descriptor for the process, which the caller closes; None if not supported."""
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError, OSError):
                descriptor = os.memfd_create("frames")
                os.ftruncate(descriptor, mmap.PAGESIZE + _NUM_SLOTS * _SLOT_BYTES)
                return cls(os.dup(descriptor)), descriptor
        return None

    def put(self, pixels: UInt8[np.ndarray, "..."]) -> int | None:
        """Copy pixels into a free slot and return its index; None if none is free, or pixels exceed a slot."""
        free = np.flatnonzero(self._in_use == 0)
        if len(free) == 0 or pixels.nbytes > _SLOT_BYTES:
            return None
        slot = int(free[0])
        self._view(slot, pixels.nbytes).reshape(pixels.shape)[...] = pixels
        self._in_use[slot] = 1
        return slot

    def take(self, slot: int, num_bytes: int) -> memoryview:
        """Return the content of a slot, which is freed once neither that nor an array made from it is referenced.

        Raise ValueError if there is no such slot, or it is smaller than ``num_bytes``.
        """
        if not (0 <= slot < _NUM_SLOTS and 0 <= num_bytes <= _SLOT_BYTES):
            raise ValueError(f"slot must be in 0..{_NUM_SLOTS - 1} and hold at most {_SLOT_BYTES} bytes, got {slot}")
        view = self._view(slot, num_bytes)
        weakref.finalize(view, self._in_use.__setitem__, slot, 0)
        return view.data

    def _view(self, slot: int, num_bytes: int) -> UInt8[np.ndarray, " byte"]:
        return np.frombuffer(self._memory, np.uint8, num_bytes, offset=mmap.PAGESIZE + slot * _SLOT_BYTES)


class Parent:
    """The connection of a decoding process to its parent: requests wait in a queue, answers are sent at once."""

    def __init__(self, ring: FrameRing | None) -> None:
        """Listen to stdin and write to stdout; frames go through the shared memory of ``ring``, if given."""
        self._out, self._ring = os.dup(1), ring
        self._requests: queue.SimpleQueue[tuple[Header, bytes]] = queue.SimpleQueue()
        self._last_sent = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def next_request(self) -> tuple[Header, bytes]:
        """Wait for the next request, and return it."""
        return self._requests.get()

    def send(self, header: Header, payload: bytes | memoryview = b"") -> None:
        """Send a message."""
        self._last_sent = time.monotonic()
        for buffer in pack_message(header, payload):
            remaining = memoryview(buffer)
            while remaining:
                remaining = remaining[os.write(self._out, remaining) :]

    def send_frames(self, header: Header, frames: Frames) -> None:
        """Send a message that holds frames."""
        slot = None if self._ring is None or frames.sound is not None else self._ring.put(frames.pixels)
        if slot is None:
            self.send(*pack_frames(header, frames))
        else:
            self.send(header | describe_frames(frames) | {"slot": slot})

    def send_heartbeat(self) -> None:
        """Report that this process is alive, at most once a second."""
        if time.monotonic() - self._last_sent > HEARTBEAT_S:
            self.send({"kind": "busy"})

    def _listen(self) -> None:
        def read(size: int) -> memoryview:
            data = sys.stdin.buffer.read(size)
            if len(data) < size:
                os._exit(0)
            return memoryview(data)

        while True:
            header, payload = unpack_message(read)
            self._requests.put((header, bytes(payload)))
