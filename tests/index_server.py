"""Real servers on free ports, in threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp

from tests.fakes import ColourEncoder
from vidret.cli.commands.serve import listen, page_url
from vidret.engine import Engine
from vidret.serve.app import create_app
from vidret.serve.connections import Connection, make_server
from vidret.serve.routes.indexing import Indexer


@contextmanager
def run_app(app: ASGIApp, connection: type[Connection] = Connection) -> Iterator[str]:
    """Run a server of an app, and yield its URL."""
    with listen("127.0.0.1", 0) as listening:
        server = make_server(app, connection=connection, graceful_s=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield page_url(listening, None).rstrip("/")
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serve_index(index: Path, token: str | None = None) -> Iterator[str]:
    """Serve an index of colours on a free port."""
    with Engine(index, ColourEncoder()) as engine, run_app(create_app(engine, Indexer([]), token=token)) as url:
        yield url
