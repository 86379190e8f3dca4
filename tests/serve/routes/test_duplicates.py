"""Copies and the same footage over HTTP: events, refusals, and clients that agree with the engine."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.copies.films import draw_footage, mirror, write_frames
from tests.fakes import PatchEncoder
from tests.index_server import serve_engine
from tests.serve.conftest import Serve, read_events
from vidret.client import RemoteEngine, RemoteError
from vidret.client.async_remote import AsyncRemoteEngine
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.routes.videos import send_groups
from vidret.types import CopyGroup


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root = tmp_path_factory.mktemp("copies")
    film = draw_footage(1, 6)
    write_frames(root / "films" / "film.mp4", film)
    write_frames(root / "films" / "mirrored.mp4", film[10:], change=mirror)
    write_frames(root / "films" / "other.mp4", draw_footage(2, 6))
    with Engine(root / "index", PatchEncoder()) as engine:
        engine.index([root / "films"])
        yield engine


def test_events_lead_from_progress_to_groups(serve: Serve, copies: Engine) -> None:
    client = serve(copies)
    events = read_events(client.post("/api/duplicates", json={}))
    assert [name for name, _ in events] == ["progress"] * (len(events) - 1) + ["groups"]
    checked = [progress["checked"] for _, progress in events[:-1]]
    assert (checked[0], checked) == (0, sorted(checked))
    assert checked[-1] == events[-2][1]["total"] > 0
    ((best, other),) = events[-1][1]["groups"]
    assert {best["title"], other["title"]} == {"film", "mirrored"}
    assert other["differs"][0] == "mirrored"
    assert best["stream"] == f"/api/videos/{best['video']}/stream"
    for body, status in (({"videos": [99]}, 404), ({"videos": ["a"]}, 422), ({"paths": ["/"]}, 422)):
        assert client.post("/api/duplicates", json=body).status_code == status


def test_the_clients_find_what_the_engine_finds(copies: Engine) -> None:
    film, other = copies.path.parent / "films" / "film.mp4", copies.path.parent / "films" / "other.mp4"
    calls: list[tuple[int, int]] = []

    async def ask(url: str) -> list[CopyGroup]:
        async with AsyncRemoteEngine(url) as engine:
            return await engine.duplicates([film])

    with serve_engine(copies) as url, RemoteEngine(url) as remote:
        assert remote.duplicates(on_progress=lambda done, total: calls.append((done, total))) == copies.duplicates()
        (group,) = remote.duplicates(["mirrored.mp4", film.parent])
        assert {Path(file.path).name for file in group.files} == {"film.mp4", "mirrored.mp4"}
        assert remote.duplicates([copies.file(str(other)).video]) == []  # type: ignore[union-attr, list-item]
        assert asyncio.run(ask(url)) == copies.duplicates([film])
        for wrong in ("none.mp4", 99):
            with pytest.raises(RemoteError, match=str(wrong)):
                remote.duplicates([wrong])
    assert calls[-1][0] == calls[-1][1] > 0


def test_one_request_is_served_at_a_time(serve: Serve, copies: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), threading.Event()

    def wait(*_args: object, **_options: object) -> list[CopyGroup]:
        begun.set()
        assert gate.wait(10)
        raise VidretError("videos must be comparable, got none")

    monkeypatch.setattr(copies, "duplicates", wait)
    client = serve(copies)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, "/api/duplicates", json={})
        assert begun.wait(10)
        busy = client.post("/api/duplicates", json={})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "30")
        gate.set()
    ((name, problem),) = read_events(first.result())
    assert (name, problem["title"], problem["status"]) == ("problem", HTTPStatus(422).phrase, 422)
    assert problem["detail"] == "videos must be comparable, got none"


def test_a_search_that_nobody_waits_for_ends(copies: Engine) -> None:
    left, sent = threading.Event(), list[str]()
    left.set()
    assert send_groups(copies, [], sent.append, left) == ""
    assert sent == []


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
    assert client.post("/api/footage", json={"video": ids["film"], "within": ids["film"]}).json()["found"] == []
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
            assert remote.find_footage(film, **options) == moving.find_footage(film, **options) != []
