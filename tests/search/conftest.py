"""Grounding heads, how often an encoder runs for one, lasting decoding processes, and a fake encoder of sentences."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grounded import lasting_pools, write_head
from tests.noting import note_calls
from tests.spoken import fake_sentences
from vidret.encode.clip.encoder import ClipEncoder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a grounding head."""
    return write_head(tmp_path_factory.mktemp("heads") / "head.safetensors")


@pytest.fixture
def layer_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each pass of the encoder for a head alone adds its number of frames."""
    return note_calls(monkeypatch, ClipEncoder, "encode_layers", lambda _, frames, __: len(frames))


@pytest.fixture(scope="module")
def pools() -> Iterator[None]:
    """Keep decoding processes for all tests of a module."""
    with lasting_pools():
        yield


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches embed words without a model."""
    fake_sentences(monkeypatch)
