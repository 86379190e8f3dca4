"""Tests of indexing over HTTP: permissions, one run at a time, and searches during a run."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.fakes import write_film
from tests.forking import ForkedPopen
from tests.indexed_texts import add_words, find_content
from tests.serve.conftest import Serve, check_refusal
from tests.waiting import wait_until
from vidret.engine import Engine
from vidret.serve.routes.indexing import Indexer

# The command line with an encoder of colours, whose workers wait at a gate before each segment.
COLOURED = """
import signal, threading; signal.signal(signal.SIGINT, signal.default_int_handler)
import vidret.engine
from tests.fakes import ColourEncoder
class Gated(ColourEncoder):
    def encode_frames(self, batch, *, tokens=False):
        if threading.current_thread() is not threading.main_thread():
            open({gate!r}).close()
        return super().encode_frames(batch, tokens=tokens)
vidret.engine.load_encoder = lambda *_, **__: Gated()
from vidret.cli import main
main()
"""


class Gate:
    """A pipe at which readers wait for a writer."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def open(self) -> None:
        """Let one reader pass, after waiting for it."""
        wait_until(self._has_opened)

    def open_until_end(self, indexer: Indexer) -> None:
        """Let all readers pass until the run has ended."""

        def has_ended() -> bool:
            self._has_opened()
            return not indexer.running

        wait_until(has_ended)

    def _has_opened(self) -> bool:
        """Let one reader pass if one waits, and return whether it did."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def indexer(engine: Engine, gate: Gate, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexer]:
    forking = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedPopen})
    monkeypatch.setattr("vidret.serve.routes.indexing.subprocess", forking)
    options = ["--index", str(engine.path), "--workers", "1"]
    indexer = Indexer(options, [root], program=COLOURED.format(gate=str(gate.path)))
    yield indexer
    indexer.close()


@pytest.fixture
def allowed(serve: Serve, engine: Engine, indexer: Indexer) -> TestClient:
    return serve(engine, indexer)


def test_index_is_described(client: TestClient, engine: Engine) -> None:
    state = client.get("/api/index").json()
    info = state.pop("info")
    assert state == {
        "words": [],
        "people": False,
        "may_change": True,
        "asks": False,
        "running": False,
        "progress": None,
        "last": None,
        "stopping": False,
        "failures": [],
        "missing": [],
        "no_clips": "",
        "allow_index": False,
        "roots": [],
    }
    assert (info["path"], info["videos"], info["files"]["done"]) == (str(engine.path), 3, 3)
    check_refusal(client.post("/api/index", json={"paths": [str(engine.path)]}), 403, "--allow-index")


def test_words_are_counted_by_source(client: TestClient, engine: Engine) -> None:
    add_words(engine.path, find_content(engine.path, "red.mp4"), ["one red apple", "two pears"])
    speech = {"source": "speech", "texts": 2, "videos": 1, "complete": 1}
    assert client.get("/api/index").json()["words"] == [speech]
    add_words(engine.path, find_content(engine.path, "blue.mp4"), ["EXIT"], source="screen", complete=False)
    screen = {"source": "screen", "texts": 1, "videos": 1, "complete": 0}
    assert client.get("/api/index").json()["words"] == [speech, screen], "a change is noticed"


def test_a_run_is_interrupted_and_resumed_while_searches_are_answered(
    allowed: TestClient, indexer: Indexer, gate: Gate, root: Path, coloured: Path
) -> None:
    write_film(root / "long.mp4", ("yellow", 20), ("white", 20))
    (root / "bad.mp4").write_text("no film")
    assert allowed.delete("/api/index").json()["detail"] == "no run is in progress"
    answer = allowed.post("/api/index", json={"paths": [str(root)]})
    assert (answer.status_code, answer.json()["running"]) == (202, True)
    while indexer.running and indexer.progress is None:  # the run waits at the gate, and prints progress
        indexer.wait(0.01)
    assert indexer.progress is not None, indexer.last
    assert (indexer.progress["files"], indexer.progress["done"]) == (2, 0)
    check_refusal(allowed.post("/api/index", json={"paths": [str(root)]}), 409, "a run is in progress")
    gate.open()
    assert allowed.delete("/api/index").status_code == 202
    gate.open_until_end(indexer)
    stopped = allowed.get("/api/index").json()["last"]
    assert stopped["interrupted"] is True
    assert stopped["num_segments"] < 10
    assert allowed.delete("/api/index").status_code == 409
    allowed.post("/api/index", json={"paths": [str(root)]})
    gate.open()  # the run has started
    releasing = threading.Thread(target=gate.open_until_end, args=(indexer,))
    releasing.start()

    def ask(number: int) -> tuple[str, Any]:
        title, query = (("red", "red"), ("blue", "blue"), ("both", "green"))[number % 3]
        return title, allowed.post("/api/search", json={"query": query, "folder": str(coloured), "k": 1})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    releasing.join()
    assert {answer.status_code for _, answer in answers} == {200}
    assert all(answer.json()["hits"][0]["title"] == title for title, answer in answers)
    state = allowed.get("/api/index").json()
    assert (state["running"], state["progress"], state["roots"]) == (False, None, [str(root)])
    assert (state["last"]["encoded"], state["last"]["interrupted"]) == (1, False)
    assert state["last"]["num_segments"] + stopped["num_segments"] == 10
    assert state["failures"] == [{"path": str(root / "bad.mp4"), "reason": "is not a video"}]
    best = allowed.post("/api/search", json={"query": "yellow", "k": 1}).json()["hits"][0]
    assert best["path"] == str(root / "long.mp4"), "found without a restart"


def test_relative_paths_and_those_outside_the_roots_are_refused(
    allowed: TestClient, indexer: Indexer, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.mp4").write_text("secret")
    (tmp_path / "root-and-more").mkdir()
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "folder").symlink_to(tmp_path)
    (root / "films.csv").write_text(f"path\n{tmp_path / 'outside.mp4'}\n")
    (root / "films.mp4").symlink_to(root / "films.csv")
    for path, status, sentence in (
        ("outside.mp4", 403, "must be in"),
        ("root/../outside.mp4", 403, "must be in"),
        ("", 403, "must be in"),
        ("root/link.mp4", 403, "must be in"),
        ("root/folder/outside.mp4", 403, "must be in"),
        ("root-and-more", 403, "must be in"),
        ("root/films.csv", 403, "must be a folder or a video"),
        ("root/films.mp4", 403, "must be a folder or a video"),
        ("root/gone", 422, "no such file or folder"),
        ("root/*.mp4", 422, "no such file or folder"),
        ("root/\0", 422, "no such file or folder"),
        ("root/" + "x" * 5000, 422, "no such file or folder"),
    ):
        check_refusal(allowed.post("/api/index", json={"paths": [str(root), f"{tmp_path}/{path}"]}), status, sentence)
        assert indexer.running is False, "allowed paths are not indexed either"
    monkeypatch.chdir(root.parent)
    for path in ("root", ".", "", "~", "--prune", "file:///"):
        assert allowed.post("/api/index", json={"paths": [path]}).status_code in (403, 422), path


def test_folders_are_listed_below_the_roots_only(allowed: TestClient, root: Path) -> None:
    for name in ("beach", "alps/day 1", ".hidden", "@eaDir"):
        (root / name).mkdir(parents=True)
    (root / "a.mp4").touch()
    (root / "b.txt").touch()
    assert allowed.get("/api/index/folders").json() == {"path": "", "parent": None, "folders": [str(root)], "videos": 0}
    answer = allowed.get("/api/index/folders", params={"path": str(root)}).json()
    assert answer["folders"] == [str(root / "alps"), str(root / "beach")]
    assert (answer["parent"], answer["videos"]) == (None, 1)
    answer = allowed.get("/api/index/folders", params={"path": str(root / "alps")}).json()
    assert (answer["parent"], answer["folders"]) == (str(root), [str(root / "alps/day 1")])
    assert allowed.get("/api/index/folders", params={"path": str(root.parent)}).status_code == 403
    assert allowed.get("/api/index/folders", params={"path": str(root / "a.mp4")}).status_code == 422


def test_missing_files_and_the_lack_of_ffmpeg_are_told(
    serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    film = write_film(tmp_path / "library" / "short.mp4", ("red", 1), salt=9)
    engine.index([film.parent])
    film.unlink()
    engine.index([film.parent])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    state = serve(engine).get("/api/index").json()
    assert state["missing"] == [str(film)]
    assert "ffmpeg" in state["no_clips"]
