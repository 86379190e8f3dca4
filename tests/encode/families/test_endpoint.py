"""Encoders behind an endpoint on this machine that embeds pictures by their colours."""

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.chatting import Reply, run_endpoint
from tests.fakes import ColourEncoder, write_film
from vidret.encode.families.endpoint import EndpointEncoder
from vidret.encode.families.registry import load_encoder
from vidret.endpoints.transport import EndpointError
from vidret.engine import Engine
from vidret.errors import EncoderError, VidretError
from vidret.types import Frames

KEY = "secret-key"


def embed(item: Any) -> list[float]:
    """Return the vector of a text, of a data URI, of an object or of a part of a message; its length is not 1."""
    if isinstance(item, dict):
        item = f"data:,{item['image']}" if "image" in item else item["image_url"]["url"]
    if not item.startswith("data:"):
        return [5.0 * float(value) for value in ColourEncoder().encode_text([item])[0].sentence]
    with Image.open(io.BytesIO(base64.b64decode(item.partition(",")[2]))) as image:
        return [float(value) for value in np.asarray(image, np.float64).reshape(-1, 3).mean(axis=0) - 110]


def embed_all(request: dict[str, Any], _number: int = 0) -> Reply:
    """Answer a request, with the vectors in reverse order."""
    items = request["input"] if "input" in request else request["messages"][0]["content"]
    rows = [{"index": row, "embedding": embed(item)} for row, item in enumerate(items)]
    return Reply(json.dumps({"data": rows[::-1]}).encode())


@pytest.mark.parametrize("images", ["uris", "objects", "messages"])
def test_an_index_is_made_and_opened_again(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIDRET_ENDPOINT_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for colour in ("red", "blue", "green"):
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 2))
    with run_endpoint(embed_all) as server:
        name = f"endpoint:{server.url}?model=colours&images={images}&size=32"
        with Engine.open(tmp_path / "index", encoder=name) as engine:
            assert not engine.index([tmp_path / "films"], workers=1).failed
        with Engine.open(tmp_path / "index") as engine:
            assert (engine.encoder.name, engine.encoder.dim) == (name, 3)
            found = [Path(engine.search(colour, 1)[0].path).stem for colour in ("red", "blue", "green")]
        assert found == ["red", "blue", "green"]
        assert {header["path"] for header in server.headers} == {"/v1/embeddings"}
        assert {header["Authorization"] for header in server.headers} == {f"Bearer {KEY}"}
        assert {request["model"] for request in server.requests} == {"colours"}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert KEY.encode() not in stored
    assert KEY not in caplog.text


def test_frames_and_texts_go_in_batches() -> None:
    with run_endpoint(embed_all) as server:
        encoder = load_encoder(f"endpoint:{server.url}?model=colours&size=32", device="cpu")
        pixels = np.full((40, 32, 32, 3), 200, np.uint8)
        embedded = encoder.encode_frames([Frames(pixels[:7], np.arange(7.0)), Frames(pixels[7:], np.arange(33.0))])
        assert [len(segment.frames) for segment in embedded] == [7, 33]
        np.testing.assert_allclose(np.linalg.norm(embedded[1].frames, axis=1), 1, atol=1e-6)
        assert [len(request["input"]) for request in server.requests[1:]] == [16, 16, 8]
        assert len(encoder.encode_text(["a"] * 65)) == 65
        with pytest.raises(EncoderError, match="tokens must come from a model with patches"):
            encoder.encode_frames([Frames(pixels, np.arange(40.0))], tokens=True)


def test_what_an_ended_endpoint_had_encoded_stays(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 2))
    name = "endpoint:{}?model=colours&size=32"
    with (
        run_endpoint(
            lambda request, request_index: embed_all(request) if request_index < 3 else Reply(b"", 404)
        ) as server,
        Engine.open(tmp_path / "index", encoder=name.format(server.url)) as engine,
        pytest.raises(EndpointError, match="answered 404"),
    ):
        engine.index([tmp_path / "films"], workers=1)
    with run_endpoint(embed_all) as server, Engine.open(tmp_path / "index", encoder=name.format(server.url)) as engine:
        assert engine.index([tmp_path / "films"], workers=1).encoded == 1
        assert len(engine.videos()) == 2


BROKEN = {
    "no JSON": (Reply(b"<html>"), "must answer with 1 vector of numbers"),
    "too few": (Reply(b'{"data": []}'), "must answer with 1 vector"),
    "not finite": (Reply(b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'), "must answer with 1 vector"),
    "zero": (Reply(b'{"data": [{"index": 0, "embedding": [0, 0]}]}'), "must answer with 1 vector"),
    "refusal": (Reply(b"", 401), "refuses the key in VIDRET_ENDPOINT_KEY"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_endpoint_fails_in_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_ENDPOINT_KEY", KEY)
    reply, sentence = BROKEN[name]
    with run_endpoint(lambda _request, _number: reply) as server, pytest.raises(EndpointError) as failed:
        EndpointEncoder(f"endpoint:{server.url}?model=m")
    assert sentence in str(failed.value)
    assert KEY not in str(failed.value)


def test_the_budget_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_ENDPOINT_BUDGET", "3")
    with run_endpoint(embed_all) as server:
        encoder = EndpointEncoder(f"endpoint:{server.url}?model=m")
        encoder.encode_text(["red", "blue"])
        with pytest.raises(EncoderError, match="the budget in VIDRET_ENDPOINT_BUDGET is used up"):
            encoder.encode_text(["green"])
        assert len(server.requests) == 2
    monkeypatch.setenv("VIDRET_ENDPOINT_BUDGET", "many")
    with pytest.raises(EncoderError, match="VIDRET_ENDPOINT_BUDGET must be a number"):
        EndpointEncoder(f"endpoint:{server.url}?model=m")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("endpoint:http://a/v1", "http://a/v1: must be like endpoint:http"),
        ("endpoint:http://me:word@a/v1?model=m&key=1", "http://a/v1: must be like endpoint:http"),
        ("endpoint:http://me:word@a/v1?model=m", "model must be a URL such as .*, without a user"),
        ("endpoint:http://me:word@[::1/v1?model=m", "must be like endpoint:http"),
        ("endpoint:ftp://a/v1?model=m", "model must be a URL such as"),
        ("endpoint:http://a/v1?model=m&images=png", "images of an endpoint must be uris, objects, messages, got png"),
        ("endpoint:http://a/v1?model=m&size=9", "size of an endpoint must be 32 to 1024 pixels, got 9"),
        (f"endpoint:http://a/v1?model=m&size={'9' * 5000}", "size of an endpoint must be 32 to 1024 pixels, got 999"),
    ],
)
def test_an_invalid_name_is_refused_without_its_password(name: str, rule: str) -> None:
    with pytest.raises(VidretError, match=rule) as failed:
        load_encoder(name, device="cpu")
    assert "word" not in str(failed.value)


def test_a_key_is_not_sent_over_plain_http_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_ENDPOINT_KEY", KEY)
    with pytest.raises(
        VidretError, match="model must be an https URL to send the key in VIDRET_ENDPOINT_KEY, got http"
    ):
        load_encoder("endpoint:http://192.0.2.1/v1?model=m", device="cpu")
