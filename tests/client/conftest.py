"""An index of colours that local and remote engines search."""

import os
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine


@pytest.fixture(scope="package")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(folder / "films" / "blue.mp4", ("blue", 9))
    (folder / "films" / "copy.mp4").write_bytes((folder / "films" / "red.mp4").read_bytes())
    (folder / "films" / "bad.mp4").write_text("no video")
    os.utime(folder / "films" / "blue.mp4", (86400, 86400))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    return folder / "index"
