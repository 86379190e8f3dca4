"""The client: what it says to a server, what it reads from its answers, and its sentences when there are none."""

import base64
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

import vidret
from tests.fakes import ColourEncoder, write_film
from tests.served import CURVE, HIT, MOMENT, VIDEO, Reply, Served, problem, serve
from vidret.client import PAGE, RemoteEngine, RemoteError
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.app import create_app
from vidret.serve.indexing import Indexer
from vidret.store.records import StoredVideo, StoreInfo
from vidret.types import Filters, Hit, Moment, Query, Segment

INFO = StoreInfo("/index", 1, "starter", "f1", 3, 9, {"done": 2, "failed": 1}, 2, 2, 8, 8, 96, 0, 90.0, 12345, "flat")


@pytest.fixture
def server() -> Iterator[Served]:
    with serve() as served:
        yield served


@pytest.fixture
def remote(server: Served) -> Iterator[RemoteEngine]:
    with RemoteEngine(server.url, "secret", timeout=5) as engine:
        yield engine


def test_a_search_goes_out_and_comes_back_as_hits(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"query": "dog", "weak": False, "took_ms": 1.5, "hits": [HIT]})]
    hits = remote.search("dog -beach", 3)
    asked = server.asked[0]
    assert asked.line == "POST /api/search"
    assert asked.body == {"query": "dog -beach", "k": 3, "rerank": "auto"}
    assert (asked.headers["authorization"], asked.headers["content-type"]) == ("Bearer secret", "application/json")
    segment = Segment(7, 2, 24.0, 36.0)
    assert hits == [Hit(7, "/films/red.mp4", segment, 30.5, 0.75, False, ("/films/copy.mp4",), {"frames": 0.75})]
    remote.search("dog", rerank=None)
    assert server.asked[1].body["rerank"] == "none"


SHOWN = {"overlapping": False, "weak": False}


def test_filters_go_out_as_the_contract_says(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"hits": [], "moments": []})]
    after = datetime(2026, 1, 31, 18, 30, tzinfo=UTC)
    filters = Filters("/films", min_seconds=0.0, max_seconds=60.0, after=after.timestamp())
    assert remote.search("dog", filters=filters) == []
    assert remote.locate("dog", filters=filters) == []
    said = {"folder": "/films", "min_seconds": 0.0, "max_seconds": 60.0, "after": "2026-01-31T18:30:00+00:00"}
    for asked in server.asked:
        asked_otherwise = {"query", "k", "rerank", "videos", *SHOWN}
        assert {name: asked.body[name] for name in asked.body.keys() - asked_otherwise} == said


def open_image(asked: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(asked.body["image"])))


def test_a_picture_goes_out_whole_or_small_enough(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"hits": []})]
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    remote.search(picture)
    assert "query" not in server.asked[0].body
    assert np.array_equal(np.asarray(open_image(server.asked[0])), picture)
    remote.search(np.zeros((10, 2048, 3), np.uint8))
    assert open_image(server.asked[1]).size == (1024, 5)
    for wrong in (picture[..., 0], picture.astype(np.float32), picture[:0], picture[..., :2]):
        with pytest.raises(VidretError, match="image must be uint8"):
            remote.search(wrong)


def test_moments_are_located_in_one_video_or_in_all(server: Served, remote: RemoteEngine) -> None:
    found = Moment(7, "/films/red.mp4", 25.0, 31.5, 0.5, True, "curve", 0.25)
    server.replies = [Reply({"moments": [MOMENT]})]
    assert remote.locate("dog", 3, video=7, videos=4) == [found]
    assert server.asked[0].body == {"query": "dog", "k": 3, "video": 7, "videos": 4} | SHOWN
    server.replies = [Reply({"total": 1, "videos": [VIDEO]}), Reply({"moments": [MOMENT]})]
    assert remote.locate("dog", video=Path("/films/x/../red.mp4")) == [found]
    assert server.asked[1].line == f"GET /api/videos?offset=0&limit={PAGE}&folder=%2Ffilms%2Fred.mp4"
    assert server.asked[2].body == {"query": "dog", "k": 5, "video": 7, "videos": 10} | SHOWN
    remote.locate("dog", video=7, overlapping=True, weak=True)
    assert server.asked[3].body == {"query": "dog", "k": 5, "video": 7, "videos": 10, "overlapping": True, "weak": True}
    for path in ("/films", "gone.mp4", "caf\udce9.mp4"):
        server.replies = [Reply({"total": 1, "videos": [VIDEO]})]
        with pytest.raises(RemoteError, match=rf"^{path}: not in the index of http://127"):
            remote.locate("dog", video=path)


def test_a_curve_is_read_by_words_or_by_picture(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply(CURVE)]
    picture = np.zeros((2, 2, 3), np.uint8)
    for query, line in (("a & b", "GET /api/videos/7/curve?q=a+%26+b"), (picture, "POST /api/videos/7/curve")):
        curve = remote.curve(query, 7)
        assert server.asked[-1].line == line
        assert (curve.scores.tolist(), curve.times.tolist()) == ([0.25, 0.5], [0.5, 1.5])
        assert (curve.start, curve.end, curve.best) == (0.0, 2.0, 0.5)
    assert list(server.asked[1].body) == ["image"]


def test_videos_come_page_by_page(server: Served, remote: RemoteEngine) -> None:
    rows = [{**VIDEO, "id": number} for number in range(PAGE + 1)]
    server.replies = [Reply({"total": PAGE + 1, "videos": rows[:PAGE]}), Reply({"total": 1, "videos": rows[PAGE:]})]
    assert [video.id for video in remote.videos()] == list(range(PAGE + 1))
    assert [asked.line for asked in server.asked] == [
        f"GET /api/videos?offset={offset}&limit={PAGE}" for offset in (0, PAGE)
    ]
    server.replies = [Reply({**VIDEO, "height": None, "changed": None})]
    paths = ("/films/red.mp4", "/films/copy.mp4")
    assert remote.video(7) == StoredVideo(7, paths, 90.0, {"width": 64, "average_rate": 5.0}, True, "", 8, None)
    server.replies = [Reply(VIDEO)]
    assert remote.video(7).changed == datetime(2026, 1, 31, 18, 30, tzinfo=UTC).timestamp()


def test_the_index_is_described(server: Served, remote: RemoteEngine) -> None:
    told = {name: getattr(INFO, name) for name in StoreInfo.__dataclass_fields__}
    failures = [{"path": "/films/bad.mp4", "reason": "no video"}]
    server.replies = [Reply({"info": {**told, "of_tomorrow": 1}, "failures": failures})]
    assert remote.info() == INFO
    assert remote.failed() == [("/films/bad.mp4", "no video")]


VERBS: list[Callable[[RemoteEngine], object]] = [
    lambda remote: remote.search("dog"),
    lambda remote: remote.locate("dog"),
    lambda remote: remote.curve("dog", 7),
    lambda remote: remote.videos(),
    lambda remote: remote.video(7),
    lambda remote: remote.info(),
    lambda remote: remote.failed(),
]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_wrong_is_said_in_the_servers_words(
    server: Served, remote: RemoteEngine, verb: Callable[[RemoteEngine], object]
) -> None:
    server.replies = [problem(422, "query must contain a word, got ' '")]
    with pytest.raises(RemoteError) as raised:
        verb(remote)
    assert (str(raised.value), raised.value.status) == ("query must contain a word, got ' '", 422)
    for strange in (
        Reply(b"<html>", kind="text/html"),
        Reply({"welcome": 1}),
        Reply([]),
        Reply({"detail": "Not Found"}, 404),
        Reply({"status": 502}, 502, "application/problem+json"),
    ):
        server.replies = [strange]
        with pytest.raises(
            RemoteError, match=f"^{server.url}: does not answer as vidret serve does, got {strange.status} "
        ):
            verb(remote)


def test_a_token_is_asked_for(server: Served, remote: RemoteEngine) -> None:
    server.replies = [problem(401, "a token is needed")]
    with pytest.raises(RemoteError, match="wants the token it was started with, got another"):
        remote.info()
    with RemoteEngine(server.url) as stranger, pytest.raises(RemoteError, match="started with, got none"):
        stranger.info()
    assert "authorization" not in server.asked[1].headers


def test_nothing_there_and_something_else_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with RemoteEngine(url, timeout=0.05) as remote, pytest.raises(RemoteError, match=r"no answer within 0.05 s"):
            remote.info()
    with RemoteEngine(url) as remote, pytest.raises(RemoteError, match=f"^{url}: no server answers: .*refused"):
        remote.info()


def test_a_busy_server_is_asked_again_when_it_says_so(server: Served, remote: RemoteEngine) -> None:
    busy, found = problem(503, "the queue is full", Retry_After="0"), Reply({"hits": [HIT]})
    server.replies = [busy, busy, found]
    assert len(remote.search("dog")) == 1
    assert len(server.asked) == 3
    for reply, times in ((busy, 3), (problem(503, "the queue is full"), 1)):
        server.replies = [reply]
        server.asked.clear()
        with pytest.raises(RemoteError, match=r"^the queue is full$"):
            remote.search("dog")
        assert len(server.asked) == times
    server.replies = [problem(503, "come back tomorrow", Retry_After="86400")]
    with pytest.raises(RemoteError, match="tomorrow"):
        remote.search("dog")


def test_one_connection_serves_many_questions(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"hits": []})]
    for _ in range(3):
        remote.search("dog")
    assert len({asked.port for asked in server.asked}) == 1
    remote.close()
    remote.search("dog")
    assert len({asked.port for asked in server.asked}) == 2


def test_a_kept_connection_that_was_closed_is_no_error(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"hits": []}, hangs_up=True)]
    for _ in range(3):
        remote.search("dog")
    assert len({asked.port for asked in server.asked}) == 3


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://here", "http://", "http://here:port", "http://h/?token=T"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(VidretError, match=r"url must be like http://127\.0\.0\.1:8000, got "):
        RemoteEngine(url)


def test_a_path_before_the_api_stays(server: Served) -> None:
    server.replies = [Reply({"hits": []})]
    with RemoteEngine(f"{server.url}/films/") as remote:
        remote.search("dog")
    assert server.asked[0].line == "POST /films/api/search"


def test_a_token_that_no_header_can_hold_is_told_without_it() -> None:
    with pytest.raises(VidretError, match=r"^token must be printable ASCII") as raised:
        RemoteEngine("http://here", "sécret\n")
    assert "cret" not in str(raised.value)


def test_it_is_public_and_needs_no_torch() -> None:
    assert (vidret.RemoteEngine, vidret.RemoteError) == (RemoteEngine, RemoteError)
    code = "import sys; from vidret import RemoteEngine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The real server.


@contextmanager
def serve_index(index: Path, token: str | None = None) -> Iterator[str]:
    """Serve an index of colours on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening, Engine(index, ColourEncoder()) as engine:
        app = create_app(engine, Indexer([]), token=token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(folder / "films" / "blue.mp4", ("blue", 9))
    (folder / "films" / "copy.mp4").write_bytes((folder / "films" / "red.mp4").read_bytes())
    (folder / "films" / "bad.mp4").write_text("no video")
    os.utime(folder / "films" / "blue.mp4", (86400, 86400))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    return folder / "index"


@pytest.fixture
def near(index: Path) -> Iterator[Engine]:
    with Engine(index, ColourEncoder()) as engine:
        yield engine


@pytest.fixture
def far(index: Path) -> Iterator[RemoteEngine]:
    with serve_index(index) as url, RemoteEngine(url) as engine:
        yield engine


@pytest.mark.parametrize(
    "query", ["red", "blue -red", np.full((8, 12, 3), (30, 30, 200), np.uint8)], ids=["words", "not", "picture"]
)
def test_local_and_remote_answer_alike(near: Engine, far: RemoteEngine, query: Query, index: Path) -> None:
    films = index.parent / "films"
    all_that_hold = Filters(str(films), 1.0, 8.0, after=86401.0, before=4e9)
    found = []
    for filters in (Filters(), all_that_hold, Filters(before=86401.0), Filters(folder="/nowhere")):
        hits = near.search(query, 5, rerank=None, filters=filters)
        assert far.search(query, 5, rerank=None, filters=filters) == hits
        assert far.locate(query, 3, filters=filters) == near.locate(query, 3, filters=filters)
        found.append(len(hits))
    assert found == [2, 1, 1, 0]
    for video in (1, films / "copy.mp4"):
        moments, same = near.locate(query, video=video), far.locate(query, video=video)
        assert [(each.start, each.end, each.score) for each in moments] == [(m.start, m.end, m.score) for m in same]
        curve, read = near.curve(query, video), far.curve(query, video)
        for name in (field.name for field in fields(curve)):
            assert np.array_equal(getattr(curve, name), getattr(read, name)), name


def test_local_and_remote_hold_alike(near: Engine, far: RemoteEngine) -> None:
    assert [[Path(path).name for path in video.paths] for video in far.videos()] == [
        ["blue.mp4"],
        ["copy.mp4", "red.mp4"],
    ]
    for video, read in zip(near.videos(), far.videos(), strict=True):
        assert read.facts == {name: video.facts[name] for name in ("width", "height", "average_rate")}
        assert read.changed == pytest.approx(video.changed, abs=1e-6)
        assert replace(read, facts=video.facts, changed=video.changed) == video
        assert far.video(video.id) == read
    assert [video.paths for video in far.videos(Filters(max_seconds=8.0))] == [far.videos()[1].paths]
    assert far.info() == near.info()
    assert [Path(path).name for path, _ in far.failed()] == ["bad.mp4"]
    assert far.failed() == near.failed()


def test_the_real_server_says_what_is_wrong(index: Path) -> None:
    with serve_index(index, token="secret-token") as url, RemoteEngine(url, "secret-token") as remote:
        for wrong, sentence, status in (
            (lambda: remote.search(" "), "query must contain a word, got ' '", 422),
            (lambda: remote.search("red", 0), "k: ", 422),
            (lambda: remote.search("red", rerank="mine.safetensors"), "rerank: ", 422),
            (lambda: remote.search("red", filters=Filters(min_seconds=-1.0)), "min_seconds: ", 422),
            (lambda: remote.search("caf\udce9"), "", 422),
            (lambda: remote.video(99), "video must be one of this index, got 99", 404),
            (lambda: remote.curve("red", 99), "video must be one of this index, got 99", 404),
        ):
            with pytest.raises(RemoteError) as raised:
                wrong()
            assert str(raised.value).startswith(sentence)
            assert raised.value.status == status
        with RemoteEngine(url, "another-token") as other, pytest.raises(RemoteError, match="started with, got another"):
            other.search("red")
