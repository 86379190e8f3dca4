"""JSON over HTTP to a URL that the user names: endpoints of models, and webhooks. Nothing is sent anywhere else.

Redirects are refused, sizes are limited, the key appears in no message, and one deadline holds for a whole request.
"""

import io
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from time import monotonic, sleep
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from vidret.errors import VidretError, read_fault
from vidret.text import parse_json, sanitize

PORTS = {"http": 80, "https": 443}
SAFE = "/%?=&:@+,;!$'()*~[]"  # characters of a path and a query that are sent as they are
WEBHOOK_TIMEOUT_S = 10.0
MAX_REQUEST_BYTES = 32 << 20
BUSY = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 20.0
REASON_LENGTH = 200
MAX_REASON_BYTES = 1 << 16
POLL_S = 0.25  # between two looks whether an answer is still awaited

T = TypeVar("T")
Read = Callable[[str, Iterator[bytes]], Iterator[T]]  # from the type of an answer and its lines


def is_awaited() -> bool:
    """Return True: somebody waits for the answer."""
    return True


class _TimedBytes(io.RawIOBase):
    """The bytes that a socket receives until a deadline, or until nobody waits for them."""

    def __init__(self, sock: socket.socket, deadline: float, awaited: Callable[[], bool]) -> None:
        self._sock, self._deadline, self._awaited = sock, deadline, awaited

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._awaited():
            self._sock.settimeout(min(POLL_S, _time_left(self._deadline)))
            with suppress(TimeoutError):
                return self._sock.recv_into(buffer)
        raise EndpointError("nobody waits for the answer")

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a stream, as ``HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)


@contextmanager
def open_post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, awaited: Callable[[], bool] = is_awaited
) -> Iterator[HTTPResponse]:
    """Post to an http or https URL; yield the response, whose reads end at the deadline too. No proxy is used.

    Raises:
        TimeoutError: The deadline has passed.
        EndpointError: The answer is not ``awaited`` any more.
        OSError: The host cannot be reached, or is not trusted.
        HTTPException: The answer is not HTTP.
    """
    deadline = monotonic() + timeout_s
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
        received = _TimedBytes(connection.sock, deadline, awaited)
        with HTTPResponse(received, method="POST") as response:  # type: ignore[arg-type]
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
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def check_webhook(url: str) -> None:
    """Check a URL before anything is computed for it.

    Raises:
        VidretError: It is no http or https URL with a host and without a user.
    """
    if not _is_plain(url):
        raise VidretError(f"webhook must be a URL like http://127.0.0.1:9000/found, got {url.rpartition('@')[2]}")


def _is_plain(url: str) -> bool:
    """Return whether a URL is of http or https, with a host and a valid port, and without a user or a password."""
    try:
        parts = urlsplit(url)
        return parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:  # such as an invalid port
        return False


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


class EndpointError(VidretError):
    """An endpoint that cannot be used, or whose answer cannot be read."""


class _BusyError(Exception):
    """A failure that may pass: the sentence, and the seconds that the endpoint asks to wait."""

    def __init__(self, sentence: str, wait_s: float | None = None) -> None:
        super().__init__(sentence)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonTransport:
    """How an endpoint is reached.

    Attributes:
        url: Base URL; ``path`` is added unless it is there.
        path: Path of the requests, such as ``/chat/completions``.
        option: What the user calls the URL, for errors.
        example: An example of such a URL.
        key: Sent as a bearer token; None for none.
        key_variable: The environment variable of the key, for errors.
        timeout_s: Maximum time of one request, until its answer is complete.
        retries: Further attempts after failures that may pass.
        backoff_s: Wait before the first retry; doubled for each further one.
        max_answer_bytes: Maximum size of an answer.
        awaited: Returns whether somebody still waits for the answer; if not, the request ends.
    """

    url: str
    path: str
    option: str
    example: str
    key: str | None = field(default=None, repr=False)
    key_variable: str
    timeout_s: float
    retries: int
    backoff_s: float
    max_answer_bytes: int
    awaited: Callable[[], bool] = field(default=is_awaited, repr=False)

    def __post_init__(self) -> None:
        if not _is_plain(self.url) or (parts := urlsplit(self.url)).query:
            raise VidretError(f"{self.option} must be a URL such as {self.example}, without a user or a query")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise VidretError(f"{self.key_variable} must be printable ASCII, got something else")
        if self.key and parts.scheme == "http" and not is_loopback(str(parts.hostname)):
            raise VidretError(f"{self.option} must be an https URL to send the key in {self.key_variable}, got http")

    @property
    def name(self) -> str:
        """The scheme, host and port, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def post(self, request: dict[str, Any], read: Read[T], *, what: str) -> Iterator[T]:
        """Yield what ``read`` yields of the answer to a request, which is repeated after failures that may pass.

        It is not repeated once something was yielded. ``read`` gets the type of an answer and its lines, and raises
        ValueError, LookupError, TypeError, AttributeError or RecursionError if it is not ``what`` is expected.

        Raises:
            EndpointError: The endpoint does not answer in time, refuses, redirects, or its answer cannot be read.
        """
        body = json.dumps(request).encode()
        if len(body) > MAX_REQUEST_BYTES:
            raise EndpointError(f"the request must have at most {MAX_REQUEST_BYTES} bytes, got {len(body)}")
        for attempt in range(self.retries + 1):
            has_begun = False
            try:
                for piece in self._send(body, read, what):
                    has_begun = True
                    yield piece
            except _BusyError as error:
                if attempt == self.retries or has_begun or not self.awaited():
                    raise EndpointError(f"{self.name}: {error}") from None
                sleep(min(error.wait_s or self.backoff_s * 2**attempt, LONGEST_WAIT_S))
                continue
            return
        raise EndpointError(f"{self.name}: retries must not be negative, got {self.retries}")

    def _send(self, body: bytes, read: Read[T], what: str) -> Iterator[T]:
        """Yield what ``read`` yields of the answer to one request."""
        try:
            limits: Any = {"timeout_s": self.timeout_s, "awaited": self.awaited}
            with open_post(self._target, body, self._headers, **limits) as response:
                self._check_status(response)
                lines = _read_lines(response, self.max_answer_bytes)
                yield from read(response.headers.get_content_type(), lines)
        except TimeoutError:
            raise _BusyError(f"no complete answer within {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise _BusyError(f"cannot be reached: {sanitize(read_fault(error))[:REASON_LENGTH]}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise EndpointError(f"{self.name}: must answer with {what}, got something else") from None

    @property
    def _target(self) -> str:
        url = self.url.rstrip("/")
        return url if url.endswith(self.path) else f"{url}{self.path}"

    @property
    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def _check_status(self, response: HTTPResponse) -> None:
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            raise EndpointError(f"{self.name}: must not redirect, got status {status}; give the address that answers")
        reason = self._read_reason(response)
        answered = f"answered {status} {sanitize(response.reason)[:REASON_LENGTH]}{reason}"
        if status in BUSY:
            wait = response.headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdecimal() and len(wait) < 6 else None
            raise _BusyError(answered, seconds)
        if status in (401, 403):
            raise EndpointError(f"{self.name}: refuses the key in {self.key_variable}, or needs one ({status}){reason}")
        raise EndpointError(f"{self.name}: {answered}")

    def _read_reason(self, response: HTTPResponse) -> str:
        """Return what the JSON of a refusal says, after a colon; empty if it says nothing, or not at once."""
        try:
            said = parse_json(response.read1(MAX_REASON_BYTES))
        except (OSError, HTTPException, ValueError):
            return ""
        for field_name in ("error", "message", "detail"):
            if isinstance(said, dict) and field_name in said:
                said = said[field_name]
        if not isinstance(said, str) or not said.strip():
            return ""
        line = " ".join(said.replace(self.key, "...").split() if self.key else said.split())
        return f": {sanitize(line)[:REASON_LENGTH]}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_lines(response: HTTPResponse, max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a body as they arrive, with their ends."""
    size, rest = 0, b""
    while True:
        piece = response.read1(65536)
        size += len(piece)
        if size > max_bytes:
            raise EndpointError(f"the endpoint's answer must have at most {max_bytes} bytes, got more")
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if not piece:
            if rest:
                yield rest
            return
