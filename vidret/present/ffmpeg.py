"""Running ffmpeg on untrusted videos: it opens one file and no other, within limits, and is killed on request."""

import contextlib
import importlib
import math
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from vidret.errors import VidretError
from vidret.text import sanitize
from vidret.video.container import FORMATS
from vidret.video.workers.process import NEW_GROUP

NO_FFMPEG = "cutting needs ffmpeg 5.1 or later: install it, or the Python package imageio-ffmpeg, which includes one"
NUM_THREADS = 4  # per decoder or encoder; each holds frames
LAST_LINES = 50  # of ffmpeg's messages, kept for errors
POLL_S = 0.1
# Out of memory, ffmpeg drops frames from a clip and still succeeds.
_NO_MEMORY = ("Cannot allocate memory", "malloc", "get_buffer() failed", "Resource temporarily unavailable")
_NO_DECODER = re.compile(r"(?=.*found for).*#(\d+:\d+)")  # the stream, as ffmpeg 7 or earlier ones name it
MAX_CORES = 16  # one run keeps busy; its CPU time limit matters if this process is killed
# Sets the limits and becomes ffmpeg. Lower limits of the user are kept. If the machine runs out of memory, the kernel
# kills ffmpeg first.
_PROGRAM = """
import contextlib, os, sys
with contextlib.suppress(OSError):
    open("/proc/self/oom_score_adj", "w").write("500")
with contextlib.suppress(ImportError):
    import resource
    for name, most in zip(("DATA", "FSIZE", "CPU", "CORE"), map(int, sys.argv[1:5])):
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
os.execv(sys.argv[5], sys.argv[5:])
"""


class FfmpegError(Exception):
    """ffmpeg failed or was killed; the message is a short reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one run of ffmpeg; the default memory suffices for 8K frames."""

    memory_bytes: int = 6 << 30
    out_bytes: int = 1 << 38
    time_s: float = 6 * 3600.0


GENEROUS = Limits()  # for commands, which the user can interrupt


def find_ffmpeg() -> str:
    """Return the path of ffmpeg: from the package imageio-ffmpeg, else on PATH; raise VidretError if there is none.

    Before version 8, ffmpeg counts the audio priming of Matroska, so that its clips begin some milliseconds early.
    """
    with contextlib.suppress(ImportError, RuntimeError):
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    if installed := shutil.which("ffmpeg"):
        return installed
    raise VidretError(NO_FFMPEG)


def run_ffmpeg(
    ffmpeg: str,
    file: IO[bytes],
    before: Sequence[str],
    after: Sequence[str],
    limits: Limits,
    *,
    formats: str = FORMATS,
    is_left: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Run ffmpeg on an open file, and return its last progress report.

    A file can refer to others, by a playlist format or a protocol. So only the file protocol is allowed, playlist
    formats are not, and the input is the open file, which nobody can replace: by its descriptor, and on Windows by
    name, since an open file cannot be replaced there.

    ``before`` and ``after`` are the arguments before and after the input, with the output at the end. ``formats`` are
    FFmpeg's names of the allowed input formats. Tracks that ffmpeg cannot decode, such as the spatial sound of phones
    besides the plain one, are left out. Once ``is_left`` returns True, ffmpeg is killed.

    Raises:
        FfmpegError: ffmpeg failed, exceeded a limit, or was left.
    """
    most = [limits.memory_bytes, limits.out_bytes, math.ceil(limits.time_s) * MAX_CORES, 0]
    logging = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-progress", "pipe:1", "-nostats"]
    guard = ["-protocol_whitelist", "file", "-format_whitelist", formats, "-threads", str(NUM_THREADS)]
    name, limited = f"/dev/fd/{file.fileno()}", [sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, most)]
    if sys.platform == "win32":  # Windows has no such limits
        name, limited = str(Path(file.name).absolute()), []
    source = [*before, *guard, "-i", f"file:{name}", *after[:-1], "-threads", str(NUM_THREADS), after[-1]]
    process = subprocess.Popen(
        [*limited, ffmpeg, *logging, *source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        pass_fds=() if sys.platform == "win32" else (file.fileno(),),
        process_group=0,  # Ctrl-C is handled by the parent
        creationflags=NEW_GROUP,
    )
    with process, ThreadPoolExecutor(2) as pool:
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = pool.submit(_read_end, process.stdout), pool.submit(_read_end, process.stderr)
        try:
            _wait(process, limits.time_s, is_left)
        finally:
            process.kill()
    reasons, is_short = errors.result()
    if is_short:
        raise FfmpegError(f"it needs more than {limits.memory_bytes / (1 << 30):.2g} GiB of memory")
    if process.returncode:
        reasons = reasons or [f"exit code {process.returncode}"]
        reason = next(filter(_NO_DECODER.search, reasons), reasons[-1])
        match = _NO_DECODER.search(reason)
        if match is None or f"-{match[1]}" in after:
            raise FfmpegError(sanitize(reason))
        after = [*after[:-1], "-map", f"-{match[1]}", after[-1]]
        return run_ffmpeg(ffmpeg, file, before, after, limits, formats=formats, is_left=is_left)
    return dict(line.split("=", 1) for line in output.result()[0] if "=" in line)


def _wait(process: "subprocess.Popen[str]", time_s: float, is_left: Callable[[], bool]) -> None:
    deadline = monotonic() + time_s
    while True:
        try:
            process.wait(POLL_S)
            return
        except subprocess.TimeoutExpired:
            if is_left():
                raise FfmpegError("nobody waits for it any more") from None
            if monotonic() > deadline:
                raise FfmpegError(f"it takes longer than {time_s:g} s") from None


def _read_end(stream: IO[str]) -> tuple[list[str], bool]:
    """Read a stream to its end; return its last lines, and whether any line reports a lack of memory."""
    last, is_short = deque[str](maxlen=LAST_LINES), False
    for line in map(str.strip, stream):
        is_short |= any(mark in line for mark in _NO_MEMORY)
        if line and line != "Conversion failed!":
            last.append(line)
    return list(last), is_short
