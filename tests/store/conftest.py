"""A copy of an index, and a Milvus server, for the tests of the store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the index that a module has made, which a test may change or damage."""
    return shutil.copytree(made, tmp_path / "index")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Return the address of milvus-lite in a thread, which behaves like a server."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    serving, database, port = start_server_in_thread(str(tmp_path / "server"))
    yield f"milvus://127.0.0.1:{port}"
    serving.stop(grace=None).wait()
    database.close()
