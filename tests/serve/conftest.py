"""Fixtures: videos of plain colours, their index, and clients of apps that serve it."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import COLOURS, ColourEncoder, write_coloured
from tests.index_server import serve_engine
from vidret.client import RemoteEngine
from vidret.engine import Engine
from vidret.serve.app import create_app
from vidret.serve.routes.indexing import Indexer

URL = "http://localhost"


@pytest.fixture
def engine(coloured: Path, tmp_path: Path) -> Iterator[Engine]:
    """Open a private copy of the index; its films are shared."""
    shutil.copytree(coloured / "index", tmp_path / "index")
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        yield engine


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[Engine]:
    """Open a private index of private films, which tests may change."""
    write_coloured(tmp_path / "own")
    with Engine(tmp_path / "own" / "index", ColourEncoder()) as engine:
        yield engine


Serve = Callable[..., TestClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts apps; settings are passed to ``create_app``."""
    with ExitStack() as stack:

        def start(engine: Engine, indexer: Indexer | None = None, **settings: Any) -> TestClient:
            app = create_app(engine, indexer or Indexer([]), **settings)
            return stack.enter_context(TestClient(app, base_url=URL, raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(serve: Serve, engine: Engine) -> TestClient:
    """Return a client of the app with default settings."""
    return serve(engine)


@pytest.fixture
def remote(engine: Engine) -> Iterator[RemoteEngine]:
    """Return a client that reaches the engine over a real socket."""
    with serve_engine(engine) as url, RemoteEngine(url) as remote:
        yield remote


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Return what runs the tests marked ``anyio``."""
    return "asyncio"


def find_id(engine: Engine, name: str) -> int:
    """Return the id of a video by its file name."""
    return next(video.id for video in engine.videos() if Path(video.paths[0]).name == name)


def check_refusal(answer: Any, status: int, sentence: str = "") -> None:
    """Check that an answer is a problem document with a status, whose detail has a sentence or a part of one."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert sentence in answer.json()["detail"]


def read_events(answer: Any) -> list[tuple[str, Any]]:
    """Return the names and the data of the events of an answer."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.text.split("\n\n") if event.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]


def encode(picture: Image.Image, kind: str = "PNG") -> str:
    out = io.BytesIO()
    picture.save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


BLUE = encode(Image.new("RGB", (60, 40), COLOURS["blue"]))
