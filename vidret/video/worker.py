"""One decoding process: reads file names from stdin, writes frames to stdout, and may crash or hang without harm.

It imports no torch, so that it starts fast. It ends when its stdin does, even in the middle of a file: that is how it
learns that its parent is gone.
"""

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from vidret.errors import DecodeError, DecoderFailedError, VidretError
from vidret.types import Resize
from vidret.video import wire
from vidret.video.decode import open_reader
from vidret.video.images import answer_request
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import Reader
from vidret.video.sampling import Cut, cut_segments, nearest

_SECONDS_BETWEEN_SIGNS = 1.0


class _Parent:
    """The other end: what it asks arrives in a queue, what we answer goes out at once."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        self._requests: queue.SimpleQueue[tuple[wire.Header, bytes]] = queue.SimpleQueue()
        self._last_sign = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> tuple[wire.Header, bytes]:
        return self._requests.get()

    def send(self, *parts: bytes | memoryview) -> None:
        self._last_sign = time.monotonic()
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(self._out, left) :]

    def show_life(self) -> None:
        if time.monotonic() - self._last_sign > _SECONDS_BETWEEN_SIGNS:
            self.send(*wire.pack_message({"kind": "busy"}))

    def _listen(self) -> None:
        def read(size: int) -> memoryview:
            piece = sys.stdin.buffer.read(size)
            if len(piece) < size:
                os._exit(0)
            return memoryview(piece)

        while True:
            header, payload = wire.unpack_message(read)
            self._requests.put((header, bytes(payload)))


def run_worker(memory: int) -> None:
    """Serve files until stdin ends; ``memory`` limits this process's bytes, 0 does not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError):
        # When the machine runs out of memory, this process shall go, not the run.
        Path("/proc/self/oom_score_adj").write_text("500")
    parent = _Parent()
    # Whatever native code prints must not get between our messages; reasons travel in messages.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    parent.send(*wire.pack_message({"kind": "ready"}))
    while True:
        header, payload = parent.next()
        try:
            _serve(parent, header, payload)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            parent.send(*wire.pack_message(wire.describe_error(_explain(error))))


def _serve(parent: _Parent, request: wire.Header, payload: bytes) -> None:
    """Decode one file, or a single image."""
    if "image" in request:
        parent.send(*wire.pack_message(*answer_request(request, payload)))
        return
    path = os.fsdecode(payload)
    info = probe(path, heartbeat=parent.show_life)
    how = {name: request[name] for name in ("num_frames", "fps", "whole")}
    cuts = cut_segments(info.duration, info.times, start=info.start, **how)
    resize = Resize(**request["resize"]) if request["resize"] else None
    decoder, device = request["decoder"], request["device"]
    with open_reader(info, decoder=decoder, device=device, resize=resize, heartbeat=parent.show_life) as reader:
        _send_segments(parent, info, cuts, reader)


def _explain(error: Exception) -> DecodeError:
    """Return what a request failed with as an error about a file; whoever asked knows which."""
    match error:
        case DecodeError():
            return error
        case VidretError():
            return DecodeError("", str(error))
        case MemoryError() | BlockingIOError():  # the latter where no thread could be started for want of it
            return DecodeError("", "needs more memory than a decoder may take")
    return DecoderFailedError("", f"the decoder failed: {type(error).__name__}: {error}".splitlines()[0])


def _send_segments(parent: _Parent, info: VideoInfo, cuts: list[Cut], reader: Reader) -> None:
    opened = {"facts": info.facts(), "cuts": [(cut.number, cut.start, cut.end) for cut in cuts]}
    parent.send(*wire.pack_message({"kind": "opened", "decoder": reader.decoder, "why": reader.why, **opened}))
    skip = set(parent.next()[0]["skip"])
    num_wanted = num_read = 0
    for cut in cuts:
        if cut.number in skip:
            continue
        wanted = set(nearest(info.times, np.array(cut.times)).tolist())
        frames = reader.read(sorted(wanted))
        num_wanted, num_read = num_wanted + len(wanted), num_read + len(frames)
        if len(frames):
            about = {"kind": "segment", "number": cut.number, "start": cut.start, "end": cut.end}
            parent.send(*wire.pack_frames(about, frames))
    if num_wanted and not num_read:
        raise DecodeError(info.path, "no frame could be decoded")
    lost = f"{num_read} of {num_wanted} chosen frames could be read: damaged" if num_read < num_wanted else ""
    parent.send(*wire.pack_message({"kind": "finished", "salvaged": info.damage or lost, "fallback": reader.fallback}))
