"""The signature of a URL is in no output of any command, of the server, of its tools or of the client."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from tests.chatting import run_chat, say
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from tests.index_server import serve_index
from vidret.cli.commands.watch import match_to_dict
from vidret.client import RemoteEngine
from vidret.engine import Engine
from vidret.language.endpoint import ChatEndpoint
from vidret.present.export import FORMATS, format_moments
from vidret.present.show import to_dicts
from vidret.search.collections import WatchMatch
from vidret.serve.app import create_app
from vidret.serve.mcp.arguments import Budget
from vidret.serve.mcp.tools import ToolBox, open_frames
from vidret.serve.routes.indexing import Indexer
from vidret.store.records import FileState
from vidret.store.rows_file import Watch
from vidret.store.store import Store
from vidret.text import show_path
from vidret.types import Moment, SharedFootage, to_row
from vidret.video import urls

HOST = "http://127.0.0.1:9"  # nothing listens there
SECRET = "5EC2E7"


def sign(name: str) -> str:
    return f"{HOST}/{name}?X-Amz-Signature={SECRET}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index whose files are at signed URLs; each video has a copy, and one file failed."""
    folder = tmp_path_factory.mktemp("signed")
    for colour in ("red", "blue"):
        write_film(folder / "films" / f"{colour}.mp4", (colour, 3), ("black", 3))
    (folder / "films" / "bad.mp4").write_text("no video")
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    with Store.open(folder / "index", write=True) as store:
        for file in store.files.find():
            name = Path(file.path).name
            for url in (sign(name), sign(f"copies/{name}")):
                store.writer.set_file(
                    url,
                    state=cast(FileState, file.state),
                    reason=file.reason,
                    video=file.video,
                    num_bytes=file.num_bytes,
                )
            store.writer.set_file(file.path, state="missing")
    return folder


@pytest.fixture
def signed(made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    monkeypatch.setattr(urls, "RETRY_PAUSES_S", ())
    caplog.set_level(logging.DEBUG, "vidret")
    yield made / "index"
    assert SECRET not in caplog.text


WITH_JSON = ["search red", "search red --by moment", "ask red --context", "info", "info --failed", "duplicates"]
WITH_JSON += [f"describe {HOST}", "concepts", f"index {sign('other.mp4')}", "merge INDEX --index OUT/merged"]
COMMANDS = [
    *(f"{command}{form}" for command in WITH_JSON for form in ("", " --json")),
    "search red --explain --json",
    "search red --sheet OUT/sheet.jpg",
    "locate red --weak",
    *(f"locate red --weak --format {form}" for form in FORMATS),
    *(f"locate red {HOST}/red.mp4 --weak --format {form}" for form in ("chapters", "srt", "edl")),
    f"locate red {sign('red.mp4')} --json",
    f"locate red {sign('none.mp4')}",
    "locate red mp4",
    "locate red --weak --export OUT/clips",
    "info --check",
    f"shots {HOST}/red.mp4 --format json",
    f"transcript {HOST}/red.mp4",
    f"teach mascot --yes {sign('red.mp4')} --json",
    "export embeddings OUT/vectors.npy",
    "export embeddings OUT/vectors.safetensors",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_or_writes_it(command: str, run: Runner, signed: Path, tmp_path: Path) -> None:
    words = [word.replace("OUT", str(tmp_path / "out")).replace("INDEX", str(signed)) for word in command.split()]
    (tmp_path / "out").mkdir()
    code, out, err = run(*words, *([] if "--index" in words else ["--index", signed]))
    assert code in (0, 1), err  # the command line is right
    assert out + err
    assert "Traceback" not in err
    assert SECRET not in out + err
    written = [path for path in (tmp_path / "out").glob("*.*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)


def test_no_result_or_export_has_it(signed: Path) -> None:
    with Engine(signed, ColourEncoder()) as engine:
        hits, moments = engine.search("red", 2), engine.locate("red", 2, weak=True)
    assert hits[0].path.startswith(HOST)
    assert hits[0].copies
    assert SECRET not in json.dumps(to_dicts([*hits, *moments]))
    assert to_dicts(hits)[0]["path"] == f"{HOST}/red.mp4"
    for form in ("json", "csv"):
        assert SECRET not in format_moments(moments, form, query="red")


REQUESTS: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("GET", "/api/videos", None),
    ("GET", "/api/videos/1", None),
    ("GET", "/api/videos/1/stream", None),
    ("GET", "/api/videos/1/clip?start=0&end=1", None),
    ("GET", "/api/thumbnails/1?t=1", None),
    ("GET", "/api/index", None),
    ("GET", "/api/concepts", None),
    ("GET", "/metrics", None),
    ("POST", "/api/search", {"query": "red"}),
    ("POST", "/api/search", {"query": "red", "folder": sign("red.mp4")}),
    ("POST", "/api/locate", {"query": "red", "weak": True}),
    ("POST", "/api/locate", {"query": "red", "video": 1, "weak": True}),
    ("POST", "/api/ask", {"question": "where is red?", "llm_queries": False}),
    ("POST", "/api/duplicates", {}),
    ("POST", "/knn-service", {"text": "red", "num_images": 2}),
    ("POST", "/api/concepts", {"name": "emblem", "yes": [{"video": 1, "start": 0, "end": 1}]}),
)


def test_no_webhook_or_find_has_it() -> None:
    moment = Moment(1, sign("red.mp4"), 0.0, 1.0, 0.9)
    match = WatchMatch(watch=Watch(name="reds", query="red", last_video=0), moment=moment)
    found = SharedFootage(
        video=1,
        path=sign("red.mp4"),
        start=0.0,
        end=1.0,
        clip_start=0.0,
        clip_end=1.0,
        speed=1.0,
        similarity=0.9,
        agreement=0.9,
        copies=(sign("other.mp4"),),
    )
    assert SECRET not in json.dumps([match_to_dict(match), to_row(found, "json", show_path)])
    assert match_to_dict(match)["path"] == f"{HOST}/red.mp4"


def test_no_response_has_it(signed: Path) -> None:
    with run_chat(lambda _: say("There [1].")) as chat, Engine(signed, ColourEncoder()) as engine:
        app = create_app(engine, Indexer([]), llm=ChatEndpoint(url=chat.url, model="m"))
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            for method, path, body in REQUESTS:
                response = client.request(method, path, json=body)
                assert response.status_code != 422, (path, response.text)
                assert SECRET not in response.text + str(response.headers), path
        assert SECRET not in json.dumps(chat.requests)
        calls: dict[str, dict[str, Any]] = {
            "search": {"query": "red"},
            "list_videos": {},
            "describe_video": {"video": 1},
        }
        with open_frames(engine) as draw:
            tools = ToolBox(engine, draw, Budget())
            for name, arguments in calls.items():
                assert SECRET not in tools.call(name, arguments).text


def test_a_client_finds_a_video_by_its_url_and_by_what_is_shown_of_it(signed: Path) -> None:
    with serve_index(signed) as url, RemoteEngine(url) as remote:
        shown = [path for video in remote.videos() for path in video.paths]
        assert all(SECRET not in path for path in shown)
        assert remote.shots(sign("red.mp4")) == remote.shots(f"{HOST}/red.mp4") == remote.shots("copies/red.mp4")
