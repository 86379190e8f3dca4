"""One HTTP request with one deadline, from connecting to the end of the answer; and results posted to a webhook."""

import io
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from vidret.errors import VidretError

PORTS = {"http": 80, "https": 443}
SAFE = "/%?=&:@+,;!$'()*~[]"  # characters of a path and a query that are sent as they are


class _TimedBytes(io.RawIOBase):
    """The bytes that a socket receives until a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_time_left(self._deadline))
        return self._sock.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a stream, as ``HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)


@contextmanager
def open_post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Iterator[HTTPResponse]:
    """Post to an http or https URL; yield the response, whose reads end at the deadline too. No proxy is used.

    Raises:
        TimeoutError: The deadline has passed.
        OSError: The host cannot be reached, or is not trusted.
        HTTPException: The answer is not HTTP.
    """
    deadline = time.monotonic() + timeout_s
    parts = urlsplit(url)
    assert parts.hostname is not None
    target = quote(parts.path or "/", SAFE, errors="replace")
    target += f"?{quote(parts.query, SAFE, errors='replace')}" if parts.query else ""
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port)
    try:
        connection.sock = _connect(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme], deadline)
        connection.sock.settimeout(_time_left(deadline))
        connection.request("POST", target, body, dict(headers))
        with HTTPResponse(_TimedBytes(connection.sock, deadline), method="POST") as response:  # type: ignore[arg-type]
            response.begin()
            yield response
    finally:
        connection.close()


def _connect(scheme: str, host: str, port: int, deadline: float) -> socket.socket:
    """Return a connection to the first address of a host that accepts one, encrypted for https."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"the name of the host is invalid: {error}") from error
    for number, (family, kind, protocol, _, address) in enumerate(addresses, start=1):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_time_left(deadline))
            sock.connect(address)
            if scheme == "http":
                return sock
            sock.settimeout(_time_left(deadline))
            return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:
            sock.close()
            if number == len(addresses) or isinstance(error, TimeoutError | ssl.SSLError):
                raise
    raise OSError("the host has no address")


def _time_left(deadline: float) -> float:
    """Return the seconds until a deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


WEBHOOK_TIMEOUT_S = 10.0


def check_webhook(url: str) -> None:
    """Check a URL before anything is computed for it.

    Raises:
        VidretError: It is no http or https URL with a host and without a user.
    """
    try:
        parts = urlsplit(url)
        is_valid = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and parts.username is None
        )
    except ValueError:  # such as an invalid port
        is_valid = False
    if not is_valid:
        raise VidretError(f"webhook must be a URL like http://127.0.0.1:9000/found, got {url.rpartition('@')[2]}")


def post_json(url: str, content: Mapping[str, Any], *, timeout_s: float = WEBHOOK_TIMEOUT_S) -> None:
    """Post an object as JSON, without following redirects.

    Raises:
        VidretError: The URL is invalid, does not answer in time, or answers with an error.
    """
    check_webhook(url)
    sender = f"webhook: {urlsplit(url).netloc} did not take the matches"
    headers = {"Content-Type": "application/json"}
    try:
        with open_post(url, json.dumps(content).encode(), headers, timeout_s=timeout_s) as response:
            status, reason = response.status, response.reason
    except TimeoutError:
        raise VidretError(f"{sender}: no answer within {timeout_s:g} s") from None
    except (OSError, HTTPException) as error:
        raise VidretError(f"{sender}: {error}") from error
    if not 200 <= status < 300:
        raise VidretError(f"{sender}: it answered {status} {reason}")
