"""The list of videos, each of them, and how a query fits one."""

import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.serve.conftest import Serve, find_id
from tests.serve.test_search import BLUE
from vidret.engine import Engine


def test_videos_are_listed_by_parts(client: TestClient, library: Path) -> None:
    everything = client.get("/api/videos").json()
    assert everything["total"] == 3
    assert [video["title"] for video in everything["videos"]] == ["blue", "both", "red"]
    part = client.get("/api/videos", params={"offset": 1, "limit": 1}).json()
    assert (part["total"], part["videos"]) == (3, everything["videos"][1:2])
    assert client.get("/api/videos", params={"offset": 9}).json() == {"total": 3, "videos": []}
    assert client.get("/api/videos", params={"folder": str(library / "films" / "red.mp4")}).json()["total"] == 1
    assert client.get("/api/videos", params={"min_seconds": 10}).json()["total"] == 1
    assert client.get("/api/videos", params={"limit": 0}).status_code == 422


def test_a_video_is_described(client: TestClient, engine: Engine, library: Path) -> None:
    video = client.get(f"/api/videos/{find_id(engine, 'both.mp4')}").json()
    path = library / "films" / "both.mp4"
    assert (video["path"], video["title"], video["copies"]) == (str(path), "both", [])
    assert (video["width"], video["height"], video["fps"]) == (64, 48, 5.0)
    assert (video["complete"], video["salvaged"], video["segments"], video["missing"]) == (True, "", 4, False)
    assert video["duration"] == pytest.approx(16.0)
    assert video["changed"].endswith("+00:00")


def test_copies_and_lost_files_are_told(serve: Serve, own_engine: Engine) -> None:
    films = own_engine.path.parent / "films"
    shutil.copy(films / "red.mp4", films / "zzz.mp4")
    own_engine.index([films])
    client, number = serve(own_engine), find_id(own_engine, "red.mp4")
    assert client.get(f"/api/videos/{number}").json()["copies"] == [str(films / "zzz.mp4")]
    (films / "red.mp4").unlink()
    assert client.get(f"/api/videos/{number}").json()["missing"] is False, "its copy is there"
    (films / "zzz.mp4").unlink()
    assert client.get(f"/api/videos/{number}").json()["missing"] is True


@pytest.mark.parametrize("number", ["99", "0", str(2**63 - 1)])
def test_what_is_not_there_is_not_found(client: TestClient, number: str) -> None:
    for path in ("", "/stream", "/curve?q=red"):
        answer = client.get(f"/api/videos/{number}{path}")
        assert (answer.status_code, answer.json()["detail"]) == (404, f"video must be one of this index, got {number}")


@pytest.mark.parametrize("number", ["-1", str(2**63), "9" * 400, "red.mp4", "1e3", "%00"])
def test_what_is_no_id_is_wrong(client: TestClient, number: str) -> None:
    for path in (f"/api/videos/{number}", f"/api/videos/{number}/stream", f"/api/thumbnails/{number}"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["detail"].startswith("id: Input should be ")


def test_the_curve_is_the_engines(client: TestClient, engine: Engine) -> None:
    number = find_id(engine, "both.mp4")
    told, curve = client.get(f"/api/videos/{number}/curve", params={"q": "red"}).json(), engine.curve("red", number)
    assert (told["times"], told["scores"]) == (curve.times.tolist(), curve.scores.tolist())
    assert [told["start"], told["end"], told["best"]] == [curve.start, curve.end, curve.best]
    assert told["typical"] == engine.typical_score()
    assert told["weak"] is False
    best = told["moments"][0]
    assert [best["start"], best["end"]] == pytest.approx([5, 9], abs=0.11)
    assert client.get(f"/api/videos/{number}/curve", params={"q": "yellow"}).json()["weak"] is True
    assert client.get(f"/api/videos/{number}/curve").status_code == 422


def test_a_picture_has_a_curve_too(client: TestClient, engine: Engine) -> None:
    number = find_id(engine, "both.mp4")
    told = client.post(f"/api/videos/{number}/curve", json={"image": BLUE}).json()
    best = told["moments"][0]
    assert [best["start"], best["end"]] == pytest.approx([9, 16], abs=0.11)
    assert (told["typical"], told["weak"]) == (None, False)
    assert client.post(f"/api/videos/{number}/curve", json={"image": "%"}).status_code == 422
