"""Tests of files, frames and clips: only those of videos in the index are sent."""

import errno
import io
import os
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import COLOURS, ColourEncoder, write_film
from tests.index_server import connect, read_all, serve_engine
from tests.serve.conftest import BLUE, Serve, check_refusal, find_id
from tests.waiting import is_running, wait_until
from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.present.ffmpeg import Limits
from vidret.serve.files import GONE, RELINKED, OpenFileResponse, open_video
from vidret.serve.routes import media as clips
from vidret.serve.routes.media import guess_media_type
from vidret.video.workers.image_pool import ImagePool


@pytest.fixture
def red(engine: Engine) -> Path:
    return Path(engine.video(find_id(engine, "red.mp4")).paths[0])


@pytest.fixture
def url(engine: Engine) -> str:
    return f"/api/videos/{find_id(engine, 'red.mp4')}/stream"


def test_a_file_is_sent_whole_or_in_ranges(client: TestClient, url: str, red: Path) -> None:
    content, answer = red.read_bytes(), client.get(url)
    assert (answer.status_code, answer.content) == (200, content)
    assert (answer.headers["content-type"], answer.headers["accept-ranges"]) == ("video/mp4", "bytes")
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    ranges = {"0-9": slice(0, 10), "100-": slice(100, None), "-7": slice(-7, None), "5-5": slice(5, 6)}
    for asked, part in ranges.items():
        answer = client.get(url, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, content[part]), asked
        first = range(len(content))[part].start
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(content)}"
        assert answer.headers["content-length"] == str(len(answer.content))
        assert client.head(url, headers={"Range": f"bytes={asked}"}).status_code == 206
    several = client.get(url, headers={"Range": "bytes=0-1,10-11"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert content[10:12] in several.content
    outside = client.get(url, headers={"Range": f"bytes={len(content)}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(content)}")
    older = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert older.status_code == 200
    assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": older.headers["etag"]}).status_code == 206
    for asked, status in ((older.headers["etag"], 304), (f'"x", {older.headers["etag"]}', 304), ('"x"', 200)):
        answer = client.get(url, headers={"If-None-Match": asked})
        assert (answer.status_code, answer.headers["etag"]) == (status, older.headers["etag"])
        assert answer.content == (b"" if status == 304 else content)


@pytest.mark.parametrize("asked", ["", "Range: bytes=0-\r\n", "Range: bytes=0-9,100-\r\n"])
@pytest.mark.parametrize("change", [1000, -1000])
def test_a_file_that_changes_while_it_is_sent_ends_its_answer(
    own_engine: Engine, change: int, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, num_bytes = own_engine.video(1).paths[0], 1 << 24  # more than sockets hold
    os.truncate(path, num_bytes)
    with serve_engine(own_engine) as url, connect(url) as client:
        client.sendall(
            f"GET /api/videos/1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{asked}\r\n".encode()
        )
        begin = client.recv(10)
        os.truncate(path, num_bytes + change)
        head, _, body = (begin + read_all(client)).partition(b"\r\n\r\n")
    announced = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert len(body) == announced if change > 0 else len(body) < announced
    assert not any(record.exc_info for record in caplog.records), "a traceback"


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
    client, video_id = serve(own_engine), find_id(own_engine, "red.mp4")
    path = write_film(Path(own_engine.video(video_id).paths[0]), ("blue", 4))
    assert client.get(f"/api/videos/{video_id}/stream").content == path.read_bytes()
    path.unlink()
    for make in (None, os.mkfifo, os.mkdir):
        if make is not None:
            make(path)
        check_refusal(client.get(f"/api/videos/{video_id}/stream"), 404, f"{path}: {GONE}")
        if make is os.mkfifo:
            path.unlink()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return the path of a private film with the name of one of the index."""
    return write_film(tmp_path / "private" / "red.mp4", ("blue", 3), salt=3)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_link_in_place_of_a_film_is_not_followed(serve: Serve, own_engine: Engine, secret: Path, place: str) -> None:
    client, video_id = serve(own_engine), find_id(own_engine, "red.mp4")
    film = Path(own_engine.video(video_id).paths[0])
    if place == "file":
        film.unlink()
        film.symlink_to(secret)
    else:
        film.parent.rename(film.parent.with_name("moved"))
        film.parent.symlink_to(secret.parent)
    for headers in ({}, {"Range": "bytes=0-9"}):
        check_refusal(client.get(f"/api/videos/{video_id}/stream", headers=headers), 404, f"{film}: {RELINKED}")
    assert client.get(f"/api/thumbnails/{video_id}").headers["x-vidret-reason"] == RELINKED


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
        video_id = find_id(engine, "red.mp4")
        os.utime(red, (1e9, 1e9))
        assert client.get(f"/api/videos/{video_id}/stream").status_code == 404
        engine.index([tmp_path / "films"])
        assert client.get(f"/api/videos/{video_id}/stream").status_code == 200, "the index has its new time"


def test_open_file_is_sent_even_if_its_path_is_replaced(own_engine: Engine, secret: Path) -> None:
    path, file = open_video(own_engine, own_engine.video(find_id(own_engine, "red.mp4")))
    content = Path(path).read_bytes()
    assert file is not None
    Path(path).unlink()
    Path(path).symlink_to(secret)
    assert TestClient(OpenFileResponse(file, "video/mp4")).get("/").content == content
    assert file.closed


@pytest.mark.parametrize("what", ["thumbnails/1", "videos/1/stream", "videos/1/clip?start=0&end=1"])
def test_a_lack_of_open_files_is_no_fault_of_a_video(
    client: TestClient, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get(f"/api/{what}").is_success
    monkeypatch.setattr(os, "open", Mock(side_effect=OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    answer = client.get(f"/api/{what}")
    monkeypatch.undo()
    check_refusal(answer, 503, "the server is busy: too many files are open")
    assert answer.headers["retry-after"] == "1"


def test_reason_is_a_valid_header(serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> bytes:
        raise DecodeError("a.mp4", "no\x00such\x1b[31m\ncodec \udcff")

    monkeypatch.setattr(ImagePool, "draw_frame", fail)
    assert serve(engine).get("/api/thumbnails/1?t=1.25").headers["x-vidret-reason"] == "no?such?[31m codec ?"


def test_only_videos_have_a_video_media_type() -> None:
    assert guess_media_type("/a/film.webm") == "video/webm"
    for name in ("page.html", "image.svg", "film.unknown", "film", "film.gif"):
        assert guess_media_type(f"/a/{name}") == "application/octet-stream"


def colour(content: bytes) -> tuple[int, int, int]:
    with Image.open(io.BytesIO(content)) as image:
        pixel = image.convert("RGB").getpixel((image.width // 2, image.height - 8))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]


def test_a_browser_asks_whether_a_thumbnail_that_it_has_is_still_right(client: TestClient, engine: Engine) -> None:
    url = f"/api/thumbnails/{find_id(engine, 'both.mp4')}"
    cached = client.get(url)
    assert cached.headers["cache-control"] == "private, no-cache", "another index may be served here by then"
    again, other = (client.get(url, params={"t": t}, headers={"If-None-Match": cached.headers["etag"]}) for t in (0, 6))
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.headers["etag"] == cached.headers["etag"]) == (200, False)


def test_a_disk_that_hangs_leaves_threads_for_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hang(*_: object) -> None:
        go_on.wait(60)
        raise DecodeError("red.mp4", GONE)

    monkeypatch.setattr("vidret.serve.routes.media.stat_video", hang)
    with serve_engine(engine) as url, ExitStack() as stack:
        stack.callback(go_on.set)
        for _ in range(45):  # more than there are threads
            client = stack.enter_context(connect(url))
            client.sendall(b"GET /api/thumbnails/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for path in ("healthz", "api/facets"):
            client = stack.enter_context(connect(url))
            client.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert read_all(client).startswith(b"HTTP/1.1 200")


def test_a_thumbnail_shows_the_frame_at_its_width(client: TestClient, engine: Engine) -> None:
    path = f"/api/thumbnails/{find_id(engine, 'both.mp4')}"
    for time_s, name in ((0, "green"), (6, "red"), (15.9, "blue"), (1e6, "blue")):
        answer = client.get(path, params={"t": time_s})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), time_s
        assert colour(answer.content) == pytest.approx(COLOURS[name], abs=12)
    for width, expected in ((32, (32, 24)), (320, (64, 48))):
        with Image.open(io.BytesIO(client.get(path, params={"w": width}).content)) as image:
            assert image.size == expected
    for wrong in ({"w": 10_000}, {"w": 1}, {"t": -1}, {"t": "nan"}, {"t": "inf"}):
        assert client.get(path, params=wrong).status_code == 422
    assert client.get("/api/thumbnails/99").status_code == 404


def test_server_process_decodes_nothing(client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
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
    client, video_id = serve(own_engine), find_id(own_engine, "red.mp4")
    path = Path(own_engine.video(video_id).paths[0])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    answer = client.get(f"/api/thumbnails/{video_id}", params={"w": 200})
    assert (answer.status_code, answer.headers["x-vidret-reason"]) == (200, reason)
    assert answer.headers["cache-control"] == "no-cache", "the file may come back"
    red, green, blue = colour(answer.content)
    assert max(red, green, blue) - min(red, green, blue) < 8
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (200, 112)
        darkest = int(np.asarray(image.convert("L")).min())
    assert darkest < 140, "the reason is drawn"


# Clips


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_clip_has_the_frames_of_its_span(client: TestClient, engine: Engine, tmp_path: Path, scratch: Path) -> None:
    answer = client.get(f"/api/videos/{find_id(engine, 'both.mp4')}/clip", params={"start": 4.6, "end": 9.6})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.headers["content-disposition"] == 'attachment; filename="both_4.60-9.60.mp4"'
    (tmp_path / "clip.mp4").write_bytes(answer.content)
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        frames = [(frame.time, frame.to_ndarray(format="rgb24").mean(axis=(0, 1))) for frame in clip.decode(video=0)]
    assert frames[0][0] == 0.0
    assert frames[-1][0] == pytest.approx(5.0, abs=0.3)
    for time_s, colour in ((0.0, "green"), (2.0, "red"), (4.7, "blue")):
        shown = max((frame for frame in frames if frame[0] <= time_s + 1e-3), key=lambda frame: frame[0])[1]
        np.testing.assert_allclose(shown, COLOURS[colour], atol=12)
    assert list(scratch.iterdir()) == []


def test_invalid_spans_and_unknown_videos_are_refused(client: TestClient, engine: Engine, scratch: Path) -> None:
    red = find_id(engine, "red.mp4")
    for video_id, start, end, status, rule in (
        (red, 3, 3, 422, "end must be after start, 3, by at most 600 s, got 3"),
        (red, 0, 601, 422, "end must be after start, 0, by at most 600 s, got 601"),
        (red, 90, 95, 422, "has no frame"),
        (999, 0, 1, 404, "got 999"),
    ):
        answer = client.get(f"/api/videos/{video_id}/clip", params={"start": start, "end": end})
        check_refusal(answer, status, rule)
        assert answer.json()["kind"] == ("usage" if "end must" in rule else "failure")
    assert list(scratch.iterdir()) == []


def test_only_the_indexed_file_is_cut(serve: Serve, own_engine: Engine, tmp_path: Path, scratch: Path) -> None:
    video_id = find_id(own_engine, "red.mp4")
    path = Path(own_engine.video(video_id).paths[0])
    client, ask = serve(own_engine), {"start": 0, "end": 1}
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(path.with_name("blue.mp4").read_bytes())
    path.unlink()
    assert GONE in client.get(f"/api/videos/{video_id}/clip", params=ask).json()["detail"]
    path.symlink_to(secret)
    check_refusal(client.get(f"/api/videos/{video_id}/clip", params=ask), 404, RELINKED)
    assert list(scratch.iterdir()) == []


# With an ffmpeg that takes too long, over real sockets


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace ffmpeg by a program that sleeps; return the folder in which each run leaves its process id."""
    folder = tmp_path / "running"
    folder.mkdir()
    sleeper = tmp_path / "ffmpeg"
    sleeper.write_text(f"#!/bin/sh\ntouch {folder}/$$\nexec sleep 60\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(clips, "find_ffmpeg", lambda: str(sleeper))
    return folder


def request_clip(url: str) -> socket.socket:
    client = connect(url)
    client.sendall(b"GET /api/videos/1/clip?start=0&end=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return client


def wait_for_run(folder: Path, number: int = 1) -> int:
    """Wait until ffmpeg was started this often, and return its latest process id."""
    wait_until(lambda: len(list(folder.iterdir())) >= number)
    return int(max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name)


def test_ffmpeg_is_killed_when_its_client_leaves_for_the_next(engine: Engine, running: Path, scratch: Path) -> None:
    with serve_engine(engine) as url, request_clip(url) as first:
        pid = wait_for_run(running)
        with request_clip(url), request_clip(url) as third:
            time.sleep(0.3)
            assert len(list(running.iterdir())) == 1, "one at a time"
            first.close()
            wait_for_run(running, 2)
            assert not is_running(pid)
            third.close()
        wait_until(lambda: not list(scratch.iterdir()))
    assert not any(is_running(int(path.name)) for path in running.iterdir())


def test_clips_wait_in_a_short_queue_and_neither_long_nor_endlessly(
    engine: Engine, running: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "MAX_PENDING", 2)
    with ExitStack() as stack:
        with serve_engine(engine, timeout=1.0) as url:
            first = stack.enter_context(request_clip(url))
            pid = wait_for_run(running)
            second = stack.enter_context(request_clip(url))
            time.sleep(0.2)
            with request_clip(url) as third:
                refused = read_all(third)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"2 clips are pending" in refused
            assert b"retry-after: 5" in refused.lower()
            late = read_all(second)
            assert late.startswith(b"HTTP/1.1 503 ")
            assert b"did not respond within 1 s" in late
        assert read_all(first).startswith(b"HTTP/1.1 503 "), "the server ends"
    wait_until(lambda: not is_running(pid) and not list(scratch.iterdir()))
    monkeypatch.setattr(clips, "LIMITS", Limits(time_s=0.5))
    with serve_engine(engine) as url, request_clip(url) as client:
        response = read_all(client)
    assert response.startswith(b"HTTP/1.1 422 ")
    assert b"takes longer than 0.5 s" in response
