"""Indexes of videos at addresses: found, located, recognised as copies, and never lost to a network that is down."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import ColourEncoder, write_film
from tests.index.samples import read_contents, read_states
from tests.stores import FileServer, serve_files
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.cutting import cut_moments
from vidret.present.sheet import draw_sheet, tiles_of_results
from vidret.serve.app import create_app
from vidret.serve.routes.indexing import Indexer
from vidret.store.store import Store
from vidret.types import Filters
from vidret.video import urls

pytestmark = pytest.mark.scale


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "RETRY_PAUSES_S", ())


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    write_film(folder / "red.mp4", ("red", 3))
    write_film(folder / "blue.mp4", ("blue", 3))
    write_film(folder / "more" / "both.mp4", ("green", 5), ("red", 4), ("blue", 7))
    return folder


@pytest.fixture
def server(films: Path) -> Iterator[FileServer]:
    with serve_files(films) as server:
        yield server


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        yield engine


def state(engine: Engine, address: str) -> tuple[str, str]:
    with Store.open(engine.path) as store:
        record = store.files.get(address)
        assert record is not None
        return record.state, record.reason


def test_addresses_are_indexed_as_files_are(tmp_path: Path, films: Path, server: FileServer, engine: Engine) -> None:
    report = engine.index([server.url])
    assert (report.encoded, report.failed) == (3, [])
    with Engine(tmp_path / "other", ColourEncoder()) as other:
        other.index([films], decoder="pyav")
    assert read_contents(engine.path) == read_contents(tmp_path / "other")
    asked = len(server.sent)
    hits = engine.search("green", 3)
    assert hits[0].path == f"{server.url}/more/both.mp4"
    moment = engine.locate("red", 1, video=f"{server.url}/more/both.mp4")[0]
    assert [moment.path, moment.start, moment.end] == [
        hits[0].path,
        pytest.approx(5, abs=0.11),
        pytest.approx(9, abs=0.11),
    ]
    assert len(server.sent) == asked, "searching asks no store"
    report = engine.index([server.url])
    assert (report.unchanged, report.encoded) == (3, 0)
    assert len(server.sent) == asked, "what is unchanged is not read"


def test_copies_are_recognised_here_and_there(films: Path, server: FileServer, engine: Engine) -> None:
    engine.index([films / "red.mp4"])
    report = engine.index([f"{server.url}/red.mp4"])
    assert (report.linked, report.encoded, report.missing) == (1, 0, 0)
    hit = engine.search("red", 1)[0]
    assert (hit.path, hit.copies) == (str(films / "red.mp4"), (f"{server.url}/red.mp4",))
    (films / "red.mp4").rename(films / "moved.mp4")
    assert engine.search("red", 1)[0].path == f"{server.url}/red.mp4"


def test_a_store_that_is_down_loses_nothing(films: Path, server: FileServer, engine: Engine) -> None:
    red = f"{server.url}/red.mp4"
    engine.index([server.url])
    server.closed = True
    with pytest.raises(VidretError, match="its store cannot be reached"):
        engine.index([server.url])
    manifest = films / "m.jsonl"
    manifest.write_text(json.dumps({"path": red}) + "\n" + json.dumps({"path": f"{server.url}/new.mp4"}))
    report = engine.index([manifest])
    assert [path for path, _ in report.failed] == [f"{server.url}/new.mp4", red]
    assert all("its store cannot be reached" in reason for _, reason in report.failed)
    assert (report.missing, report.encoded) == (0, 0)
    assert state(engine, red) == ("done", "")
    assert state(engine, f"{server.url}/new.mp4")[0] == "pending"
    assert engine.search("red", 1)[0].path == red, "it is still found"

    server.closed = False
    shutil.copy(films / "blue.mp4", films / "new.mp4")
    report = engine.index([manifest])
    assert (report.unchanged, report.linked, report.failed) == (1, 1, [])
    assert set(read_states(engine.path).values()) == {"done"}


def test_what_a_store_says_is_gone_is_missing(films: Path, server: FileServer, engine: Engine) -> None:
    engine.index([server.url])
    (films / "red.mp4").unlink()
    report = engine.index([f"{server.url}/more"], prune=False)
    assert (report.missing, report.unchanged, report.failed) == (1, 1, [])
    assert state(engine, f"{server.url}/red.mp4") == ("missing", "the file is gone")
    assert not any(hit.path.endswith("/red.mp4") for hit in engine.search("red"))
    report = engine.index([f"{server.url}/blue.mp4"], prune=True)
    assert report.unpruned == [f"{server.url}/red.mp4"]
    report = engine.index([server.url], prune=True)
    assert report.pruned is not None
    assert (report.pruned.files, report.unpruned) == (1, [])


def test_a_server_that_breaks_in_the_middle_is_gone_on_with(films: Path, engine: Engine) -> None:
    write_film(films / "red.mp4", *[(colour, 1) for colour in ("red", "green", "blue") * 8])
    with serve_files(films, most_bytes=(films / "red.mp4").stat().st_size) as server:  # enough for one reading
        report = engine.index([f"{server.url}/red.mp4"])
        assert report.encoded == 0
        ((path, reason),) = report.failed
        assert path == f"{server.url}/red.mp4"
        assert reason.startswith("its store cannot be reached: ")
        assert state(engine, path)[0] == "pending"
        server.most_bytes = None
        report = engine.index([f"{server.url}/red.mp4"])
        assert (report.encoded, report.failed) == (1, [])


def test_changes_are_seen_by_size_and_time(films: Path, server: FileServer, engine: Engine) -> None:
    address = f"{server.url}/red.mp4"
    engine.index([address])
    write_film(films / "red.mp4", ("green", 3))
    os.utime(films / "red.mp4", (10**9, 10**9))
    assert engine.index([address]).encoded == 1
    assert engine.search("green", 1)[0].score > 0.99
    assert engine.videos()[0].changed == 10**9
    assert engine.search("green", filters=Filters(before=10**9)) == []


def test_addresses_narrow_a_search_as_folders_do(films: Path, server: FileServer, engine: Engine) -> None:
    engine.index([films, server.url])
    found = engine.search("green", filters=Filters(folder=f"{server.url}/more/"))
    assert [(hit.path, hit.copies) for hit in found] == [(f"{server.url}/more/both.mp4", ())]
    assert {hit.path for hit in engine.search("green", filters=Filters(folder=server.url))} == {
        f"{server.url}/{name}" for name in ("red.mp4", "blue.mp4", "more/both.mp4")
    }


def test_memory_stays_in_its_process(films: Path, engine: Engine) -> None:
    store, path = urls.open_store("memory://red.mp4")
    store.pipe_file(path, (films / "red.mp4").read_bytes())
    assert engine.index(["memory://red.mp4"]).failed == [("memory://red.mp4", urls.MEMORY)]


def test_sheets_pages_and_pieces(tmp_path: Path, server: FileServer, engine: Engine) -> None:
    address = f"{server.url}/red.mp4?signature=5f"
    engine.index([address])
    hit = engine.search("red", 1)[0]
    assert hit.path == address
    shots = tiles_of_results([hit])
    assert shots[0].title == "1. red.mp4"
    draw_sheet(shots, "red", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        red, green, _ = sheet.convert("RGB").getpixel((160, 140))  # type: ignore[misc]
    assert red > 2 * green
    moments = engine.locate("red", 1)
    with pytest.raises(VidretError, match=r"/red.mp4: only local files can be cut") as caught:
        cut_moments(moments, tmp_path / "pieces")
    assert "5f" not in str(caught.value)
    assert not (tmp_path / "pieces").exists()
    app = create_app(engine, Indexer([]))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        (row,) = client.get("/api/videos").json()["videos"]
        assert (row["path"], row["title"], row["missing"]) == (address.partition("?")[0], "red", False)
        shown = client.get(f"/api/thumbnails/{row['id']}?t=1")
        assert (shown.status_code, "x-vidret-reason" in shown.headers) == (200, False)
        played = client.get(f"/api/videos/{row['id']}/stream")
        assert (played.status_code, played.json()["detail"]) == (
            404,
            f"{server.url}/red.mp4: is at a URL, and this server sends local files only",
        )
        server.closed = True
        assert client.get(f"/api/thumbnails/{row['id']}?t=2").headers["x-vidret-reason"].startswith("its store cannot")


def test_nothing_of_a_signature_is_told(server: FileServer, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vidret"):
        report = engine.index([f"{server.url}/red.mp4?signature=5f5f"])
        server.closed = True
        with pytest.raises(VidretError) as caught:
            engine.index([f"{server.url}/blue.mp4?signature=5f5f"])
    assert report.encoded == 1
    assert "5f5f" not in caplog.text + str(caught.value)


def test_the_command_line_takes_addresses(tmp_path: Path, server: FileServer) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        program = "from vidret.cli import main; main()"
        return subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)

    done = run("index", "s3://bucket/films", "--index", str(tmp_path / "index"))
    assert done.returncode == 1
    assert "s3://bucket/films: s3:// needs a package that is not installed: Install s3fs" in done.stderr.replace(
        "\n", " "
    )
    done = run("index", f"{server.url}/red.mp4", "--index", "s3://bucket/index")
    assert done.returncode == 1
    assert "index must be a folder of a file system, got s3://bucket/index" in done.stderr.replace("\n", " ")
