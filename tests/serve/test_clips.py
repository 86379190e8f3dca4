"""Tests of clips cut by the server."""

import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.fakes import COLOURS
from tests.serve.conftest import Serve, find_id
from vidret.engine import Engine
from vidret.serve.files import GONE, RELINKED


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
    for time, colour in ((0.0, "green"), (2.0, "red"), (4.7, "blue")):
        shown = max((frame for frame in frames if frame[0] <= time + 1e-3), key=lambda frame: frame[0])[1]
        np.testing.assert_allclose(shown, COLOURS[colour], atol=12)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "end", "rule"),
    [(3, 3, "end must be at most 600 s after start"), (0, 601, "end must be at most"), (90, 95, "has no frame")],
)
def test_an_invalid_span_is_refused(
    client: TestClient, engine: Engine, scratch: Path, start: float, end: float, rule: str
) -> None:
    answer = client.get(f"/api/videos/{find_id(engine, 'red.mp4')}/clip", params={"start": start, "end": end})
    assert answer.status_code == 422
    assert rule in answer.json()["detail"]
    assert list(scratch.iterdir()) == []


def test_an_unknown_video_is_refused(client: TestClient) -> None:
    assert client.get("/api/videos/999/clip", params={"start": 0, "end": 1}).status_code == 404


def test_only_the_indexed_file_is_cut(serve: Serve, own_engine: Engine, tmp_path: Path, scratch: Path) -> None:
    video_id = find_id(own_engine, "red.mp4")
    path = Path(own_engine.video(video_id).paths[0])
    client, ask = serve(own_engine), {"start": 0, "end": 1}
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(path.with_name("blue.mp4").read_bytes())
    path.unlink()
    assert GONE in client.get(f"/api/videos/{video_id}/clip", params=ask).json()["detail"]
    path.symlink_to(secret)
    answer = client.get(f"/api/videos/{video_id}/clip", params=ask)
    assert (answer.status_code, RELINKED in answer.json()["detail"]) == (404, True)
    assert list(scratch.iterdir()) == []
