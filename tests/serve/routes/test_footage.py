"""The route for the same footage, and the client that asks it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copies.films import draw_footage, write_frames
from tests.fakes import PatchEncoder
from tests.index_server import serve_engine
from tests.serve.conftest import Serve
from vidret.client import RemoteEngine
from vidret.engine import Engine


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
    asked = {"video": ids["film"], "start": 3, "end": 6}
    answer = client.post("/api/footage", json=asked)
    assert answer.status_code == 200
    (row,) = answer.json()["found"]
    assert (row["video"], row["title"], row["mirrored"]) == (ids["part"], "part", False)
    assert row["start"] == pytest.approx(1, abs=0.2)
    within = client.post("/api/footage", json={"video": ids["film"], "within": ids["film"]})
    assert within.json()["found"] == []
    for change, status in (
        ({"video": 999}, 404),
        ({"within": 999}, 404),
        ({"start": 5, "end": 2}, 422),
        ({"start": 500, "end": None}, 422),
        ({"video": None}, 422),
        ({"k": True}, 422),
        ({"start": False}, 422),
    ):
        assert client.post("/api/footage", json=asked | change).status_code == status


def test_the_client_finds_what_the_engine_finds(moving: Engine) -> None:
    film = moving.path.parent / "films" / "film.mp4"
    with serve_engine(moving) as url, RemoteEngine(url) as remote:
        for options in ({"start": 3.0, "end": 6.0, "k": 5}, {"video": "part.mp4", "repeated": True}):
            found = remote.find_footage(film, **options)
            assert found == moving.find_footage(film, **options) != []
