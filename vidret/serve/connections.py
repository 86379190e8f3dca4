"""Listen: HTTP/1.1 connections, bounded in number, and in the time that each may keep the server waiting."""

import asyncio
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE_S = 5
BACKLOG = 128  # that many are accepted before any is looked at
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 41\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\nthe server is busy: too many connections\n"
)


class Connection(H11Protocol):
    """One connection.

    uvicorn waits for ever for the first request, and for the rest of a request whose head has begun. Here a head must
    arrive within ``head_s``; bodies have bounds of their own. Of more than ``most`` connections the one is closed that
    has been quiet the longest: it has no request under way, or takes nothing of its answer, as a paused player.
    """

    most = 256
    head_s = 10.0

    def __init__(self, *arguments: Any, **given: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **given)
        self._timer: asyncio.TimerHandle | None = None
        self.quiet_since: float | None = None  # by the loop's clock; None while the server works for it

    @property
    def waits(self) -> bool:
        """Return whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or turn the peer away."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        if not self.waits:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it has come already."""
        self._wait()
        super().on_response_complete()
        if not self.waits:
            self._stop_waiting()

    def pause_writing(self) -> None:
        """Note that the peer takes nothing."""
        super().pause_writing()
        self.quiet_since = self.loop.time()

    def resume_writing(self) -> None:
        """Note that the peer takes something."""
        super().resume_writing()
        if not self.waits:
            self.quiet_since = None

    def _wait(self) -> None:
        self._stop_waiting()
        self.quiet_since = self.loop.time()
        self._timer = self.loop.call_later(self.head_s, self.transport.close)

    def _stop_waiting(self) -> None:
        self.quiet_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        others = [cast(Connection, each) for each in self.connections if each is not self]
        quiet = [each for each in others if each.quiet_since is not None]
        if quiet:
            oldest = min(quiet, key=lambda each: each.quiet_since or 0.0)
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self.transport.write(BUSY)
            self.transport.close()


def make_server(app: ASGIApp, *, connection: type[Connection] = Connection, graceful_s: int = 3) -> uvicorn.Server:
    """Return a server of an app, to be run with listening sockets.

    Args:
        app: The app.
        connection: What handles each connection.
        graceful_s: Seconds that requests under way have when the server ends.
    """
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        log_config=None,  # its messages go where all others go
        log_level="warning",
        access_log=False,  # an address may hold the token
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=graceful_s,
    )
    return uvicorn.Server(config)
