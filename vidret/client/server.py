"""Requests to a ``vidret serve`` over one HTTP connection."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vidret.errors import MissingVideoError, OptionError, VidretError, read_fault

T = TypeVar("T")

RETRIES = 2  # of a request that a busy server rejected


class RemoteError(VidretError):
    """A request that a server rejected, or could not be reached for.

    The message is the server's, if it has one. ``status`` is the HTTP status, None without a response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RemoteOptionError(RemoteError, OptionError):
    """A request with a value that is wrong whatever an index or a file holds."""


class RemoteMissingVideoError(RemoteError, MissingVideoError):
    """A video that the index of a server does not have."""


class Server:
    """A server and the connection to it, which one thread may use."""

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
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise VidretError(f"url must be like http://127.0.0.1:8000, got {url}")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise VidretError("token must be printable ASCII, got something else")
        self.url = url.rstrip("/")
        self._root = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = connect(parts.hostname, port, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, method: str, path: str, parse: Callable[[Any], T], body: dict[str, Any] | None = None) -> T:
        """Send a request and return its parsed answer.

        Raises:
            RemoteError: There is no valid answer, or the server rejects the request.
        """
        data = None if body is None else json.dumps(body).encode()
        response, content = self._send_with_retries(method, self._root + path, data)
        status = response.status
        self._check_token(status)
        try:
            if status == 200:
                return parse(json.loads(content))
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # raised below
        raise self._explain(response, content)

    def follow(self, path: str, parse: Callable[[Iterator[tuple[str, Any]]], T], body: dict[str, Any]) -> T:
        """Send a request, and return what is parsed of the events of its answer as they arrive: names and data.

        The time limit is that between two events or signs of life.

        Raises:
            RemoteError: As in ``ask``; or the server says that it failed.
        """
        self._connection.close()  # the server may have closed it meanwhile
        try:
            self._connection.request("POST", self._root + path, json.dumps(body).encode(), self._headers)
            response = self._connection.getresponse()
            self._check_token(response.status)
            if response.headers.get_content_type() != "text/event-stream":
                raise self._explain(response, response.read())
            return parse(read_events(response))
        except TimeoutError:
            raise RemoteError(f"{self.url}: no answer within {self._timeout:g} s") from None
        except (OSError, HTTPException) as error:
            raise RemoteError(f"{self.url}: cannot be reached: {read_fault(error)}") from error
        except (ValueError, LookupError, TypeError, RecursionError):
            raise RemoteError(f"{self.url}: must be a vidret server, got other events") from None
        finally:
            self._connection.close()  # a part of the answer may be unread

    def _explain(self, response: HTTPResponse, content: bytes) -> RemoteError:
        """Return the error that a response describes."""
        if response.headers.get_content_type() == "application/problem+json":
            with suppress(ValueError, LookupError, TypeError, RecursionError):
                return read_problem(json.loads(content), response.status)
        answer = f"{response.status} {response.reason}"
        return RemoteError(f"{self.url}: must be a vidret server, got {answer}", response.status)

    def fetch_image(self, path: str) -> bytes:
        """Return the JPEG at a path.

        Raises:
            RemoteError: As in ``ask``; or the server says why it has no image.
        """
        response, content = self._send_with_retries("GET", self._root + path, None)
        self._check_token(response.status)
        reason = response.headers.get("X-Vidret-Reason")
        if reason is not None:
            raise RemoteError(f"{self.url}: no image: {reason}", response.status)
        if response.status == 200 and response.headers.get_content_type() == "image/jpeg":
            return content
        raise RemoteError(f"{self.url}: no image, got {response.status} {response.reason}", response.status)

    def _check_token(self, status: int) -> None:
        if status == 401:
            given = "another" if "Authorization" in self._headers else "none"
            raise RemoteError(f"{self.url}: token must be the one the server was started with, got {given}", status)

    def _send_with_retries(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Send a request; repeat it after the delay that a busy server requests."""
        for _ in range(RETRIES):
            response, content = self._send(method, path, body)
            wait = response.headers.get("Retry-After", "")
            if response.status != 503 or not wait.isdecimal() or int(wait) > self._timeout:
                return response, content
            time.sleep(int(wait))
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        may_be_closed = self._connection.sock is not None
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            may_be_closed = False
            return response, response.read()
        except TimeoutError:
            self._connection.close()
            raise RemoteError(f"{self.url}: no answer within {self._timeout:g} s") from None
        except (OSError, HTTPException) as error:
            self._connection.close()
            if may_be_closed:  # by the server, while it was idle
                return self._send(method, path, body)
            if isinstance(error, HTTPException):
                raise RemoteError(f"{self.url}: must be a vidret server: {error}") from error
            raise RemoteError(f"{self.url}: cannot be reached: {read_fault(error)}") from error


def read_events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the names and the data of server-sent events whose data is one line of JSON; skip comments.

    Raises:
        ValueError: A line is not UTF-8, or data is not JSON.
        RemoteError: An event says that the server failed.
    """
    name = ""
    for line in lines:
        field, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data = json.loads(value)
            if name == "problem":
                raise read_problem(data, int(data["status"]))
            yield name, data


def read_problem(problem: dict[str, Any], status: int) -> RemoteError:
    """Return the error that a problem document (RFC 9457) describes; not every server tells its kind."""
    sentence = str(problem["detail"])
    return (RemoteOptionError if problem.get("kind") == "usage" else RemoteError)(sentence, status)
