"""Requests to a ``vidret serve`` over one HTTP connection."""

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from operator import methodcaller
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from vidret.errors import ConflictError, MissingVideoError, NotFoundError, OptionError, VidretError, read_fault
from vidret.text import parse_json, sanitize, strip_query
from vidret.types.rows import read_value

T = TypeVar("T")

RETRIES = 2  # when a busy server rejects a request
MAX_ANSWER_BYTES = 64 << 20  # of an answer, or of one of its events
REASON_LENGTH = 300
MAX_SENTENCE = 5000  # characters of a server's message; a path may have 4,096


class RemoteError(VidretError):
    """A request that a server rejected, or could not be reached for.

    The message is the server's, if it has one. ``status`` is the HTTP status, None without a response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RemoteOptionError(RemoteError, OptionError):
    """A request with an invalid value, for any index and any file."""


class RemoteNotFoundError(RemoteError, NotFoundError):
    """Something that the index of a server does not have."""


class RemoteMissingVideoError(RemoteNotFoundError, MissingVideoError):
    """A video that the index of a server does not have."""


class RemoteConflictError(RemoteError, ConflictError):
    """A conflict: somebody else changed the same thing on the server first."""


class _LimitedBytes(io.RawIOBase):
    """A raw stream that reads a socket until a deadline, and at most ``MAX_ANSWER_BYTES``."""

    def __init__(self, sock: Any, timeout_s: float) -> None:
        self._sock, self._timeout_s = sock, timeout_s
        self._received = sock.makefile("rb", buffering=0)  # keeps the socket open until it is closed
        self.renew()

    def renew(self) -> None:
        """Restart the deadline and the count of bytes."""
        self._deadline, self._bytes_left = time.monotonic() + self._timeout_s, MAX_ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        self._sock.settimeout(remaining_s)
        num_bytes = self._received.readinto(buffer)
        self._bytes_left -= num_bytes or 0
        if self._bytes_left < 0:
            raise _TooLargeError
        return num_bytes

    def close(self) -> None:
        self._received.close()
        super().close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a stream, as ``HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)


class _TooLargeError(Exception):
    """An answer with more bytes than one may have."""


class Server:
    """A server and the connection to it. Not thread-safe."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        """Store the address; see ``RemoteEngine``.

        Raises:
            VidretError: The URL or the token is invalid.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # such as an invalid port
            parts, port = urlsplit(""), None
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.username or " " in host:
            raise VidretError(f"url must be like http://127.0.0.1:8000, got {url.rpartition('@')[2]}")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise VidretError("token must be printable ASCII, got something else")
        self.url = url.rstrip("/")
        self._root = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=")
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = connect(host, port, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, method: str, path: str, parse: Callable[[Any], T], body: dict[str, Any] | None = None) -> T:
        """Send a request and return its parsed answer.

        Raises:
            RemoteError: There is no valid answer, or the server rejects the request.
        """
        data = None if body is None else write_json(body)
        response, content = self._send_with_retries(method, self._root + path, data)
        self._check_token(response.status)
        if response.status != 200:
            raise self._explain(response, content)
        try:
            answer = parse_json(content)
        except ValueError:
            raise self._explain(response, content, "what is no JSON") from None
        try:
            return parse(answer)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise self._explain(response, content, f"this fault: {error}") from None

    def follow(self, path: str, parse: Callable[[Iterator[tuple[str, Any]]], T], body: dict[str, Any]) -> T:
        """Send a request, and return the result of ``parse`` on its answer's events (name, data), read as they arrive.

        The time limit holds between two events or keep-alives.

        Raises:
            RemoteError: As in ``ask``; or the server reports a failure.
        """
        self._connection.close()  # the server may have closed it by now
        try:
            response, received = self._request("POST", self._root + path, write_json(body))
            self._check_token(response.status)
            if response.headers.get_content_type() != "text/event-stream":
                raise self._explain(response, response.read())
            try:
                return parse(read_events(_read_lines(response, received)))
            except (ValueError, LookupError, TypeError, OverflowError) as error:
                raise self._explain(response, b"", f"this fault: {error}") from None
        except (OSError, HTTPException, ValueError, _TooLargeError) as error:
            raise self._describe(error) from None
        finally:
            self._connection.close()  # a part of the answer may be unread

    def _explain(self, response: HTTPResponse, content: bytes, fault: str = "") -> RemoteError:
        """Return the error that a response describes, or one that reports what is wrong with the response."""
        status = response.status
        if not fault and response.headers.get_content_type() == "application/problem+json":
            with suppress(ValueError, LookupError, TypeError):
                return read_problem(parse_json(content), status)
        if 300 <= status < 400:
            target = strip_query(response.headers.get("Location", "another address"))
            answer = f"{status} {response.reason}, a redirect to {target}, which is not followed"
        else:
            answer = f"{status} {response.reason}" + (f" with {fault}" if fault else "")
        rule = "must be a vidret server" + (" of this version" if fault else "")
        return RemoteError(f"{self.url}: {rule}, got {sanitize(answer[:REASON_LENGTH])}", status)

    def _describe(self, error: Exception) -> RemoteError:
        """Return the error for a request that got no complete answer."""
        if isinstance(error, TimeoutError):
            return RemoteError(f"{self.url}: no complete answer within {self._timeout:g} s")
        if isinstance(error, _TooLargeError):
            return RemoteError(f"{self.url}: must answer with at most {MAX_ANSWER_BYTES} bytes, got more")
        fault = sanitize(read_fault(error)[:REASON_LENGTH])
        if isinstance(error, HTTPException):
            return RemoteError(f"{self.url}: must be a vidret server: {fault}")
        return RemoteError(f"{self.url}: cannot be reached: {fault}")

    def fetch_image(self, path: str) -> bytes:
        """Return the JPEG at a path.

        Raises:
            RemoteError: As in ``ask``; or the server has no image, with its reason.
        """
        response, content = self._send_with_retries("GET", self._root + path, None)
        self._check_token(response.status)
        reason = response.headers.get("X-Vidret-Reason")
        if reason is not None:
            raise RemoteError(f"{self.url}: no image: {sanitize(reason[:REASON_LENGTH])}", response.status)
        if response.status == 200 and response.headers.get_content_type() == "image/jpeg":
            return content
        raise self._explain(response, content, "no JPEG" if response.status == 200 else "")

    def _check_token(self, status: int) -> None:
        if status == 401:
            given = "another" if "Authorization" in self._headers else "none"
            raise RemoteError(f"{self.url}: token must be one that the server accepts, got {given}", status)

    def _send_with_retries(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Send a request; repeat it after the delay that a busy server requests."""
        for _ in range(RETRIES):
            response, content = self._send(method, path, body)
            wait = response.headers.get("Retry-After", "")
            if response.status != 503 or not wait.isdecimal() or len(wait) > 9 or int(wait) > self._timeout:
                return response, content
            time.sleep(int(wait))
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        may_be_closed = self._connection.sock is not None
        try:
            response, _ = self._request(method, path, body)
            may_be_closed = False
            return response, response.read()
        except (OSError, HTTPException, ValueError, _TooLargeError) as error:
            self._connection.close()
            if may_be_closed and isinstance(error, OSError | HTTPException) and not isinstance(error, TimeoutError):
                return self._send(method, path, body)  # the server closed it while it was idle
            raise self._describe(error) from error

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, _LimitedBytes]:
        """Send a request; return its response, and the stream that limits the time and size of its body."""
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._timeout)
        self._connection.request(method, path, body, self._headers)
        received = _LimitedBytes(self._connection.sock, self._timeout)
        self._connection.response_class = lambda _sock, **how: HTTPResponse(received, **how)  # type: ignore
        return self._connection.getresponse(), received


def _read_lines(response: HTTPResponse, received: _LimitedBytes) -> Iterator[bytes]:
    """Yield the lines of an answer; the limits of time and size apply to each line."""
    for line in response:
        yield line
        received.renew()


def write_json(body: dict[str, Any]) -> bytes:
    """Return the body of a request as JSON; NumPy numbers are allowed."""
    return json.dumps(body, default=methodcaller("item")).encode()


def read_events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the names and the data of server-sent events whose data is one line of JSON; skip comments.

    Raises:
        ValueError: A line is not UTF-8, or data is not JSON.
        RemoteError: An event reports that the server failed.
    """
    name = ""
    for line in lines:
        field, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data = parse_json(value)
            if name == "problem":
                raise read_problem(data, int(data["status"]))
            yield name, data


def read_problem(problem: dict[str, Any], status: int) -> RemoteError:
    """Return the error that a problem document (RFC 9457) describes; some servers leave out its kind."""
    sentence = sanitize(read_value("detail", str, problem["detail"])[:MAX_SENTENCE])
    if status == HTTPStatus.NOT_FOUND:
        return RemoteNotFoundError(sentence, status)
    if status == HTTPStatus.CONFLICT:
        return RemoteConflictError(sentence, status)
    return (RemoteOptionError if problem.get("kind") == "usage" else RemoteError)(sentence, status)
