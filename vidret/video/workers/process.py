"""The parent's side of decoding processes: a process that exchanges messages with a time limit, and a pool of them."""

import contextlib
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from io import FileIO
from pathlib import Path

from vidret.devices import CPU
from vidret.errors import VidretError
from vidret.video.workers import messages
from vidret.video.workers.messages import FrameRing

if sys.platform == "win32":
    import _winapi
    import msvcrt

    def _wait(descriptor: int, timeout_s: float) -> bool:
        """Wait until a pipe can be read, and return whether it can; Windows can only be polled."""
        end_s = time.monotonic() + timeout_s
        while not _winapi.PeekNamedPipe(msvcrt.get_osfhandle(descriptor), 0)[0]:  # raises BrokenPipeError at its end
            if time.monotonic() > end_s:
                return False
            time.sleep(_POLL_S)
        return True
else:
    import fcntl
    import select

    def _wait(descriptor: int, timeout_s: float) -> bool:
        """Wait until a pipe can be read, and return whether it can."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


# The folder that holds the package, so that a process imports the same code as its parent.
_ROOT = str(Path(__file__).resolve().parents[3])
_FIND_ROOT = "import sys\nif sys.argv[1] not in sys.path: sys.path.insert(0, sys.argv[1])\n"
_PROGRAM = """
from vidret.video.workers.worker import run_worker
run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""
# Threads that decode, resize and listen share one arena of glibc, so that each reuses what another frees.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
_PIPE_BYTES = 1 << 20
_POLL_S = 0.001
NEW_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # the equivalent of process_group=0 on Windows
START_TIMEOUT_S = 120.0


def make_command(program: str, *arguments: object) -> list[str]:
    """Return the command that runs a Python program with arguments, which start at ``sys.argv[2]``.

    It uses -P with -c, not -m, since the current folder may contain another numpy.py.
    """
    return [sys.executable, "-P", "-c", _FIND_ROOT + program, _ROOT, *map(str, arguments)]


def _read(pipe: FileIO, timeout_s: float, size: int) -> memoryview:
    """Read ``size`` bytes; no pause before a part of them may exceed ``timeout_s`` seconds."""
    data = memoryview(bytearray(size))
    unfilled = data
    while unfilled:
        if not _wait(pipe.fileno(), timeout_s):
            raise ProcessGoneError(f"no answer from the decoder for {timeout_s:g} s")
        num_read = pipe.readinto(unfilled)
        if num_read == 0:
            raise EOFError
        unfilled = unfilled[num_read:]
    return data


class ProcessGoneError(Exception):
    """The process crashed, ended or stopped answering; the message says which."""


class Process:
    """A decoding process that is started on demand. One thread talks to it; any thread may kill it.

    ``num_requests`` counts its requests, and ``is_clean`` is whether it has answered the last one completely.
    """

    def __init__(self, memory: int, *, device: str = CPU) -> None:
        """Set the limit to ``memory`` bytes, 0 for none, without starting the process."""
        self._memory, self.device = memory, device
        self._process: subprocess.Popen[bytes] | None = None
        self._ring: FrameRing | None = None
        self._lock = threading.Lock()
        self._killed = False
        self.num_requests = 0
        self.is_clean = False

    @property
    def pid(self) -> int | None:
        """Return the id of the running process."""
        return self._process.pid if self._process else None

    def ensure_running(self) -> None:
        """Start the process unless it is running.

        Raise VidretError if it cannot start, since that is a fault of the installation, not of a file, or
        ProcessGoneError if the process was killed for good.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        with self._lock:
            if self._killed:
                raise ProcessGoneError("the pool was closed")
            self._ring, descriptor = FrameRing.create() or (None, -1)
            try:
                self._process = subprocess.Popen(
                    make_command(_PROGRAM, self._memory, descriptor),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    env=os.environ | _ENVIRONMENT,
                    process_group=0,  # Ctrl-C is handled by the parent
                    creationflags=NEW_GROUP,
                    pass_fds=[] if descriptor < 0 else [descriptor],
                )
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            self.num_requests = 0
            if sys.platform == "linux" and self._process.stdout is not None:
                with contextlib.suppress(OSError):
                    fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self.receive(START_TIMEOUT_S)
        except ProcessGoneError as error:
            raise VidretError(f"the decoding process cannot start: {error}") from error

    def send(self, header: messages.Header, payload: bytes = b"") -> None:
        """Write one message; raise ProcessGoneError if the process is no longer running."""
        process = self._process
        if process is None or process.stdin is None:
            raise ProcessGoneError(self._describe_exit())
        try:
            remaining = memoryview(b"".join(messages.pack_message(header, payload)))
            while remaining:  # a signal may end a write early
                remaining = remaining[os.write(process.stdin.fileno(), remaining) :]
        except (OSError, ValueError) as error:
            raise ProcessGoneError(self._describe_exit()) from error

    def receive(self, timeout_s: float) -> tuple[messages.Header, memoryview]:
        """Read one message; the process may stay silent for ``timeout_s`` seconds.

        Raise ProcessGoneError if the process ended or stayed silent.
        """
        process = self._process
        if process is None or not isinstance(process.stdout, FileIO):  # it is not buffered
            raise ProcessGoneError(self._describe_exit())
        try:
            header, payload = messages.unpack_message(partial(_read, process.stdout, timeout_s))
            if self._ring is not None and "slot" in header:
                payload = self._ring.take(header["slot"], math.prod(header["shape"]))
            return header, payload
        except (EOFError, OSError, ValueError) as error:
            raise ProcessGoneError(self._describe_exit()) from error

    def kill(self) -> None:
        """Kill the process for good. Its pipes stay open until ``end``, since another thread may be reading them."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def end(self) -> None:
        """Kill the process and close its pipes. Only the thread that uses the process may call this."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _describe_exit(self) -> str:
        process = self._process
        if process is None or self._killed:
            return "the pool was closed"
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the decoder closed its pipes"
        if status == -9:
            return "the decoder was killed (signal 9), possibly because the machine ran out of memory"
        return f"the decoder crashed (signal {-status})" if status < 0 else f"the decoder ended (exit status {status})"


class ProcessPool:
    """Processes that are reused, and replaced after a crash. Threads take one each, and wait while all are busy."""

    def __init__(self, processes: Sequence[Process], *, max_requests: int) -> None:
        """Share these processes; each is replaced after ``max_requests``, since native libraries leak memory."""
        self.processes, self._max_requests = processes, max_requests
        self._idle: queue.LifoQueue[Process] = queue.LifoQueue()  # prefers a process that runs already
        for process in processes:
            self._idle.put(process)
        self.is_closed = False

    @contextlib.contextmanager
    def take(self) -> Iterator[Process]:
        """Take a running process; after the block it is ended unless it ``is_clean``.

        Raise VidretError if it cannot start, or ProcessGoneError if the pool is closed.
        """
        process = self._idle.get()
        process.is_clean = False
        try:
            if process.num_requests >= self._max_requests:
                process.end()
            process.ensure_running()
            process.num_requests += 1
            yield process
        finally:
            if not process.is_clean:
                process.end()
            self._idle.put(process)
            if self.is_closed:
                self._end_idle()

    def start(self) -> None:
        """Start the processes now, in the background, rather than with the first requests."""
        for _ in self.processes:
            threading.Thread(target=self._start_one, daemon=True).start()

    def _start_one(self) -> None:
        # The first request reports why the process does not start.
        with contextlib.suppress(ProcessGoneError, VidretError), self.take() as process:
            process.is_clean = True

    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [process.pid for process in self.processes if process.pid is not None]

    def close(self) -> None:
        """Stop all processes; requests in progress and later ones fail."""
        self.is_closed = True
        for process in self.processes:
            process.kill()
        self._end_idle()

    def _end_idle(self) -> None:
        """End the processes that nobody uses; the thread that uses a busy one ends it."""
        idle: list[Process] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for process in idle:
            process.end()
            self._idle.put(process)
