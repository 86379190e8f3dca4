"""A chat endpoint in OpenAI's style, at a URL that the user names. Nothing is sent anywhere else.

Redirects are refused, time and sizes are limited, and the key appears in no message.
"""

import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from vidret.errors import VidretError
from vidret.text import sanitize

KEY_VARIABLE = "VIDRET_LLM_KEY"
MAX_REQUEST_BYTES = 32 << 20
MAX_ANSWER_BYTES = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 20.0
REASON_LENGTH = 200


class EndpointError(VidretError):
    """A chat endpoint that cannot be used, or whose answer cannot be read."""


class _BusyError(Exception):
    """A failure that may pass: the sentence, and the seconds that the endpoint asks to wait."""

    def __init__(self, sentence: str, wait_s: float | None = None) -> None:
        super().__init__(sentence)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """A chat endpoint.

    Attributes:
        url: Base URL, such as ``http://127.0.0.1:11434/v1``; ``/chat/completions`` is added unless it is there.
        model: Name of the model.
        key: Sent as a bearer token; None for none.
        timeout_s: Maximum time of one request, until its answer is complete.
        retries: Further attempts after failures that may pass.
        max_tokens: Maximum length of an answer.
        backoff_s: Wait before the first retry; doubled for each further one.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    retries: int = 2
    max_tokens: int = 800
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the address and the key.

        Raises:
            VidretError: The URL is invalid, or the key would be sent over plain HTTP to another machine.
        """
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise VidretError("llm must be a URL such as http://127.0.0.1:11434/v1, without a user or a query")
        if not self.model:
            raise VidretError("llm model must be named, got none")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise VidretError(f"{KEY_VARIABLE} must be printable ASCII, got something else")
        if self.key and parts.scheme == "http" and not _is_this_machine(parts.hostname):
            raise VidretError(f"llm must be an https URL to send the key in {KEY_VARIABLE}, got http")

    def complete(self, messages: list[dict[str, Any]], *, sleep: Callable[[float], None] = time.sleep) -> str:
        """Return the model's answer to messages.

        A request is repeated after a failure that may pass, unless a part of the answer has arrived.

        Raises:
            EndpointError: The endpoint does not answer in time, refuses, redirects, or its answer cannot be read.
        """
        return "".join(self._ask(messages, is_streamed=False, sleep=sleep))

    def stream(self, messages: list[dict[str, Any]], *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
        """Yield the pieces of the model's answer as they arrive; all in one from an endpoint that cannot stream.

        Raises:
            EndpointError: As in ``complete``.
        """
        return self._ask(messages, is_streamed=True, sleep=sleep)

    def _ask(
        self, messages: list[dict[str, Any]], *, is_streamed: bool, sleep: Callable[[float], None]
    ) -> Iterator[str]:
        request = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0}
        body = json.dumps(request | ({"stream": True} if is_streamed else {})).encode()
        if len(body) > MAX_REQUEST_BYTES:
            raise EndpointError(f"the request must have at most {MAX_REQUEST_BYTES} bytes, got {len(body)}")
        for attempt in range(self.retries + 1):
            has_begun = has_text = False
            try:
                for piece in self._send(body):
                    has_begun, has_text = True, has_text or bool(piece.strip())
                    yield piece
            except _BusyError as error:
                if attempt == self.retries or has_begun:
                    raise EndpointError(f"{self._name}: {error}") from None
                sleep(min(error.wait_s or self.backoff_s * 2**attempt, LONGEST_WAIT_S))
                continue
            if not has_text:
                raise EndpointError(f"{self._name}: must answer with text, got none")
            return
        raise EndpointError(f"{self._name}: retries must not be negative, got {self.retries}")

    @property
    def _name(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def _send(self, body: bytes) -> Iterator[str]:
        """Yield the pieces of the answer to one request."""
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._open(body) as (connection, response):
                self._check_status(response)
                lines = _read_lines(connection, response, deadline)
                if response.headers.get_content_type() == "text/event-stream":
                    yield from _read_events(lines)
                else:
                    yield _read_message(json.loads(b"".join(lines)))
        except TimeoutError:
            raise _BusyError(f"no complete answer within {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise _BusyError(f"cannot be reached: {sanitize(str(error))[:REASON_LENGTH]}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise EndpointError(f"{self._name}: must answer with a chat completion, got something else") from None

    @contextmanager
    def _open(self, body: bytes) -> Iterator[tuple[HTTPConnection, HTTPResponse]]:
        """Send a request, and yield the connection and the response, both closed afterwards."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        assert parts.hostname is not None
        connection = connect(parts.hostname, parts.port, timeout=self.timeout_s)
        response: HTTPResponse | None = None
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            yield connection, response
        finally:
            if response is not None:
                response.close()  # it keeps the socket of a connection that the endpoint closes
            connection.close()

    def _check_status(self, response: HTTPResponse) -> None:
        status = response.status
        if 300 <= status < 400:
            raise EndpointError(f"{self._name}: must answer itself, got a redirect ({status}), which is not followed")
        if status in BUSY:
            wait = response.headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdecimal() and len(wait) < 6 else None
            raise _BusyError(f"answered {status} {sanitize(response.reason)[:REASON_LENGTH]}", seconds)
        if status in (401, 403):
            raise EndpointError(f"{self._name}: refuses the key in {KEY_VARIABLE}, or needs one ({status})")
        if status != 200:
            raise EndpointError(f"{self._name}: answered {status} {sanitize(response.reason)[:REASON_LENGTH]}")


def read_key() -> str | None:
    """Return the key in the environment; None if it is not set."""
    return os.environ.get(KEY_VARIABLE) or None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_lines(connection: HTTPConnection, response: HTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yield the lines of a body as they arrive, with their ends.

    Raises:
        TimeoutError: It is not complete at the deadline.
        EndpointError: It is too large.
    """
    size, rest = 0, b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:  # None once the endpoint has said that it closes
            connection.sock.settimeout(left)
        piece = response.read1(65536)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise EndpointError(f"the endpoint's answer must have at most {MAX_ANSWER_BYTES} bytes, got more")
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if not piece:
            if rest:
                yield rest
            return


def _read_message(answer: Any) -> str:
    content = answer["choices"][0]["message"]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError
    return content


def _read_events(lines: Iterator[bytes]) -> Iterator[str]:
    """Yield the pieces of a streamed answer.

    Raises:
        ValueError: The stream ends before it says that it is complete.
    """
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            return
        for choice in json.loads(data.decode("utf-8"))["choices"][:1]:
            piece = choice.get("delta", {}).get("content") or ""
            if not isinstance(piece, str):
                raise TypeError
            if piece:
                yield piece
    raise ValueError("the stream must end with [DONE]")
