"""Tests of connections over real sockets: slow and silent clients neither keep a connection nor block others."""

import asyncio
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.index_server import connect, read_all, run_app, serve_engine
from vidret.engine import Engine
from vidret.serve import access as bodies
from vidret.serve.connections import MAX_REFUSED, Connection, count_connections, make_server

ROOT = Path(__file__).parents[2]
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Hasty(Connection):
    head_timeout_s = 0.5


class Patient(Connection):
    head_timeout_s = 1.2


class Few(Connection):
    max_connections = 3
    head_timeout_s = 5.0


@pytest.fixture
def hasty(engine: Engine) -> Iterator[str]:
    with serve_engine(engine, Hasty) as url:
        yield url


def read_head(client: socket.socket) -> bytes:
    """Read one response, and return its status line and headers."""
    with client.makefile("rb") as file:
        lines = list(iter(file.readline, b"\r\n"))
        for line in lines:
            if line.lower().startswith(b"content-length: "):
                file.read(int(line.split()[1]))
    return b"".join(lines)


def test_missing_and_slow_heads_time_out(hasty: str) -> None:
    starts = (b"", b"GET /healthz HTTP/1.1\r\nHost: loc", GET, GET + b"GET /hea")
    started = time.monotonic()
    with ExitStack() as stack:
        slow, *clients = [stack.enter_context(connect(hasty)) for _ in range(1 + len(starts))]
        for client, sent in zip(clients, starts, strict=True):
            client.sendall(sent)
        slow.sendall(GET)
        num_letters = 0
        with suppress(OSError):  # the server has closed the connection
            while num_letters < 400:  # 20 s
                time.sleep(0.05)
                slow.sendall(b"G")
                num_letters += 1
        assert num_letters < 400
        for client, sent in zip(clients, starts, strict=True):
            assert read_all(client).count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")
    assert time.monotonic() - started < 20  # a busy machine needs seconds; else it would be for ever


def test_each_request_has_the_full_time(engine: Engine) -> None:
    with serve_engine(engine, Patient) as url, connect(url) as client:
        for _ in range(2):
            time.sleep(0.65)
            client.sendall(GET)
            assert read_head(client).startswith(b"HTTP/1.1 200 OK")
        client.sendall(GET * 19 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 20, "also pipelined requests"


def test_missing_body_times_out(hasty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "TIMEOUT_S", 0.3)
    for sent in (b"", b"{"):
        with connect(hasty) as client:
            client.sendall(POST % 99 + sent)
            got = read_all(client)
        assert got.startswith(b"HTTP/1.1 408 ")
        assert b"the body must arrive within 0.3 s, got a part" in got


@pytest.mark.parametrize("num_bytes", [bodies.MAX_BYTES + 1, 2 * bodies.MAX_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
def test_client_that_sends_too_much_can_read_the_response(hasty: str, num_bytes: int, chunked: bool) -> None:
    head = POST % num_bytes
    body = b" " * num_bytes
    if chunked:
        head = head.replace(b"Content-Length: %d" % num_bytes, b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (num_bytes, body)
    with connect(hasty) as client:
        client.sendall(head)
        client.sendall(body)  # all of it, before anything is read
        got = read_all(client)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["detail"] == "the body must have at most 16 MiB, got more"


def test_requests_that_outlast_a_shutdown_get_503(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entered, answered = threading.Event(), threading.Event()

    def locate_with(*_: object, **__: object) -> list[object]:
        entered.set()
        answered.wait(20)
        return []

    monkeypatch.setattr(Engine, "locate_with", locate_with)
    body = b'{"query": "red"}'
    head = POST.replace(b"/api/search", b"/api/locate") % len(body)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))
        with serve_engine(engine) as url:
            clients = [stack.enter_context(connect(url)) for _ in range(3)]
            for client in clients:
                client.sendall(head + body)
            assert entered.wait(5)
            answers = [pool.submit(read_all, client) for client in clients]
            answers[-1].add_done_callback(lambda _: answered.set())  # all are answered at once
        for answer in answers:
            got = answer.result()
            assert got.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: " in got.lower()
            assert json.loads(got.partition(b"\r\n\r\n")[2])["detail"] == "the server is shutting down"
    assert "Traceback" not in caplog.text


class Gated:
    """An app that responds once its gate is open."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.entered.release()
        if scope["path"] == "/slow":
            await asyncio.to_thread(self.gate.wait, 10)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def test_longest_idle_connection_is_closed() -> None:
    with run_app(Gated(), Few) as url, ExitStack() as stack:
        quiet = [stack.enter_context(connect(url)) for _ in range(6)]
        for client in quiet:
            client.sendall(b"GET / HT")
        with connect(url) as late:
            late.sendall(GET)
            assert read_head(late).startswith(b"HTTP/1.1 200 OK")
        num_open = 0
        for client in quiet[-2:]:
            client.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
            num_open += read_head(client).startswith(b"HTTP/1.1 200 OK")
        assert num_open == 2
        with suppress(ConnectionResetError):
            assert quiet[0].recv(1) == b""


def test_busy_connections_are_not_closed() -> None:
    app = Gated()
    with run_app(app, Few) as url, ExitStack() as stack:
        busy = [stack.enter_context(connect(url)) for _ in range(3)]
        for client in busy:
            client.sendall(GET.replace(b"/healthz", b"/slow"))
            assert app.entered.acquire(timeout=5)
        with connect(url) as late:
            assert late.recv(1, socket.MSG_PEEK), "it is refused before it sends its request"
            for _ in range(2):
                late.sendall(GET)
            got = read_all(late)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in got
        for _ in range(MAX_REFUSED + 1):
            stack.enter_context(connect(url))
        with connect(url) as late:
            assert read_all(late) == got, "refused connections do not pile up"
        app.gate.set()
        assert all(read_head(client).startswith(b"HTTP/1.1 200 OK") for client in busy)


class Endless:
    """An app with an endless response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        message: Message = {"type": "http.response.body", "body": bytes(1 << 16), "more_body": True}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000 if scope["path"] == "/endless" else 1):
            await send(message)
        await send({"type": "http.response.body", "body": b""})


def test_connection_that_does_not_read_is_closed() -> None:
    with run_app(Endless(), Few) as url, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(connect(url)).sendall(GET.replace(b"/healthz", b"/endless"))
            time.sleep(0.1)
        with connect(url) as late:
            late.sendall(GET)
            assert read_head(late).startswith(b"HTTP/1.1 200 OK")


def test_shutdown_closes_connections_that_do_not_read() -> None:
    with ExitStack() as stack:
        with run_app(Endless()) as url:
            client = stack.enter_context(connect(url))
            client.sendall(GET.replace(b"/healthz", b"/endless"))
            assert client.recv(1)
        with suppress(ConnectionResetError):
            read_all(client)
    gc.collect()  # an open transport would warn


LIMITED = """
import asyncio, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from vidret.serve.connections import make_server

async def app(scope, receive, send):
    if scope["type"] == "http":
        files = [open(sys.executable), open(sys.executable)]
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        [file.close() for file in files]

with socket.create_server(("127.0.0.1", 0)) as listener:
    print("http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    make_server(app).run(sockets=[listener])
"""
needs_limit = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


@needs_limit
def test_connections_leave_files_to_requests() -> None:
    command, pipe = [sys.executable, "-c", LIMITED], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        clients = [stack.enter_context(connect(url)) for _ in range(100)]
        for client in clients:
            with suppress(ConnectionError):  # it was refused already
                client.sendall(GET)
        statuses = list[bytes]()
        for client in clients:
            with suppress(ConnectionError):
                statuses.append(client.recv(12))
        with connect(url) as late:
            late.sendall(GET)
            assert read_head(late).startswith(b"HTTP/1.1 200 OK")
        process.terminate()
        log = process.stderr.read()
    assert {b"HTTP/1.1 200"} <= set(statuses) <= {b"HTTP/1.1 200", b"HTTP/1.1 503", b""}
    assert log.count("Traceback") == 0, log[:2000]


@needs_limit
@pytest.mark.parametrize(("limit", "expected"), [(-1, 256), (1 << 20, 256), (1024, 195), (256, 41), (64, 3), (16, 1)])
def test_connections_are_limited_by_the_files_that_may_be_open(
    limit: int, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", Mock(return_value=(limit, limit)))
    assert count_connections(256) == expected
    make_server(Mock())
    assert caplog.text.count(f"at most {expected} connections") == (expected < 256)


@needs_limit
@pytest.mark.parametrize(
    ("limits", "expected"),
    [((256, -1), (10_240, -1)), ((1024, 4096), (4096, 4096)), ((64, 64), (64, 64)), ((20_000, -1), (20_000, -1))],
)
def test_a_server_may_open_as_many_files_as_the_system_allows(
    limits: tuple[int, int], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    kept = {resource.RLIMIT_NOFILE: limits}
    monkeypatch.setattr(resource, "getrlimit", kept.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", kept.__setitem__)
    make_server(Mock())
    assert kept == {resource.RLIMIT_NOFILE: expected}
    kept[resource.RLIMIT_NOFILE] = limits
    monkeypatch.setattr(resource, "setrlimit", Mock(side_effect=ValueError("not allowed to raise maximum limit")))
    make_server(Mock())
