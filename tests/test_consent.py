"""What an index names and does not hold is used only once its user has named it: models, endpoints, servers."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import ColourEncoder, write_film
from tests.hostile_indexes import set_metadata
from tests.http_servers import QuietHandler, run_handler
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import choose_words
from vidret.encode.families.endpoint import EndpointEncoder
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.search.models import read_encoder_name
from vidret.store.store import Store
from vidret.store.texts.store import TextStore

CODE = """
from pathlib import Path
from tests.fakes import ColourEncoder

Path(__file__).with_name("ran").touch()


class Colours(ColourEncoder):
    pass
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return an index from elsewhere: nobody here has named its encoder."""
    with Engine(tmp_path / "made", ColourEncoder()) as engine:
        engine.index([write_film(tmp_path / "red.mp4", ("red", 2))])
    return shutil.copytree(tmp_path / "made", tmp_path / "index")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file that appears when the module ``from_elsewhere`` is imported."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "from_elsewhere.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    yield tmp_path / "path" / "ran"
    sys.modules.pop("from_elsewhere", None)


def test_code_that_an_index_names_runs_only_after_its_user_has_named_it(index: Path, code: Path) -> None:
    name = "from_elsewhere:Colours"
    set_metadata(index, encoder_name=name)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"names {name}, which is not part of it"):
            Engine.open(index)
    with Engine(index, ColourEncoder()) as engine:
        assert engine.search("red"), "an encoder that is given loads nothing"
        with pytest.raises(StoreError, match="not part of it"):
            engine.reopen()
    assert not code.exists()
    with Engine.open(index, encoder=name) as engine:
        assert engine.search("red")
    assert code.exists()
    with Engine.open(index) as engine:
        assert engine.search("red"), "it is remembered"
    shutil.move(index, other := index.with_name("other"))
    with pytest.raises(StoreError, match="not part of it"):
        Engine.open(other)


@pytest.mark.parametrize("name", ["hf-hub:a/b", "hf:a/b", "st:a/b", "ViT-B-32/openai", "antigravity:x", "good"])
def test_no_model_is_looked_for_that_only_an_index_names(index: Path, name: str) -> None:
    set_metadata(index, encoder_name=name)
    with pytest.raises(StoreError, match="not part of it"):
        read_encoder_name(index)


@pytest.mark.parametrize("name", ["starter", "starter#whole", "ViT-B-32/random", "/models/a.safetensors", "colours"])
def test_what_comes_with_vidret_or_is_a_file_needs_no_consent(index: Path, name: str) -> None:
    set_metadata(index, encoder_name=name)
    assert read_encoder_name(index) == name


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[Any]]]:
    """Serve embeddings on this machine; yield the address and the requests with their keys."""
    requests: list[Any] = []

    class Handler(QuietHandler):
        def answer(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
            requests.append((asked, self.headers["Authorization"]))
            rows = [{"index": row, "embedding": [1.0, 0.0, 0.0]} for row in range(len(asked))]
            self.reply(200, {"Content-Type": "application/json"}, json.dumps({"data": rows}).encode())

    with run_handler(Handler) as url:
        yield f"endpoint:{url}/v1?model=x", requests


def test_queries_and_the_key_go_to_no_address_that_only_an_index_names(
    index: Path, endpoint: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, requests = endpoint
    set_metadata(index, encoder_name=name, encoder_fingerprint=EndpointEncoder(name).fingerprint)
    requests.clear()
    monkeypatch.setenv("VIDRET_ENDPOINT_KEY", "sk-secret")
    with pytest.raises(StoreError, match="not part of it"):
        Engine.open(index)
    with Store.open(index) as store:
        store.info()
    assert not requests
    with Engine.open(index, encoder=name) as engine:
        engine.search("my words")
    assert [key for _, key in requests] == ["Bearer sk-secret"] * len(requests) != []
    set_metadata(index, encoder_name=name.replace("/v1", "/v2"))
    requests.clear()
    with pytest.raises(StoreError, match="not part of it"):
        Engine.open(index)
    assert not requests, "the consent was for another address"


def test_a_speech_model_that_an_index_names_must_be_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDRET_WORDS")
    stranger = WordsOptions(sources=("speech",), speech_model="stranger/whisper")
    with TextStore.create(index, encoder="a", fingerprint="b", dim=3) as texts:
        texts.store.metadata.set("words", stranger.to_json())
    for words in (None, True):
        with pytest.raises(StoreError, match=r"names stranger/whisper, .* by --speech-model"):
            choose_words(index, words)
    assert choose_words(index, stranger) == stranger
    assert choose_words(index, True) == stranger, "it is remembered"


def test_a_server_of_vectors_that_an_index_names_must_be_named(index: Path) -> None:
    address = "milvus://http://127.0.0.1:9"
    set_metadata(index, store=json.dumps({"address": address, "name": "a"}))
    with Store.open(index) as store, pytest.raises(StoreError, match=f"names {address}, .* by --store"):
        store.search(np.ones((1, 3), np.float32), 1)
    with (
        pytest.raises(VidretError) as raised,
        Store.create(  # it is tried now, and nobody listens
            index, encoder_name="colours", encoder_fingerprint="colours-1", dim=3, vectors=address
        ),
    ):
        pass
    assert "not part of it" not in str(raised.value)
