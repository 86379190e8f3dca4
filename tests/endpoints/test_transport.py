"""One deadline for a whole request, however an endpoint delays; and requests to addresses that are not ASCII."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import repeat

import pytest

from vidret.endpoints.transport import EndpointError, open_post, post_json
from vidret.errors import VidretError
from vidret.language.endpoint import ChatEndpoint

TIMEOUT_S = 0.3
LIMIT_S = 15.0  # a busy machine needs seconds; without the deadline it would be for ever
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Answer = Callable[[socket.socket], object]


@contextmanager
def answer_with(answer: Answer, *, backlog: int = 8) -> Iterator[tuple[str, list[bytes]]]:
    """Answer connections in threads; yield the URL, and the first lines of the requests."""
    seen: list[bytes] = []
    is_over = threading.Event()

    def answer_one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            seen.append(connection.recv(1 << 16).split(b"\r\n")[0])
            answer(connection)
            is_over.wait(10)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer_one, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        if backlog:
            threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", seen
        finally:
            is_over.set()
            server.shutdown(socket.SHUT_RDWR)


def drip(head: bytes, piece: bytes) -> Answer:
    """Return an answer that begins with ``head`` and goes on for ever, slowly."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for chunk in repeat(piece):
            connection.sendall(chunk)
            time.sleep(0.05)

    return answer


SLOW: dict[str, Answer] = {
    "nothing": lambda _connection: None,
    "headers": drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "status": drip(b"HTTP/1.1 200 ", b"O"),
    "continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": drip(OK + b"Content-Length: 1000000\r\n\r\n", b" "),
    "chunks": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "events": drip(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b": wait\n\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_an_endpoint_has_until_the_deadline_in_all(name: str) -> None:
    with answer_with(SLOW[name]) as (url, _):
        endpoint = ChatEndpoint(url=url, model="m", timeout_s=TIMEOUT_S, retries=0)
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"no complete answer within 0\.3 s"):
            endpoint.complete([])
        assert time.monotonic() - start < LIMIT_S


def refuse(status: bytes, body: bytes) -> Answer:
    """Return an answer with a status and a body whose end is not told, of a connection that stays open."""
    return lambda connection: connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n" + body)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (
            b"404 Not Found",
            b'{"error": {"message": "model llava\\nis not\\u001b[2J here"}}',
            "404 Not Found: model llava is not",
        ),
        (b"404 Not Found", b'{"error": "pull it first"}', "404 Not Found: pull it first"),
        (b"400 Bad Request", b'{"message": "too many images"}', "400 Bad Request: too many images"),
        (b"422 Invalid", b'{"detail": "no such field"}', "422 Invalid: no such field"),
        (b"429 Wait", b'{"error": {"message": "out of credit"}}', "429 Wait: out of credit"),
        (b"403 Forbidden", b'{"error": {"message": "not for key-123"}}', "needs one (403): not for ..."),
        (b"404 Not Found", b'{"error": "' + b"x" * 1000 + b'"}', "404 Not Found: " + "x" * 200),
        *(
            (b"404 Not Found", body, "404 Not Found")
            for body in (b"<html>", b"", b"[1]", b'{"error": [[1]]}', b"[" * 4000, b"\xff")
        ),
    ],
)
def test_the_reason_of_a_refusal_is_told(status: bytes, body: bytes, told: str) -> None:
    with answer_with(refuse(status, body)) as (url, _):
        endpoint = ChatEndpoint(url=url, model="m", key="key-123", timeout_s=1.0, retries=0)
        with pytest.raises(EndpointError) as refused:
            endpoint.complete([])
    message = str(refused.value)
    assert told in message
    assert message.isprintable()
    assert len(message) < 300


def test_a_webhook_has_until_the_deadline_in_all() -> None:
    with answer_with(SLOW["headers"]) as (url, _):
        start = time.monotonic()
        with pytest.raises(VidretError, match=r"did not take the matches: no answer within 0\.3 s"):
            post_json(url, {}, timeout_s=TIMEOUT_S)
        assert time.monotonic() - start < LIMIT_S


def test_connecting_has_until_the_deadline() -> None:
    with answer_with(SLOW["nothing"], backlog=0) as (url, _):
        port = int(url.rpartition(":")[2].partition("/")[0])
        waiting = [socket.socket() for _ in range(8)]  # nobody accepts them, so the queue of the port is full
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        start = time.monotonic()
        with pytest.raises(TimeoutError), open_post(url, b"{}", {}, timeout_s=TIMEOUT_S):
            pass
        assert time.monotonic() - start < LIMIT_S
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/caf\u00e9 au lait?a=\u00fc&b=%20", b"POST /caf%C3%A9%20au%20lait?a=%C3%BC&b=%20 HTTP/1.1"),
        ("/plain/a+b:c@d?x=1&y=[2]", b"POST /plain/a+b:c@d?x=1&y=[2] HTTP/1.1"),
        ("", b"POST / HTTP/1.1"),
    ],
)
def test_addresses_are_sent_as_ascii(path: str, line: bytes) -> None:
    with answer_with(lambda connection: connection.sendall(OK + b"Content-Length: 0\r\n\r\n")) as (url, seen):
        post_json(url.removesuffix("/v1") + path, {"path": "/films/\ud800.mp4"})
        assert seen == [line]


def test_a_host_without_a_valid_name_is_an_error() -> None:
    for host in ("a..b", f"{'a' * 64}.example", "\u00e9\u00e9.invalid"):
        with pytest.raises(VidretError, match="did not take the matches"):
            post_json(f"http://{host}/", {}, timeout_s=TIMEOUT_S)


def test_what_is_not_http_is_an_error() -> None:
    with answer_with(lambda connection: connection.sendall(b"\0\xff" * 40 + b"\r\n")) as (url, _):
        with pytest.raises(HTTPException), open_post(url, b"", {}, timeout_s=LIMIT_S):
            pass
        with pytest.raises(VidretError, match="did not take the matches"):
            post_json(url, {}, timeout_s=LIMIT_S)
    with pytest.raises(VidretError, match=r"webhook must be a URL like http://127.0.0.1:9000/found, got host/"):
        post_json("http://user:secret@host/", {})
