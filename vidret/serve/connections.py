"""HTTP/1.1 connections, limited in number and in the time that each may keep the server waiting."""

import asyncio
import sys
from contextlib import suppress
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

if sys.platform != "win32":
    import resource

KEEP_ALIVE_S = 5
MAX_FILES = 10_240  # macOS allows no more
BACKLOG = 128  # connections that the system accepts before the server does
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 41\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\nthe server is busy: too many connections\n"
)


class Connection(H11Protocol):
    """One connection.

    uvicorn waits indefinitely for the first request, and for the rest of a request whose head has begun. Here a head
    must arrive within ``head_timeout_s``; ``access.Body`` limits bodies. Beyond ``max_connections``, the connection
    that has been idle the longest is closed: one without a request in progress, or whose client does not read the
    response, such as a paused player.
    """

    max_connections = 256
    head_timeout_s = 10.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since: float | None = None  # by the loop's clock; None while a request is in progress

    @property
    def has_no_request(self) -> bool:
        """Return whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; close a connection if there are too many."""
        super().connection_made(transport)
        self._start_timer()
        if len(self.connections) > self.max_connections:
            self._close_one()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for a request."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once the head of a request is complete."""
        super().data_received(data)
        if not self.has_no_request:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Start to wait for the next request, unless it has arrived already."""
        self._start_timer()
        super().on_response_complete()
        if not self.has_no_request:
            self._stop_timer()

    def pause_writing(self) -> None:
        """Mark the connection as idle, since the client does not read."""
        super().pause_writing()
        self.idle_since = self.loop.time()

    def resume_writing(self) -> None:
        """Mark the connection as busy, since the client reads again."""
        super().resume_writing()
        if not self.has_no_request:
            self.idle_since = None

    def _start_timer(self) -> None:
        self._stop_timer()
        self.idle_since = self.loop.time()
        self._timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _stop_timer(self) -> None:
        self.idle_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_one(self) -> None:
        """Close the connection that has been idle the longest, or else this one."""
        others = [cast(Connection, connection) for connection in self.connections if connection is not self]
        idle = [other for other in others if other.idle_since is not None]
        if idle:
            oldest = min(idle, key=lambda connection: connection.idle_since or 0.0)
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self.transport.write(BUSY)
            self.transport.close()


def allow_files() -> None:
    """Let this process have as many open files as the system allows, up to ``MAX_FILES``: a stream takes three."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(ValueError, OSError):  # macOS may allow fewer than its hard limit says
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_server(app: ASGIApp, *, connection: type[Connection] = Connection, graceful_s: int = 3) -> uvicorn.Server:
    """Return a server for listening sockets; at shutdown, requests in progress have ``graceful_s`` seconds to end."""
    allow_files()
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        log_config=None,  # use the handlers that are configured already
        log_level="warning",
        access_log=False,  # a URL may contain the token
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=graceful_s,
    )
    return uvicorn.Server(config)
