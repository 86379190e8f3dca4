"""An index of the coloured films that a module writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder
from vidret.engine import Engine


@pytest.fixture
def engine(films: Path, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([films], shots=False)
        yield engine
