"""Films of mosaics and an index of them, prepared for UCoFiA."""

import shutil
from pathlib import Path

import pytest

from tests.fakes import PatchEncoder, write_mosaics
from vidret.engine import Engine


@pytest.fixture(scope="session")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three films, which must not be changed."""
    return write_mosaics(tmp_path_factory.mktemp("mosaics"), (3, 6, 9))


@pytest.fixture(scope="session")
def indexed_mosaics(mosaics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of ``mosaics``, which must not be changed; ``index`` is a copy that a test may change."""
    index = tmp_path_factory.mktemp("indexed") / "index"
    Engine(index, PatchEncoder(), rerank="ucofia").index([mosaics], shots=False)
    return index


@pytest.fixture
def index(indexed_mosaics: Path, tmp_path: Path) -> Path:
    return shutil.copytree(indexed_mosaics, tmp_path / "index")
