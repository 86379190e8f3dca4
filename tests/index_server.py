"""Real servers on free ports, in threads."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import uvicorn.server
from starlette.types import ASGIApp

from tests.fakes import ColourEncoder
from vidret.cli.commands.serve import listen, page_url
from vidret.engine import Engine
from vidret.serve.app import create_app
from vidret.serve.connections import Connection, make_server
from vidret.serve.routes.indexing import Indexer

# For the end: uvicorn looks ten times a second whether all has ended, and lets requests take whole seconds.
_QUICK = {
    "sleep": lambda delay_s: asyncio.sleep(delay_s / 10),
    "wait_for": lambda awaitable, timeout: asyncio.wait_for(awaitable, timeout / 4),
}
_ASYNCIO = SimpleNamespace(**{**vars(asyncio), **_QUICK})


@contextmanager
def run_app(app: ASGIApp, connection: type[Connection] = Connection) -> Iterator[str]:
    """Run a server of an app, and yield its URL."""
    ending = threading.Event()

    async def wait_for_end() -> None:  # uvicorn would look ten times a second
        await server.on_tick(0)
        await asyncio.to_thread(ending.wait)

    with listen("127.0.0.1", 0) as listening:
        server = make_server(app, connection=connection, graceful_s=1)
        server.main_loop = wait_for_end  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield page_url(listening, None).rstrip("/")
        finally:
            with mock.patch.object(uvicorn.server, "asyncio", _ASYNCIO):
                ending.set()
                thread.join()


@contextmanager
def serve_engine(
    engine: Engine, connection: type[Connection] = Connection, *, indexer: Indexer | None = None, **settings: Any
) -> Iterator[str]:
    """Serve an engine, and yield its URL; settings are passed to ``create_app``."""
    with run_app(create_app(engine, indexer or Indexer([]), **settings), connection) as url:
        yield url


@contextmanager
def serve_index(index: Path, token: str | None = None) -> Iterator[str]:
    """Serve an index of colours on a free port."""
    with Engine(index, ColourEncoder()) as engine, serve_engine(engine, token=token) as url:
        yield url


def connect(url: str) -> socket.socket:
    """Connect to a server."""
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    client.settimeout(20)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


# The command line with an encoder of colours.
COLOURED = """
import vidret.engine
from tests.fakes import ColourEncoder
vidret.engine.load_encoder = lambda *_, **__: ColourEncoder()
from vidret.cli import main
main()
"""
