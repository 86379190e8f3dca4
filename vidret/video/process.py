"""The parent's side of one decoding process: start it, talk to it with a time limit, end it, say how it ended."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from vidret.devices import CPU
from vidret.errors import VidretError
from vidret.video import wire

# The folder that holds the package: the worker must import the same code, wherever that was found.
ROOT = str(Path(__file__).resolve().parents[2])
# -P and this, not -m: the current folder may hold a numpy.py of its own.
_PROGRAM = """
import sys
if sys.argv[1] not in sys.path: sys.path.insert(0, sys.argv[1])
from vidret.video.worker import run_worker
run_worker(int(sys.argv[2]))
"""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PIPE_BYTES = 1 << 20
START_SECONDS = 120.0


class ProcessGoneError(Exception):
    """The process crashed, ended or stopped answering; the message says which."""


class Process:
    """A decoding process that is started when it is needed. One thread talks to it; any thread may end it."""

    def __init__(self, memory: int, *, device: str = CPU) -> None:
        """Promise a process whose memory is limited to ``memory`` bytes; 0 sets no limit."""
        self._memory, self.device = memory, device
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._retired = False
        self.num_files = 0

    @property
    def pid(self) -> int | None:
        """Give the running process's id."""
        return self._process.pid if self._process else None

    def ensure(self) -> None:
        """Start the process unless it runs already.

        Raises:
            VidretError: It cannot start: something is wrong with the installation, not with a file.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        with self._lock:
            if self._retired:
                raise ProcessGoneError("the pool was closed")
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, ROOT, str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=os.environ | _ONE_THREAD,
                process_group=0,  # Ctrl-C is the parent's business
            )
            self.num_files = 0
            with contextlib.suppress(AttributeError, OSError):
                fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]
        try:
            self.receive(START_SECONDS)
        except ProcessGoneError as error:
            raise VidretError(f"the decoding process cannot start: {error}") from error

    def send(self, header: wire.Header, payload: bytes = b"") -> None:
        """Write one message."""
        process = self._process
        if process is None or process.stdin is None:
            raise ProcessGoneError(self._epitaph())
        try:
            left = memoryview(b"".join(wire.pack_message(header, payload)))
            while left:  # a signal may end a write early
                left = left[os.write(process.stdin.fileno(), left) :]
        except (OSError, ValueError) as error:
            raise ProcessGoneError(self._epitaph()) from error

    def receive(self, timeout: float) -> tuple[wire.Header, memoryview]:
        """Read one message; ``timeout`` is how long the process may stay silent, in seconds."""
        process = self._process
        if process is None or process.stdout is None:
            raise ProcessGoneError(self._epitaph())
        try:
            descriptor = process.stdout.fileno()
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)

            def read(size: int) -> memoryview:
                whole = memoryview(bytearray(size))
                left = whole
                while left:
                    if not poll.poll(timeout * 1000):
                        raise ProcessGoneError(f"no answer from the decoder for {timeout:g} s")
                    count = os.readv(descriptor, [left])
                    if count == 0:
                        raise EOFError
                    left = left[count:]
                return whole

            return wire.unpack_message(read)
        except (EOFError, OSError, ValueError) as error:
            raise ProcessGoneError(self._epitaph()) from error

    def retire(self) -> None:
        """Kill the process for good. Its pipes stay open until ``end``: another thread may be reading them."""
        with self._lock:
            self._retired = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def end(self) -> None:
        """Kill the process and clear it away; only for the thread that uses it."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _epitaph(self) -> str:
        process = self._process
        if process is None or self._retired:
            return "the pool was closed"
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the decoder stopped talking"
        if status == -9:
            return "the decoder was killed (signal 9), perhaps for want of memory"
        return f"the decoder crashed (signal {-status})" if status < 0 else f"the decoder ended (exit status {status})"
