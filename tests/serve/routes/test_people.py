"""People over HTTP: listed, named, hidden, corrected, undone; nothing where nobody was looked for."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.made_identities import FACES, VOICES, make_tracks, make_voice
from tests.serve.conftest import Serve, find_id
from vidret.engine import Engine
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.store import Store
from vidret.store.tokens import make_token, read_record


@pytest.fixture
def peopled(engine: Engine) -> Engine:
    """Return an engine in whose index two people are seen, and one is heard."""
    with Store.open(engine.path) as store:
        content = store.videos.get(find_id(engine, "both.mp4")).fingerprint
    with IdentityStore.create(engine.path) as identities:
        identities.write_tracks(content, FACES, make_tracks([0, 1, 0, 1, 0]))
        identities.write_tracks(content, VOICES, [make_voice(0, 0, 2), make_voice(0, 3, 4)])
    engine.persons.group()
    return engine


@pytest.fixture
def client(serve: Serve, peopled: Engine) -> TestClient:
    return serve(peopled)


def list_people(client: TestClient, **asked: Any) -> list[tuple[int, str, int]]:
    rows = client.get("/api/people", params=asked).json()["people"]
    return [(row["id"], row["name"], row["tracks"]) for row in rows]


def test_people_are_listed_with_their_faces(client: TestClient) -> None:
    assert list_people(client) == [(1, "", 3), (2, "", 2)]
    assert list_people(client, kind="voice") == [(3, "", 2)]
    row = client.get("/api/people").json()["people"][0]
    face = client.get(f"/api/people/faces/{row['best_tracks'][0]}")
    assert face.headers["content-type"] == "image/jpeg"
    assert face.content.startswith(b"\xff\xd8")
    tracks = client.get("/api/people/1/tracks").json()["tracks"]
    assert sorted(track["start"] for track in tracks) == [0.0, 6.0, 12.0]
    assert {track["path"].rpartition("/")[2] for track in tracks} == {"both.mp4"}


def test_a_person_is_named_searched_hidden_and_undone(client: TestClient) -> None:
    people = client.patch("/api/people/2", json={"name": "Anna Maria"}).json()["people"]
    assert [(row["id"], row["handle"]) for row in people] == [(2, "anna-maria"), (1, "person-1")]
    hits = client.post("/api/search", json={"query": "@anna maria"}).json()["hits"]
    assert [(hit["title"], hit["evidence"][0]["person"]) for hit in hits] == [("both", "anna-maria")]
    hits = client.post("/api/search", json={"query": "red", "person": "anna maria"}).json()["hits"]
    assert hits[0]["title"] == "both"
    assert [row["id"] for row in client.patch("/api/people/1", json={"hidden": True}).json()["people"]] == [2]
    assert list_people(client, hidden=True) == [(2, "Anna Maria", 2), (1, "", 3)]
    assert len(client.post("/api/people/undo").json()["people"]) == 2
    client.post("/api/people/undo")
    assert list_people(client) == [(1, "", 3), (2, "", 2)]


def test_tracks_are_taken_away(client: TestClient) -> None:
    track = client.get("/api/people/1/tracks").json()["tracks"][0]["id"]
    answer = client.post("/api/people/1/not", json={"tracks": [track]})
    assert [(row["id"], row["tracks"]) for row in answer.json()["people"]] == [(1, 2), (2, 2)]
    assert client.post("/api/people/1/not", json={"tracks": [track]}).status_code == 422


def test_wrong_requests_are_refused(client: TestClient) -> None:
    for method, path, body, status in (
        ("PATCH", "/api/people/99", {"name": "x"}, 404),
        ("PATCH", "/api/people/1", {"name": "a,b"}, 422),
        ("PATCH", "/api/people/1", {"colour": "red"}, 422),
        ("GET", "/api/people/99/tracks", None, 404),
        ("POST", "/api/people/1/not", {"tracks": []}, 422),
        ("GET", "/api/people/faces/99", None, 404),
        ("GET", "/api/people?kind=dog", None, 422),
        ("POST", "/api/search", {"query": "@nobody"}, 422),
    ):
        assert client.request(method, path, json=body).status_code == status


def test_an_index_without_people_has_none(serve: Serve, engine: Engine) -> None:
    client = serve(engine)
    assert client.get("/api/people").json() == {"people": []}
    assert client.post("/api/people/undo").json() == {"people": []}
    assert client.get("/api/people/faces/1").status_code == 404
    assert client.patch("/api/people/1", json={"name": "x"}).status_code == 404
    assert not (engine.path / FILE).exists()


def test_people_are_for_who_may_change_and_no_record_has_names(serve: Serve, peopled: Engine) -> None:
    client = serve(peopled)
    reader, owner = (
        {"Authorization": f"Bearer {make_token(peopled.path, right, right)}"} for right in ("read", "change")
    )
    for path in ("/api/people", "/api/people/1/tracks", "/api/people/faces/1"):
        assert [client.get(path, headers=headers).status_code for headers in ({}, reader)] == [401, 403]
    assert client.patch("/api/people/2", json={"name": "Ermintrude"}, headers=reader).status_code == 403
    assert client.patch("/api/people/2", json={"name": "Ermintrude"}, headers=owner).status_code == 200
    assert "Ermintrude" not in str(read_record(peopled.path, 100))
