"""An index of the coloured films that a module writes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder
from vidret.engine import Engine


@pytest.fixture(scope="module")
def indexed(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "index"
    with Engine(folder, ColourEncoder()) as engine:
        engine.index([films], shots=False)
    return folder


@pytest.fixture
def engine(indexed: Path, tmp_path: Path) -> Iterator[Engine]:
    with Engine(shutil.copytree(indexed, tmp_path / "index"), ColourEncoder()) as engine:
        yield engine
