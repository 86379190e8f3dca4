"""HTTP/1.1 connections, limited in number and in the time that each may keep the server waiting."""

import asyncio
import logging
import socket
import sys
from contextlib import suppress
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 5
MAX_FILES = 10_240  # macOS allows no more
MAX_REFUSED = 4  # connections that are refused and not closed yet
OWN_FILES = 48  # of the index, of models, of processes that draw frames, and of refused connections
CONNECTION_FILES = 5  # three of a stream, and two of the catalog, which each thread opens
CANCEL_S = 1  # for requests in progress that a shutdown cancels, to answer
BACKLOG = 128  # connections that wait until the server accepts them
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 41\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\nthe server is busy: too many connections\n"
)


class Connection(H11Protocol):
    """One connection.

    uvicorn waits indefinitely for the first request, and for the rest of a request whose head has begun. Here a head
    must arrive within ``head_timeout_s``; ``access.Body`` limits bodies. Beyond ``max_connections``, the connection
    that has been idle the longest is closed: one without a request in progress, or whose client does not read the
    response, such as a paused player. If none is idle, the new one is refused, and stays open until its client has read
    that: closing it while the client sends a request would discard the response.
    """

    max_connections = 256
    head_timeout_s = 10.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._timer: asyncio.TimerHandle | None = None
        self.is_refused = False
        self.idle_since: float | None = None  # by the loop's clock; None while a request is in progress

    @property
    def has_no_request(self) -> bool:
        """Return whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; close a connection if there are too many."""
        super().connection_made(transport)
        self._start_timer()
        if len(self.connections) > count_connections(self.max_connections):
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for a request."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once the head of a request is complete."""
        if self.is_refused:
            return
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

    def _make_room(self) -> None:
        """Close the connection that has been idle the longest, or else refuse this one, if there are too many."""
        connections = [cast(Connection, connection) for connection in self.connections]
        served = [connection for connection in connections if not connection.is_refused]
        if len(served) <= count_connections(self.max_connections):
            return
        idle = [other for other in served if other is not self and other.idle_since is not None]
        if not idle:
            self.is_refused = True
            self.transport.write(BUSY)
            with suppress(OSError):  # the client has left
                self.transport.write_eof()
            idle = [connection for connection in connections if connection.is_refused]
            if len(idle) <= MAX_REFUSED:
                return
        oldest = min(idle, key=lambda connection: connection.idle_since or 0.0)
        self.connections.discard(oldest)
        oldest.transport.abort()


class _Server(uvicorn.Server):
    """A server that accepts one connection at a time, and leaves none open.

    asyncio accepts as many at once as may wait. If no file is left, it reports an error for each of them, and tries
    again for each.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve; ``BACKLOG`` connections may wait."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to serve; also connections whose clients do not read their responses are closed."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=CANCEL_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def allow_files() -> None:
    """Let this process have as many open files as the system allows, up to ``MAX_FILES``."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(ValueError, OSError):  # macOS may allow fewer than its hard limit says
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def count_connections(most: int) -> int:
    """Return the number of connections for whose files this process has room, from 1 to ``most``."""
    if sys.platform != "win32":
        num_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if num_files != resource.RLIM_INFINITY:
            return max(1, min(most, (num_files - OWN_FILES) // CONNECTION_FILES))
    return most


def make_server(app: ASGIApp, *, connection: type[Connection] = Connection, graceful_s: int = 3) -> uvicorn.Server:
    """Return a server for listening sockets; at shutdown, requests in progress have ``graceful_s`` seconds to end."""
    allow_files()
    if (num_connections := count_connections(connection.max_connections)) < connection.max_connections:
        logger.warning(
            "at most %d connections at once, since the system allows few open files (ulimit -Hn)", num_connections
        )
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        log_config=None,  # use the handlers that are configured already
        log_level="warning",
        access_log=False,  # a URL may contain the token
        server_header=False,
        backlog=1,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=graceful_s,
    )
    return _Server(config)
