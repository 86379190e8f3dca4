"""The main loop of a decoding process: it answers requests from stdin on stdout, and may crash or hang without harm.

It imports no torch, so it starts fast. It exits when its stdin closes, even in the middle of a file, since its parent
has ended then.
"""

import contextlib
import os
import signal
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidret.errors import DecodeError, DecoderFailedError, VidretError
from vidret.types import Resize
from vidret.video.images import draw_frame, read_greys, read_image
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import read_chosen
from vidret.video.sampling import nearest
from vidret.video.workers import messages
from vidret.video.workers.messages import FrameRing, Parent
from vidret.video.workers.video_request import answer_video


def run_worker(memory: int, ring: int) -> None:
    """Answer requests until stdin closes.

    Args:
        memory: The memory limit of this process in bytes, 0 for none.
        ring: The descriptor of the memory shared with the parent, -1 for none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError):
        # If the machine runs out of memory, the kernel kills this process first, not the run.
        Path("/proc/self/oom_score_adj").write_text("500")
    parent = Parent(FrameRing(ring) if ring >= 0 else None)
    # Native code may print, which must not mix with messages; errors are reported in messages.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    parent.send({"kind": "ready"})
    while True:
        header, payload = parent.next_request()
        try:
            _serve(parent, header, payload)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            parent.send(messages.describe_error(_as_decode_error(error)))


def _serve(parent: Parent, request: messages.Header, payload: bytes) -> None:
    """Decode one video, with its words if they are requested, or one image."""
    if "image" in request:
        header, content = _answer_image_request(request, payload)
        parent.send({"kind": "image"} | header, content)
    else:
        answer_video(parent, request, os.fsdecode(payload))


def _as_decode_error(error: Exception) -> DecodeError:
    """Return any error as a ``DecodeError`` without the path, which the parent knows."""
    match error:
        case DecodeError():
            return error
        case VidretError():
            return DecodeError("", str(error))
        case MemoryError() | BlockingIOError():  # the latter if there was no memory to start a thread
            return DecodeError("", "needs more memory than a decoder may take")
    return DecoderFailedError("", f"the decoder failed: {type(error).__name__}: {error}".splitlines()[0])


def _answer_image_request(request: messages.Header, payload: bytes) -> tuple[messages.Header, bytes | memoryview]:
    """Return the answer to a request of an ``ImagePool``: facts or frames of a video, or an image file as RGB pixels.

    Raise VidretError if the video or the image cannot be read.
    """
    try:
        if request["image"] == "file":
            image = read_image(payload)
            return {"shape": image.shape}, np.ascontiguousarray(image).reshape(-1).data
        info = _probe(os.fsdecode(payload), *request["version"])
        match request["image"]:
            case "facts":
                return {"facts": info.facts()}, b""
            case "frame":
                return {}, draw_frame(info, request["time_s"], request["width"])
            case "frames":
                chosen = nearest(info.times, np.array(request["times_s"], np.float64))
                frames = read_chosen(info, chosen, resize=Resize(**request["resize"]))
                return messages.pack_frames({}, frames)
        greys, times = read_greys(info, request["start_s"], request["end_s"], request["rate"])
        return {"times": times.tolist(), "size": (info.width, info.height)}, greys.reshape(-1).data
    except MemoryError:
        _probe.cache_clear()
        raise


@lru_cache(maxsize=16)
def _probe(path: str, _num_bytes: int, _mtime_ns: int) -> VideoInfo:
    """Probe a file, which reads all its packets, once for all requests about it."""
    return probe(path)
