"""The route for the same footage, and the client that asks it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copies.films import draw_footage, write_frames
from tests.fakes import PatchEncoder
from tests.scripted_server import Reply
from tests.scripted_server import serve as serve_replies
from tests.serve.conftest import Serve
from vidret.client import RemoteEngine
from vidret.engine import Engine

FOUND = {
    "video": 7,
    "path": "/films/red.mp4",
    "title": "red",
    "start": 4.0,
    "end": 9.0,
    "clip_start": 3.0,
    "clip_end": 8.0,
    "speed": 1.0,
    "similarity": 0.5,
    "agreement": 0.9,
    "mirrored": True,
    "moves": True,
    "copies": ["/films/copy.mp4"],
    "thumbnail": "/api/thumbnails/7?t=6.5",
    "stream": "/api/videos/7/stream",
}


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Engine]:
    film = draw_footage(1, 8)
    write_frames(tmp_path / "films" / "film.mp4", film)
    write_frames(tmp_path / "films" / "part.mp4", film[20:70])
    with Engine(tmp_path / "index", PatchEncoder()) as engine:
        engine.index([tmp_path / "films"])
        yield engine


def test_a_stretch_of_a_video_is_found_in_another(moving: Engine, serve: Serve) -> None:
    client = serve(moving)
    ids = {Path(video.paths[0]).stem: video.id for video in moving.videos()}
    answer = client.post("/api/footage", json={"video": ids["film"], "start": 3, "end": 6})
    assert answer.status_code == 200
    (row,) = answer.json()["found"]
    assert (row["video"], row["title"], row["mirrored"]) == (ids["part"], "part", False)
    assert row["start"] == pytest.approx(1, abs=0.2)
    within = client.post("/api/footage", json={"video": ids["film"], "within": ids["film"]})
    assert within.json()["found"] == []


def test_what_is_wrong_is_refused(moving: Engine, serve: Serve) -> None:
    client = serve(moving)
    (video, _) = (listed.id for listed in moving.videos())
    for body, status in (
        ({"video": 999}, 404),
        ({"video": video, "within": 999}, 404),
        ({"video": video, "start": 5, "end": 2}, 422),
        ({"video": video, "start": 500}, 422),
        ({"start": 1}, 422),
    ):
        assert client.post("/api/footage", json=body).status_code == status


def test_the_client_asks_for_footage() -> None:
    with serve_replies() as server, RemoteEngine(server.url) as engine:
        server.replies = [Reply({"took_ms": 1.0, "found": [FOUND]})]
        (found,) = engine.find_footage(3, 5, start=3.0, end=8.0, video=7)
    assert (found.video, found.start, found.copies, found.mirrored) == (7, 4.0, ("/films/copy.mp4",), True)
    assert server.asked[0].line == "POST /api/footage"
    assert server.asked[0].body == {"video": 3, "k": 5, "repeated": False, "start": 3.0, "end": 8.0, "within": 7}
