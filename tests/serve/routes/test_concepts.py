"""Concepts and images with words over HTTP, and that the client agrees with the engine."""

import itertools
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import paint
from tests.serve.conftest import check_refusal, encode, find_id
from vidret.client import RemoteEngine, RemoteError
from vidret.engine import Engine
from vidret.errors import OptionError
from vidret.types import ComposedQuery, ConceptExample, ExampleLike, Query

RED = encode(Image.fromarray(paint("red")))


def test_concepts_are_taught_listed_and_forgotten(client: TestClient, engine: Engine) -> None:
    yes = [{"image": RED, "name": "red.png"}, {"video": find_id(engine, "both.mp4"), "start": 5.5, "end": 8.5}]
    body = {"name": "Mascot", "yes": yes, "no": [{"video": find_id(engine, "blue.mp4")}], "text": "red"}
    row = client.post("/api/concepts", json=body).json()
    assert (row["name"], row["text"], [example["start"] for example in row["yes"]]) == ("mascot", "red", [None, 5.5])
    assert client.get("/api/concepts").json() == {"concepts": [row]}
    hits = client.post("/api/search", json={"query": "@mascot", "k": 2}).json()["hits"]
    assert {hit["title"] for hit in hits} == {"red", "both"}
    assert client.post("/api/concepts", json=body).json()["detail"].startswith("@mascot is taught already")
    assert client.post("/api/concepts", json=body | {"replace": True}).status_code == 200
    assert client.delete("/api/concepts/mascot").json() == {"concepts": []}
    check_refusal(client.delete("/api/concepts/mascot"), 404, "@mascot: must be the name of a taught concept (none)")
    check_refusal(client.post("/api/search", json={"query": "@mascot walks"}), 422, "@mascot: must be the name")


def test_wrong_requests_are_refused(client: TestClient) -> None:
    for change, status, detail in (
        ({"yes": []}, 422, "yes must hold an example of mascot, got none"),
        ({"yes": [{"video": 99}]}, 404, "99"),
        ({"yes": [{}]}, 422, "image or video must be given"),
        ({"yes": [{"image": "AAAA"}]}, 422, "image must be"),
        ({"yes": [{"image": "AAAA", "start": 1}]}, 422, "start and end need a video"),
        ({"name": "a b"}, 422, "name must be a letter"),
        ({"colour": "red"}, 422, "colour"),
    ):
        check_refusal(
            client.post("/api/concepts", json={"name": "mascot", "yes": [{"image": RED}]} | change), status, detail
        )
        assert client.get("/api/concepts").json() == {"concepts": []}


def test_client_and_engine_agree(remote: RemoteEngine, engine: Engine, coloured: Path) -> None:
    red = str(coloured / "films" / "red.mp4")
    examples: list[ExampleLike] = [red, ConceptExample(path="red.png", image=paint("red")), engine.search("red", 1)[0]]
    concept = remote.teach("mascot", examples, [paint("blue")], text="red")
    assert remote.concepts() == engine.concepts() == [concept]
    assert [example.path for example in concept.yes] == [red, "red.png", engine.search("red", 1)[0].path]
    queries: list[Query] = ["@mascot", ComposedQuery(images=(paint("red"), paint("blue")), text="green -white")]
    for query in queries:
        assert remote.search(query) == engine.search(query)
    assert remote.locate(queries[1], weak=True) == engine.locate(queries[1], weak=True)
    remote.forget("mascot")
    assert engine.concepts() == []
    with pytest.raises(RemoteError, match="@mascot: must be the name of a taught concept"):
        remote.forget("mascot")
    for name, remove in itertools.product(("", "a/b"), (remote.forget, remote.remove_collection)):
        with pytest.raises(OptionError, match=f"name must have a character and no slash, got '{name}'"):
            remove(name)
    with pytest.raises(RemoteError, match=r"gone\.mp4: not in the index"):
        remote.teach("late", ["gone.mp4"])
