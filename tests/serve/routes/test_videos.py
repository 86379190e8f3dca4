"""Tests of the list of videos, of single videos, and of score curves."""

import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.serve.conftest import BLUE, Serve, check_refusal, find_id
from vidret.engine import Engine
from vidret.store.store import Store


def test_videos_are_listed_in_pages(client: TestClient, coloured: Path) -> None:
    all_videos = client.get("/api/videos").json()
    assert all_videos["total"] == 3
    assert [video["title"] for video in all_videos["videos"]] == ["blue", "both", "red"]
    assert all_videos["next"] is None
    assert client.get("/api/videos", params={"limit": 3}).json() == all_videos, "a full page may be the last one"
    first = client.get("/api/videos", params={"limit": 1}).json()
    page = client.get("/api/videos", params={"limit": 1, "cursor": first["next"]}).json()
    assert (page["total"], page["videos"]) == (3, all_videos["videos"][1:2])
    rest = client.get("/api/videos", params={"limit": 2, "cursor": page["next"]}).json()
    assert (rest["videos"], rest["next"]) == (all_videos["videos"][2:], None)
    refused = client.get("/api/videos", params={"cursor": "?"})
    assert (refused.status_code, refused.json()["kind"]) == (422, "usage")
    assert client.get("/api/videos", params={"folder": str(coloured / "films" / "red.mp4")}).json()["total"] == 1
    assert client.get("/api/videos", params={"name": "/RED. films"}).json()["total"] == 1
    assert client.get("/api/videos", params={"min_seconds": 10}).json()["total"] == 1
    assert client.get("/api/videos", params={"limit": 0}).status_code == 422


def test_a_damaged_row_does_not_end_the_list_of_videos(client: TestClient, engine: Engine) -> None:
    listed = [row["id"] for row in client.get("/api/videos").json()["videos"]]
    with Store.open(engine.path, write=True) as store:
        store._catalog.database.run("UPDATE videos SET checksum = checksum + 1 WHERE id = ?", listed[1])
    found = list[int]()
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/api/videos", params={"limit": 1, "cursor": cursor}).json()
        found, cursor = [*found, *(row["id"] for row in page["videos"])], page["next"]
    assert found == [listed[0], *listed[2:]]


def test_video_is_described(client: TestClient, engine: Engine, coloured: Path) -> None:
    video = client.get(f"/api/videos/{find_id(engine, 'both.mp4')}").json()
    path = coloured / "films" / "both.mp4"
    assert (video["path"], video["title"], video["copies"]) == (str(path), "both", [])
    assert (video["width"], video["height"], video["fps"]) == (64, 48, 5.0)
    assert (video["complete"], video["salvaged"], video["segments"], video["missing"]) == (True, "", 4, False)
    assert video["duration"] == pytest.approx(16.0)
    assert video["changed"].endswith("+00:00")


def test_copies_and_missing_files_are_reported(serve: Serve, own_engine: Engine) -> None:
    films = own_engine.path.parent / "films"
    shutil.copy(films / "red.mp4", films / "zzz.mp4")
    own_engine.index([films])
    client, video_id = serve(own_engine), find_id(own_engine, "red.mp4")
    assert client.get(f"/api/videos/{video_id}").json()["copies"] == [str(films / "zzz.mp4")]
    (films / "red.mp4").unlink()
    assert client.get(f"/api/videos/{video_id}").json()["missing"] is False, "a copy exists"
    assert client.get(f"/api/videos/{video_id}/stream").content == (films / "zzz.mp4").read_bytes()
    assert "x-vidret-reason" not in client.get(f"/api/thumbnails/{video_id}").headers
    (films / "zzz.mp4").unlink()
    assert client.get(f"/api/videos/{video_id}").json()["missing"] is True


def test_unknown_and_invalid_ids_are_refused(client: TestClient) -> None:
    for video_id in ("99", "0", str(2**63 - 1)):
        for path in ("", "/stream", "/transcript", "/shots", "/curve?q=red"):
            answer = client.get(f"/api/videos/{video_id}{path}")
            assert (answer.status_code, answer.json()["detail"]) == (
                404,
                f"video must be one of this index, got {video_id}",
            )
    for video_id in ("-1", str(2**63), "9" * 400, "red.mp4", "1e3", "%00"):
        for path in (f"/api/videos/{video_id}", f"/api/videos/{video_id}/stream", f"/api/thumbnails/{video_id}"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
            assert answer.json()["detail"].startswith("id must be ")


def test_a_curve_and_its_moments_are_those_of_the_engine(client: TestClient, engine: Engine) -> None:
    video_id = find_id(engine, "both.mp4")
    path, curve = f"/api/videos/{video_id}/curve", engine.curve("red", video_id)
    answer = client.get(path, params={"q": "red"}).json()
    assert (answer["times"], answer["scores"]) == (curve.times.tolist(), curve.scores.tolist())
    assert [answer["start"], answer["end"], answer["best"]] == [curve.start, curve.end, curve.best]
    assert answer["typical"] == engine._index.pictures.typical_score()
    assert answer["weak"] == engine.locate("red", video=video_id)[0].weak
    best = answer["moments"][0]
    assert [best["start"], best["end"]] == pytest.approx([5, 9], abs=0.11)
    assert client.get(path, params={"q": "yellow"}).json()["weak"] is True
    assert client.get(path).status_code == 422
    pictures = client.get(path, params={"q": "red", "sources": "picture"}).json()
    assert len(pictures["moments"]) == len(engine.locate("red", video=video_id)) > 0
    check_refusal(
        client.get(path, params={"q": "red", "sources": ["picture", "speech"]}), 422, "has no words to search"
    )
    answer = client.post(path, json={"image": BLUE}).json()
    best = answer["moments"][0]
    assert [best["start"], best["end"]] == pytest.approx([9, 16], abs=0.11)
    assert (answer["typical"], answer["weak"]) == (None, False)
    assert client.post(path, json={"image": "%"}).status_code == 422
