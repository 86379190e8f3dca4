"""Tests of looking around over HTTP."""

from pathlib import Path

from starlette.testclient import TestClient

from tests.serve.conftest import check_refusal, find_id
from vidret.engine import Engine


def test_facets_are_counted(client: TestClient, coloured: Path) -> None:
    answer = client.get("/api/facets").json()
    assert answer["folders"] == {str(coloured / "films"): 3}
    assert (answer["sound"], answer["orientations"]["landscape"]) == ({"on": 0, "off": 3}, 3)
    assert sum(answer["days"].values()) == 3
    assert sum(client.get("/api/facets", params={"min_seconds": 10}).json()["days"].values()) == 1
    unheard = client.get("/api/facets", params={"heard": "applause"}).json()
    assert (answer["heard"], unheard["days"], unheard["heard"]) == ({}, {}, {})
    assert client.get("/api/facets", params={"utc_offset": 100_000}).status_code == 422


def test_kinds_have_pictures(client: TestClient, engine: Engine) -> None:
    kinds = client.get("/api/kinds").json()["kinds"]
    assert kinds
    for kind in kinds:
        assert kind["thumbnail"].startswith(f"/api/thumbnails/{kind['video']}?t=")
        assert kind["title"] == Path(engine.video(kind["video"]).paths[0]).stem
        assert kind["num_videos"] >= 1


def test_the_map_has_all_moments(client: TestClient, engine: Engine) -> None:
    assert len(client.get("/api/map").json()["moments"]) == engine.info().segments
    both = find_id(engine, "both.mp4")
    path = engine.video(both).paths[0]
    assert {moment["video"] for moment in client.get("/api/map", params={"folder": path}).json()["moments"]} == {both}


def test_too_few_videos_have_nothing_unusual(client: TestClient) -> None:
    check_refusal(client.get("/api/unusual"), 422, "videos to compare with must be more than 5, got 3")
