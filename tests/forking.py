"""Processes that run Python code without the start of an interpreter: forked from one that has imported vidret.

Starting one takes longer than the work of most processes that tests start. How it starts otherwise is what the tests of
the command line and those that ask for ``fresh_processes`` check.
"""

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

# It imports what most processes of the tests do, and has one thread, so that a fork of it is all there is.
_PROGRAM = """
import atexit, gc, os, sys, threading
import pytest, torch, tests.store.samples, vidret.engine, vidret.index.run, vidret.video.workers.worker
from tests.forking import serve_forks
gc.freeze()
code, status, names = serve_forks(int(sys.argv[1])), 0, {"__name__": "__main__"}
try:
    exec(compile(code, "<string>", "exec"), names)
except SystemExit as ended:
    if not isinstance(ended.code, int | None):
        raise
    status = ended.code or 0
# What an interpreter does at its end, but for the removal of all modules, which takes longer than most code.
threading._shutdown()
atexit._run_exitfuncs()
names.clear()
gc.collect()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status & 255)
"""
_AT_START = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_")  # variables read at the start of an interpreter or a library
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PATH = os.pathsep.join(sys.path)
_SETTINGS = {name: value for name, value in os.environ.items() if name.startswith(_AT_START)} | _ONE_THREAD
_SUBREAPER = 36  # the option of prctl
_MAX_BYTES = 1 << 17


class _Mother:
    """The process that is forked; it starts with the first fork, and ends with this process."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._requests: socket.socket | None = None

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Have a request run in a new child of this process, with descriptors of this process; return its id."""
        with self._turn:
            requests = self._requests or self._start()
            set_option = ctypes.CDLL(None).prctl
            set_option(_SUBREAPER, 1, 0, 0, 0)  # whose parent ends becomes a child of this process
            try:
                socket.send_fds(requests, [json.dumps(request).encode()], descriptors)
                return int(requests.recv(_MAX_BYTES))
            finally:
                set_option(_SUBREAPER, 0, 0, 0, 0)

    def _start(self) -> socket.socket:
        self._requests, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_end:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(child_end.fileno())],
                env=os.environ | _ONE_THREAD | {"PYTHONPATH": _PATH},
                pass_fds=[child_end.fileno()],
                process_group=0,  # Ctrl-C is handled by this process
            )
        atexit.register(process.wait)
        atexit.register(self._requests.close)
        return self._requests


_MOTHER = _Mother()


class ForkedPopen(subprocess.Popen[Any]):
    """A process of ``python -c CODE``, which is forked unless its environment asks for another start."""

    def _execute_child(self, *arguments: Any) -> None:
        command, _, _, _, pass_fds, cwd, env, *_ = arguments
        environment = dict(env or os.environ)
        if sys.platform != "linux" or not _is_as_at_start(environment):
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        pipes = reading, _, _, writing, _, complaining = arguments[10:16]
        descriptors = {
            at: descriptor if descriptor >= 0 else at for at, descriptor in enumerate((reading, writing, complaining))
        }
        descriptors |= {descriptor: descriptor for descriptor in pass_fds}
        request = {"code": command[command.index("-c") + 1 :], "environment": environment, "places": [*descriptors]}
        request |= {"is_leader": arguments[-2], "group": arguments[-1]}
        folder = os.open(cwd or ".", os.O_PATH)  # the current one may be gone
        try:
            self.pid = _MOTHER.fork(request, [*descriptors.values(), folder])
        finally:
            os.close(folder)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run_code(code: str, *arguments: object, is_forked: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python code to its end in a process of its own, which a new interpreter starts unless it ``is_forked``."""
    pipe = subprocess.PIPE
    with popen_code(code, *arguments, is_forked=is_forked, stdout=pipe, stderr=pipe) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def start_code(
    code: str, *arguments: object, is_forked: bool = True
) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """Run Python code until it says that it is ready; yield the process, its input and its output."""
    pipe = subprocess.PIPE
    with popen_code(code, *arguments, is_forked=is_forked, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process, process.stdin, process.stdout


def popen_code(code: str, *arguments: object, is_forked: bool = True, **options: Any) -> "subprocess.Popen[str]":
    """Start Python code in a process of its own; the other options are those of Popen."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kind = ForkedPopen if is_forked else subprocess.Popen
    return kind([sys.executable, "-c", code, *map(str, arguments)], text=True, env=environment, **options)


def _is_as_at_start(environment: Mapping[str, str]) -> bool:
    """Return whether what is read at a start is as for this process, but for limits of threads and fewer paths."""
    ours = {name: value for name, value in environment.items() if name.startswith(_AT_START)} | _ONE_THREAD
    paths = ours.get("PYTHONPATH", "").split(os.pathsep)
    return ours | {"PYTHONPATH": ""} == _SETTINGS | {"PYTHONPATH": ""} and {*paths} <= {"", *_PATH.split(os.pathsep)}


def serve_forks(number: int) -> str:
    """Fork for each request from a socket; in the child, return the code to run once all else is as requested."""
    import fcntl

    requests = socket.socket(fileno=number)
    while True:
        message, received, _, _ = socket.recv_fds(requests, _MAX_BYTES, 16)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        if (middle := os.fork()) == 0:
            if child := os.fork():  # this process ends at once, so that its child becomes one of who asked
                os.write(writing, str(child).encode())
                os._exit(0)
            break
        for descriptor in (writing, *received):
            os.close(descriptor)
        os.waitpid(middle, 0)
        requests.send(os.read(reading, 20))
        os.close(reading)
    requests.close()
    os.close(reading)
    os.close(writing)
    request = json.loads(message)
    unused = max(request["places"]) + 1  # out of the way of those that they become
    moved = [fcntl.fcntl(passed, fcntl.F_DUPFD, unused) for passed in received]
    for descriptor in received:
        os.close(descriptor)
    os.fchdir(moved[-1])
    for source, place in zip(moved, request["places"], strict=False):
        os.dup2(source, place)
    for descriptor in moved:
        os.close(descriptor)
    if request["is_leader"]:
        os.setsid()
    elif request["group"] >= 0:
        os.setpgid(0, request["group"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code, *arguments = request["code"]
    sys.argv = ["-c", *arguments]
    return str(code)
