"""Tests of files and frames: only those of videos in the index are sent."""

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import COLOURS, ColourEncoder, write_film
from tests.serve.conftest import BLUE, Serve, check_refusal, find_id
from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.serve.files import GONE, RELINKED, OpenFileResponse, open_video
from vidret.serve.routes.media import guess_media_type
from vidret.video.workers.image_pool import ImagePool


@pytest.fixture
def red(engine: Engine) -> Path:
    return Path(engine.video(find_id(engine, "red.mp4")).paths[0])


@pytest.fixture
def url(engine: Engine) -> str:
    return f"/api/videos/{find_id(engine, 'red.mp4')}/stream"


def test_a_file_is_sent_whole_or_in_ranges(client: TestClient, url: str, red: Path) -> None:
    whole, answer = red.read_bytes(), client.get(url)
    assert (answer.status_code, answer.content) == (200, whole)
    assert (answer.headers["content-type"], answer.headers["accept-ranges"]) == ("video/mp4", "bytes")
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole)))
    ranges = {"0-9": slice(0, 10), "100-": slice(100, None), "-7": slice(-7, None), "5-5": slice(5, 6)}
    for asked, part in ranges.items():
        answer = client.get(url, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, whole[part]), asked
        first = range(len(whole))[part].start
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(whole)}"
        assert answer.headers["content-length"] == str(len(answer.content))
        assert client.head(url, headers={"Range": f"bytes={asked}"}).status_code == 206
    several = client.get(url, headers={"Range": "bytes=0-1,10-11"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert whole[10:12] in several.content
    outside = client.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    older = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert older.status_code == 200
    known = client.get(url, headers={"Range": "bytes=0-9", "If-Range": older.headers["etag"]})
    assert known.status_code == 206


def test_paths_cannot_leave_the_page_folder(client: TestClient) -> None:
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/page//etc/passwd",
        "/page/%2fetc/passwd",
        "/page/..\\app.py",
        "/page/%00",
        "/page/",
        "/api/videos/../../etc/passwd/stream",
        "/api/videos/..%2f..%2fetc%2fpasswd/stream",
        "/api/thumbnails/%2fetc%2fpasswd",
    ):
        answer = client.get(path)
        assert answer.status_code in (404, 422), path
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_changed_film_is_sent_and_what_is_no_file_is_reported(serve: Serve, own_engine: Engine) -> None:
    client, number = serve(own_engine), find_id(own_engine, "red.mp4")
    path = write_film(Path(own_engine.video(number).paths[0]), ("blue", 4))
    assert client.get(f"/api/videos/{number}/stream").content == path.read_bytes()
    path.unlink()
    for make in (None, os.mkfifo, os.mkdir):
        if make is not None:
            make(path)
        check_refusal(client.get(f"/api/videos/{number}/stream"), 404, f"{path}: {GONE}")
        if make is os.mkfifo:
            path.unlink()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return the path of a private film with the name of one of the index."""
    return write_film(tmp_path / "private" / "red.mp4", ("blue", 3), salt=3)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_link_in_place_of_a_film_is_not_followed(serve: Serve, own_engine: Engine, secret: Path, place: str) -> None:
    client, number = serve(own_engine), find_id(own_engine, "red.mp4")
    film = Path(own_engine.video(number).paths[0])
    if place == "file":
        film.unlink()
        film.symlink_to(secret)
    else:
        film.parent.rename(film.parent.with_name("moved"))
        film.parent.symlink_to(secret.parent)
    for headers in ({}, {"Range": "bytes=0-9"}):
        check_refusal(client.get(f"/api/videos/{number}/stream", headers=headers), 404, f"{film}: {RELINKED}")
    assert client.get(f"/api/thumbnails/{number}").headers["x-vidret-reason"] == RELINKED


def test_indexed_links_are_served(serve: Serve, tmp_path: Path) -> None:
    red = write_film(tmp_path / "disk" / "red.mp4", ("red", 3))
    write_film(tmp_path / "elsewhere" / "blue.mp4", ("blue", 3))
    (tmp_path / "films").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "blue.mp4").symlink_to(tmp_path / "elsewhere" / "blue.mp4")
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
        client = serve(engine)
        assert {Path(path).parent for video in engine.videos() for path in video.paths} == {tmp_path / "films"}
        for name in ("red.mp4", "blue.mp4"):
            answer = client.get(f"/api/videos/{find_id(engine, name)}/stream")
            assert (answer.status_code, answer.content) == (200, (tmp_path / "films" / name).read_bytes())
            assert "x-vidret-reason" not in client.get(f"/api/thumbnails/{find_id(engine, name)}").headers
        number = find_id(engine, "red.mp4")
        os.utime(red, (1e9, 1e9))
        assert client.get(f"/api/videos/{number}/stream").status_code == 404
        engine.index([tmp_path / "films"])
        assert client.get(f"/api/videos/{number}/stream").status_code == 200, "the index has its new time"


def test_open_file_is_sent_even_if_its_path_is_replaced(own_engine: Engine, secret: Path) -> None:
    video = own_engine.video(find_id(own_engine, "red.mp4"))
    path, file = open_video(own_engine, video)
    whole = Path(path).read_bytes()
    assert file is not None
    Path(path).unlink()
    Path(path).symlink_to(secret)
    app = OpenFileResponse(file, "video/mp4")
    assert TestClient(app).get("/").content == whole
    assert file.closed


def test_reason_is_a_valid_header(serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> bytes:
        raise DecodeError("a.mp4", "no\x00such\x1b[31m\ncodec \udcff")

    monkeypatch.setattr(ImagePool, "draw_frame", fail)
    answer = serve(engine).get("/api/thumbnails/1?t=1.25")
    assert answer.headers["x-vidret-reason"] == "no?such?[31m codec ?"


def test_only_videos_have_a_video_media_type() -> None:
    assert guess_media_type("/a/film.webm") == "video/webm"
    for name in ("page.html", "image.svg", "film.unknown", "film", "film.gif"):
        assert guess_media_type(f"/a/{name}") == "application/octet-stream"


def colour(content: bytes) -> tuple[int, int, int]:
    with Image.open(io.BytesIO(content)) as image:
        pixel = image.convert("RGB").getpixel((image.width // 2, image.height - 8))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]


def test_a_thumbnail_shows_the_frame_at_its_width(client: TestClient, engine: Engine) -> None:
    path = f"/api/thumbnails/{find_id(engine, 'both.mp4')}"
    for time, name in ((0, "green"), (6, "red"), (15.9, "blue"), (1e6, "blue")):
        answer = client.get(path, params={"t": time})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), time
        assert answer.headers["cache-control"] == "private, max-age=3600"
        assert colour(answer.content) == pytest.approx(COLOURS[name], abs=12)
    for width, expected in ((32, (32, 24)), (320, (64, 48))):
        with Image.open(io.BytesIO(client.get(path, params={"w": width}).content)) as image:
            assert image.size == expected
    for wrong in ({"w": 10_000}, {"w": 1}, {"t": -1}, {"t": "nan"}, {"t": "inf"}):
        assert client.get(path, params=wrong).status_code == 422
    assert client.get("/api/thumbnails/99").status_code == 404


def test_server_process_decodes_no_video_or_image(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_given: object) -> None:
        raise AssertionError("decoded here")

    monkeypatch.setattr(av, "open", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    answer = client.get(f"/api/thumbnails/{find_id(engine, 'red.mp4')}")
    assert answer.content.startswith(b"\xff\xd8")
    assert "x-vidret-reason" not in answer.headers
    assert client.post("/api/search", json={"image": BLUE, "k": 1}).json()["hits"][0]["title"] == "blue"


@pytest.mark.parametrize(("content", "reason"), [(None, "its file is gone"), (b"no film any more", "is not a video")])
def test_grey_tile_shows_the_reason(serve: Serve, own_engine: Engine, content: bytes | None, reason: str) -> None:
    client, number = serve(own_engine), find_id(own_engine, "red.mp4")
    path = Path(own_engine.video(number).paths[0])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    answer = client.get(f"/api/thumbnails/{number}", params={"w": 200})
    assert (answer.status_code, answer.headers["x-vidret-reason"]) == (200, reason)
    assert answer.headers["cache-control"] == "no-cache", "the file may come back"
    red, green, blue = colour(answer.content)
    assert max(red, green, blue) - min(red, green, blue) < 8
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (200, 112)
        darkest = int(np.asarray(image.convert("L")).min())
    assert darkest < 140, "the reason is drawn"
