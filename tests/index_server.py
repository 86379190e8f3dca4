"""A real server of an index of colours, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tests.fakes import ColourEncoder
from vidret.engine import Engine
from vidret.serve.app import create_app
from vidret.serve.routes.indexing import Indexer


@contextmanager
def serve_index(index: Path, token: str | None = None) -> Iterator[str]:
    """Serve an index of colours on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening, Engine(index, ColourEncoder()) as engine:
        app = create_app(engine, Indexer([]), token=token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
