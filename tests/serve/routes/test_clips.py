"""Tests of clips cut by the server."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.fakes import COLOURS
from tests.index_server import connect, read_all, serve_engine
from tests.serve.conftest import Serve, check_refusal, find_id
from vidret.engine import Engine
from vidret.present.ffmpeg import Limits
from vidret.serve.files import GONE, RELINKED
from vidret.serve.routes import media as clips


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
        check_refusal(client.get(f"/api/videos/{video_id}/clip", params={"start": start, "end": end}), status, rule)
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


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
