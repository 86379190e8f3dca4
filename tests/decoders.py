"""Decoding processes that outlast their pools and are forked, because a start takes longer than most tests."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import vidret.video.workers.image_pool
import vidret.video.workers.pool
from vidret.devices import CPU
from vidret.video.workers import messages, process
from vidret.video.workers.messages import FrameRing

MAX_SPARE = 4  # processes, of some 100 MB each
_ENDS = ("ready", "end", "failed", "image")  # messages after which a process waits for the next request
_PARENTS = ("PYTEST_", "VIDRET_", "XDG_STATE_HOME")  # variables that decoding processes do not read
_POOLS = (vidret.video.workers.pool, vidret.video.workers.image_pool)


class SpareProcess(process.Process):
    """A decoding process that closing an idle pool keeps for a later one with the same settings and environment.

    It is killed, like any other, if it is busy, if its stream was dropped, or if it has answered many requests.
    """

    _spare: list[tuple[object, "subprocess.Popen[bytes]", FrameRing | None, int]] = []  # noqa: RUF012  shared by all
    _turn = threading.Lock()

    def __init__(self, memory: int, *, device: str = CPU) -> None:
        super().__init__(memory, device=device)
        self._is_idle = self._has_words = False
        self._settings: object = None

    def ensure_running(self) -> None:
        """Take a spare process, or start one."""
        with self._lock:
            if self._process is None and not self._killed:
                self._settings = self._read_settings()
                with self._turn:  # another thread's process may be about to take the same one
                    for entry in [spare for spare in self._spare if spare[0] == self._settings][-1:]:
                        self._spare.remove(entry)
                        _, self._process, self._ring, self.num_requests = entry
        super().ensure_running()

    def send(self, header: messages.Header, payload: bytes = b"") -> None:
        """Write one message, after which the process is busy."""
        with self._lock:  # either the pool closes now and keeps the process, or this thread uses it
            self._is_idle, self._has_words = False, bool(header.get("words"))
        super().send(header, payload)

    def receive(self, timeout_s: float) -> tuple[messages.Header, memoryview]:
        """Read one message."""
        header, payload = super().receive(timeout_s)
        self._is_idle = header["kind"] in _ENDS or (header["kind"] == "finished" and not self._has_words)
        return header, payload

    def kill(self) -> None:
        """Keep the process if it is idle; otherwise kill it."""
        with self._lock:
            if self._is_idle and self._process is not None and self._process.poll() is None:
                self._spare.append((self._settings, self._process, self._ring, self.num_requests))
                self._process, self._killed = None, True
        super().kill()
        self.end_spare(keep=MAX_SPARE)

    def _read_settings(self) -> object:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_PARENTS)}
        return self._memory, self.device, process._PROGRAM, os.getcwd(), environment  # noqa: PTH109  may be gone

    @classmethod
    def end_spare(cls, keep: int = 0) -> None:
        """End spare processes, the oldest first."""
        while len(cls._spare) > keep:
            _, oldest, *_ = cls._spare.pop(0)
            oldest.kill()
            oldest.wait()
            for pipe in (oldest.stdin, oldest.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def use_processes(kind: type[process.Process], start: type[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let new pools use this kind of process, and start it in this way."""
    with ExitStack() as stack:
        for module in _POOLS:
            stack.enter_context(mock.patch.object(module, "Process", kind))
        stack.enter_context(
            mock.patch.object(process, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start}))
        )
        yield
