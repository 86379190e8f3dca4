"""Films of mosaics and an index of them, prepared for UCoFiA."""

import shutil
from pathlib import Path

import pytest

from tests.fakes import PatchEncoder, write_mosaics
from tests.grounded import write_head
from vidret.encode.clip.encoder import ClipEncoder
from vidret.engine import Engine
from vidret.types import Frames, LayerTokens


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


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a grounding head."""
    return write_head(tmp_path_factory.mktemp("heads") / "head.safetensors")


@pytest.fixture
def layer_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each pass of the encoder for a head alone adds its number of frames."""
    counts: list[int] = []
    encode = ClipEncoder.encode_layers

    def count(self: ClipEncoder, frames: Frames, num_layers: int) -> LayerTokens:
        counts.append(len(frames))
        return encode(self, frames, num_layers)

    monkeypatch.setattr(ClipEncoder, "encode_layers", count)
    return counts
