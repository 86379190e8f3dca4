"""One decoding process: reads requests from stdin, writes frames and texts to stdout, may crash or hang without harm.

It imports no torch, so it starts fast. It exits when its stdin closes, even in the middle of a file, since its parent
is gone then.
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
from vidret.video.words import WordsReader

_HEARTBEAT_S = 1.0


class _Parent:
    """The parent process: its requests arrive in a queue, and answers are sent at once."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        self._requests: queue.SimpleQueue[tuple[wire.Header, bytes]] = queue.SimpleQueue()
        self._last_sent = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def next_request(self) -> tuple[wire.Header, bytes]:
        return self._requests.get()

    def send(self, *buffers: bytes | memoryview) -> None:
        self._last_sent = time.monotonic()
        for buffer in buffers:
            remaining = memoryview(buffer)
            while remaining:
                remaining = remaining[os.write(self._out, remaining) :]

    def send_heartbeat(self) -> None:
        if time.monotonic() - self._last_sent > _HEARTBEAT_S:
            self.send(*wire.pack_message({"kind": "busy"}))

    def _listen(self) -> None:
        def read(size: int) -> memoryview:
            data = sys.stdin.buffer.read(size)
            if len(data) < size:
                os._exit(0)
            return memoryview(data)

        while True:
            header, payload = wire.unpack_message(read)
            self._requests.put((header, bytes(payload)))


def run_worker(memory: int) -> None:
    """Answer requests until stdin closes; ``memory`` is the limit of this process in bytes, 0 for none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError):
        # If the machine runs out of memory, the kernel kills this process first, not the run.
        Path("/proc/self/oom_score_adj").write_text("500")
    parent = _Parent()
    # Native code may print, which must not mix with messages; reasons travel in messages.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    parent.send(*wire.pack_message({"kind": "ready"}))
    while True:
        header, payload = parent.next_request()
        try:
            _serve(parent, header, payload)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            parent.send(*wire.pack_message(wire.describe_error(_as_decode_error(error))))


def _serve(parent: _Parent, request: wire.Header, payload: bytes) -> None:
    """Decode one video, with its words if they are requested, or one image."""
    if "image" in request:
        parent.send(*wire.pack_message(*answer_request(request, payload)))
        return
    path = os.fsdecode(payload)
    info = probe(path, heartbeat=parent.send_heartbeat)
    sampling = {name: request[name] for name in ("num_frames", "fps", "whole")}
    cuts = cut_segments(info.duration, info.times, start=info.start, **sampling)
    resize = Resize(**request["resize"]) if request["resize"] else None
    decoder, device = request["decoder"], request["device"]
    with open_reader(info, decoder=decoder, device=device, resize=resize, heartbeat=parent.send_heartbeat) as reader:
        words = _send_segments(parent, info, cuts, reader)
    if words is not None:
        words.read_rest()
        parent.send(*wire.pack_message({"kind": "end"}))


def _as_decode_error(error: Exception) -> DecodeError:
    """Return any error as a ``DecodeError`` without a path, which the parent knows."""
    match error:
        case DecodeError():
            return error
        case VidretError():
            return DecodeError("", str(error))
        case MemoryError() | BlockingIOError():  # the latter if there was no memory to start a thread
            return DecodeError("", "needs more memory than a decoder may take")
    return DecoderFailedError("", f"the decoder failed: {type(error).__name__}: {error}".splitlines()[0])


def _send_segments(parent: _Parent, info: VideoInfo, cuts: list[Cut], reader: Reader) -> WordsReader | None:
    """Send the pictures of a video, and its on-screen text if that is requested; return the reader of its words."""
    opened = {"facts": info.facts(), "cuts": [(cut.number, cut.start, cut.end) for cut in cuts]}
    parent.send(*wire.pack_message({"kind": "opened", "decoder": reader.decoder, "why": reader.why, **opened}))
    reply = parent.next_request()[0]
    skip, words = set(reply["skip"]), _start_words(parent, info, reply.get("words", {}))
    reader.observe = None if words is None else words.observe
    num_wanted = num_read = 0
    for cut in cuts:
        wants_text = words is not None and words.wants_frames(cut)
        if cut.number in skip and not wants_text:
            continue
        wanted = sorted(set(nearest(info.times, np.array(cut.times)).tolist()))
        if cut.number not in skip:
            frames = reader.read(wanted)
            num_wanted, num_read = num_wanted + len(wanted), num_read + len(frames)
            if len(frames):
                header = {"kind": "segment", "number": cut.number, "start": cut.start, "end": cut.end}
                parent.send(*wire.pack_frames(header, frames))
        elif words is not None:
            words.read_stored(reader, wanted)
        if words is not None and wants_text:
            words.end_segment()
    if num_wanted and not num_read:
        raise DecodeError(info.path, "no frame could be decoded")
    if words is not None:
        words.finish_screen()
    lost = f"{num_read} of {num_wanted} chosen frames could be read: damaged" if num_read < num_wanted else ""
    finished = {"kind": "finished", "salvaged": info.damage or lost, "fallback": reader.fallback}
    parent.send(*wire.pack_message(finished))
    return words


def _start_words(parent: _Parent, info: VideoInfo, request: wire.Header) -> WordsReader | None:
    """Return the reader of the requested words, None if there are none."""
    if not request:
        return None

    def send(header: wire.Header) -> None:
        parent.send(*wire.pack_message(header))

    return WordsReader(info, request, send=send, heartbeat=parent.send_heartbeat)
