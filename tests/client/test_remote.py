"""The client: its requests, its parsing of answers, its errors, and its agreement with ``Engine``."""

import base64
import inspect
import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.changing import change_each
from tests.fakes import ColourEncoder
from tests.followed import follow_shots
from tests.http_servers import QuietHandler, run_handler
from tests.index_server import serve_index
from tests.indexed_texts import add_words, find_content
from tests.scripted_server import CURVE, HIT, MOMENT, TEXT, VIDEO, Reply, Served, problem, serve
from vidret.client import RemoteEngine, RemoteError
from vidret.client.remote import PAGE
from vidret.engine import Engine
from vidret.errors import NotFoundError, OptionError, VidretError
from vidret.store.records import StoredVideo
from vidret.text import show_path
from vidret.types import (
    ComposedQuery,
    Filters,
    Hit,
    LocateOptions,
    Moment,
    Query,
    SearchOptions,
    Segment,
    Sequence,
    Shot,
    ShotChange,
    list_options,
    to_row,
)

# What is sent of the options that nobody gives.
SEARCH, LOCATE = (
    {option.name: option.default for option in list_options(options) if option.default not in (None, ())}
    for options in (SearchOptions, LocateOptions)
)


@pytest.fixture
def server() -> Iterator[Served]:
    with serve() as served:
        yield served


@pytest.fixture
def remote(server: Served) -> Iterator[RemoteEngine]:
    with RemoteEngine(server.url, "secret", timeout=5) as engine:
        yield engine


def test_search_sends_a_query_and_ids_of_judged_videos_and_parses_hits(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"query": "dog", "weak": False, "took_ms": 1.5, "hits": [HIT | {"new_field": 1}]})]
    hits = remote.search("dog -beach", 3)
    request = server.asked[0]
    assert request.line == "POST /api/search"
    assert request.body == SEARCH | {"query": "dog -beach", "k": 3}
    assert (request.headers["authorization"], request.headers["content-type"]) == ("Bearer secret", "application/json")
    segment = Segment(7, 2, 24.0, 36.0)
    assert hits == [
        Hit(7, "/films/red.mp4", segment, 30.5, 0.75, False, ("/films/copy.mp4",), {"frames": 0.75}, probability=0.9)
    ]
    assert hits[0].likelihood == "likely"
    remote.search("dog", rerank=None)
    assert server.asked[1].body["rerank"] == "none"
    server.replies = [Reply({"total": 1, "videos": [VIDEO], "next": None}), Reply({"hits": []})]
    remote.search("", like=[("/films/red.mp4", 1.5), ("/films/red.mp4", 3.5)], seen=[(9, 2.0)])
    assert server.asked[-1].body == SEARCH | {"k": 10, "like": [[7, 1.5], [7, 3.5]], "seen": [[9, 2.0]]}
    assert len(server.asked) == 4, "a video is looked for once"


def open_image(request: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(request.body["image"])))


def test_image_is_sent_and_downscaled_if_large(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply({"hits": []})]
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    remote.search(picture)
    assert "query" not in server.asked[0].body
    assert np.array_equal(np.asarray(open_image(server.asked[0])), picture)
    remote.search(np.zeros((10, 2048, 3), np.uint8))
    assert open_image(server.asked[1]).size == (1024, 5)


@pytest.mark.wrong_shapes
def test_what_is_no_argument_is_refused_before_it_is_sent(remote: RemoteEngine) -> None:
    picture = np.zeros((5, 7, 3), np.uint8)
    for wrong in (picture[..., 0], picture.astype(np.float32), picture[:0], picture[..., :2]):
        with pytest.raises(VidretError, match="image must be uint8"):
            remote.search(wrong)
    for no_query in (None, 5, ["dog"]):
        for ask in (remote.search, remote.locate, partial(remote.curve, video=7)):
            with pytest.raises(OptionError, match="query must be text, events, an image, images with words or a vec"):
                ask(no_query)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="like must be pairs"):
        remote.search("dog", like=["ab"])  # type: ignore[list-item]
    for video in (None, 1.5):
        with pytest.raises(OptionError, match=f"video must be an id, a path or the end of one, got {video}"):
            remote.shots(video)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"yes must be a list, got 'dog.mp4'"):
        remote.teach("dog", "dog.mp4")
    with pytest.raises(OptionError, match="paths must be a list, got 'films'"):
        remote.duplicates("films")


def test_moments_are_located_in_one_video_or_in_all(server: Served, remote: RemoteEngine) -> None:
    found = Moment(7, "/films/red.mp4", 25.0, 31.5, 0.5, True, "curve", 0.25, probability=0.125)
    server.replies = [Reply({"moments": [MOMENT]})]
    assert remote.locate("dog", np.int64(3), video=np.int64(7), videos=4) == [found]  # type: ignore[arg-type]
    assert server.asked[0].body == LOCATE | {"query": "dog", "k": 3, "video": 7, "videos": 4}
    server.replies = [Reply({"total": 1, "videos": [VIDEO], "next": None}), Reply({"moments": [MOMENT]})]
    assert remote.locate("dog", video=Path("/films/x/../red.mp4")) == [found]
    assert server.asked[1].line == f"GET /api/videos?limit={PAGE}&folder=%2Ffilms%2Fred.mp4"
    assert server.asked[2].body == LOCATE | {"query": "dog", "video": 7}
    remote.locate("dog", video=7, overlapping=True, weak=True, at_least=0.5)
    changed = {"overlapping": True, "weak": True, "at_least": 0.5}
    assert server.asked[3].body == LOCATE | {"query": "dog", "video": 7} | changed
    for path, hint in (
        ("/films", ", since it is a folder, which vidret search and locate take by --folder"),
        ("rde.mp4", "; did you mean /films/red.mp4?"),
        ("gone.mp4", ""),
        ("caf\udce9.mp4", ""),
    ):
        server.replies = [Reply({"total": 1, "videos": [VIDEO], "next": None})]
        with pytest.raises(RemoteError, match=f"^{re.escape(f'{path}: not in the index of {server.url}{hint}')}$"):
            remote.locate("dog", video=path)


def test_videos_are_requested_in_pages(server: Served, remote: RemoteEngine) -> None:
    rows = [{**VIDEO, "id": video_id} for video_id in range(PAGE + 1)]
    server.replies = [
        Reply({"total": PAGE + 1, "videos": rows[:PAGE], "next": "L2E="}),
        Reply({"total": PAGE + 1, "videos": rows[PAGE:], "next": None}),
    ]
    assert [video.id for video in remote.videos()] == list(range(PAGE + 1))
    assert [request.line for request in server.asked] == [
        f"GET /api/videos?limit={PAGE}",
        f"GET /api/videos?limit={PAGE}&cursor=L2E%3D",
    ]
    server.replies = [Reply({**VIDEO, "height": None, "changed": None})]
    paths = ("/films/red.mp4", "/films/copy.mp4")
    assert remote.video(7) == StoredVideo(7, paths, 90.0, {"width": 64, "average_rate": 5.0}, True, "", 8, None)
    server.replies = [Reply(VIDEO)]
    assert remote.video(7).changed == datetime(2026, 1, 31, 18, 30, tzinfo=UTC).timestamp()


METHODS: list[Callable[[RemoteEngine], object]] = [
    lambda remote: remote.search("dog"),
    lambda remote: remote.locate("dog"),
    lambda remote: remote.curve("dog", 7),
    lambda remote: remote.videos(),
    lambda remote: remote.video(7),
    lambda remote: remote.transcript(7),
    lambda remote: remote.shots(7),
    lambda remote: remote.info(),
    lambda remote: remote.failed(),
]


@pytest.mark.parametrize("method", METHODS)
def test_errors_have_the_message_of_the_server(
    server: Served, remote: RemoteEngine, method: Callable[[RemoteEngine], object]
) -> None:
    server.replies = [problem(422, "query must contain a word, got ' '")]
    with pytest.raises(RemoteError) as raised:
        method(remote)
    assert (str(raised.value), raised.value.status) == ("query must contain a word, got ' '", 422)
    server.replies = [problem(404, "video must be one of this index, got 99")]
    with pytest.raises(NotFoundError, match="video must be one of this index, got 99"):
        method(remote)
    for invalid in (
        Reply(b"<html>", kind="text/html"),
        Reply({"welcome": 1}),
        Reply([]),
        Reply({"detail": "Not Found"}, 404),
        Reply({"status": 502}, 502, "application/problem+json"),
        Reply(["usage"], 502, "application/problem+json"),
    ):
        server.replies = [invalid]
        rule = rf"^{server.url}: must be a vidret server( of this version)?, got {invalid.status} "
        with pytest.raises(RemoteError, match=rule):
            method(remote)


ANSWERS: list[tuple[Callable[[RemoteEngine], Any], Any]] = [
    (lambda remote: remote.search("dog"), {"hits": [HIT]}),
    (lambda remote: remote.locate("dog"), {"moments": [MOMENT]}),
    (lambda remote: remote.curve("dog", 7), CURVE),
    (lambda remote: remote.videos(), {"videos": [VIDEO], "next": None}),
    (lambda remote: remote.transcript(7), {"texts": [TEXT]}),
]


@pytest.mark.parametrize(("method", "answer"), ANSWERS)
def test_answers_of_other_types_are_refused_with_the_name_of_the_server(
    server: Served, method: Callable[[RemoteEngine], Any], answer: Any
) -> None:
    """What is returned can be written down again, without numbers that JSON lacks."""
    with RemoteEngine(server.url) as remote:
        server.replies = [Reply(answer)]
        method(remote)
        refusals: list[str] = []
        for changed in change_each(answer, [None, "word", float("nan"), 10**400, [], {}, [None]]):
            server.replies = [Reply(changed)]
            try:
                results = method(remote)
            except RemoteError as error:
                refusals.append(str(error))
                continue
            for result in results if isinstance(results, list) else [results]:
                row = asdict(result) if isinstance(result, StoredVideo) else to_row(result, "json", show_path)
                json.dumps(row, allow_nan=False)
    rule = f"{server.url}: must be a vidret server"
    assert len(refusals) > 10
    assert [refusal for refusal in refusals if not refusal.startswith(rule)] == []


@pytest.mark.parametrize(
    ("piece", "pause_s", "rule"),
    [(b" " * 4096, 0.0, "must answer with at most 65536 bytes"), (b" ", 0.05, r"no complete answer within 0\.3 s")],
)
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_answers_without_end_are_given_up(
    monkeypatch: pytest.MonkeyPatch, kind: str, piece: bytes, pause_s: float, rule: str
) -> None:
    monkeypatch.setattr("vidret.client.server.MAX_ANSWER_BYTES", 1 << 16)

    class Handler(QuietHandler):
        def answer(self) -> None:
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
            with suppress(OSError):
                while True:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(pause_s)

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

    with run_handler(Handler) as url, RemoteEngine(url, timeout=30 if not pause_s else 0.3) as remote:
        for ask in (remote.info, lambda: remote.duplicates([7])):
            with pytest.raises(RemoteError, match=f"^{url}: ({rule}|must be a vidret server)"):
                ask()


def test_redirects_and_endless_waits_are_reported(server: Served, remote: RemoteEngine) -> None:
    server.replies = [Reply(b"", 302, headers={"Location": "https://films/?token=T"})]
    with pytest.raises(RemoteError, match=r"got 302 Found, a redirect to https://films/, which is not"):
        remote.info()
    server.replies = [problem(503, "the queue is full", Retry_After="9" * 5000)]
    with pytest.raises(RemoteError, match="the queue is full"):
        remote.info()


def test_missing_or_wrong_token_is_reported(server: Served, remote: RemoteEngine) -> None:
    server.replies = [problem(401, "a token is needed")]
    with pytest.raises(RemoteError, match="token must be one that the server accepts, got another"):
        remote.info()
    with RemoteEngine(server.url) as stranger, pytest.raises(RemoteError, match="accepts, got none"):
        stranger.info()
    assert "authorization" not in server.asked[1].headers


def test_unreachable_and_silent_servers_are_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            RemoteEngine(url, timeout=0.05) as remote,
            pytest.raises(RemoteError, match=r"no complete answer within 0.05 s"),
        ):
            remote.info()
    with (
        RemoteEngine(url) as remote,
        pytest.raises(RemoteError, match=f"^{url}: cannot be reached: Connection refused"),
    ):
        remote.info()


def test_request_to_a_busy_server_is_retried_on_request(server: Served, remote: RemoteEngine) -> None:
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


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_connection_is_reused_until_it_is_closed(server: Served, hangs_up: bool) -> None:
    server.replies = [Reply({"hits": []}, hangs_up=hangs_up)]
    with RemoteEngine(f"{server.url}/films/") as remote:
        for _ in range(3):
            remote.search("dog")
        assert len({request.port for request in server.asked}) == (3 if hangs_up else 1)
        remote.close()
        remote.search("dog")
    assert len({request.port for request in server.asked}) == (4 if hangs_up else 2)
    assert server.asked[0].line == "POST /films/api/search", "the path of the server is kept"


def test_a_connection_that_the_server_closed_is_opened_again(server: Served) -> None:
    early = b'event: progress\ndata: {"checked": 0, "total": 3}\n\n'
    server.replies = [Reply({"hits": []}, hangs_up=True), Reply(early, kind="text/event-stream", hangs_up=True)]
    with RemoteEngine(server.url) as remote:
        remote.search("dog")
        with pytest.raises(RemoteError, match="the events must end with groups"):
            remote.duplicates()


def test_a_request_whose_answer_breaks_off_is_not_sent_again(server: Served) -> None:
    cut = Reply({"hits": []}, headers={"Content-Length": "99"}, hangs_up=True)
    server.replies = [Reply({"hits": []}), cut]
    with RemoteEngine(server.url) as remote:
        remote.search("dog")
        with pytest.raises(RemoteError, match=f"^{server.url}: must be a vidret server: IncompleteRead"):
            remote.search("dog")
    assert len(server.asked) == 2


def test_invalid_urls_and_tokens_are_rejected_without_showing_them() -> None:
    for url in (
        "localhost:8000",
        "ftp://here",
        "http://",
        "http://here:port",
        "http://h/?token=T",
        "http://a b",
        "http://me:pw@h",
    ):
        with pytest.raises(VidretError, match=r"url must be like http://127\.0\.0\.1:8000, got ") as raised:
            RemoteEngine(url)
        assert "pw" not in str(raised.value)
    with pytest.raises(VidretError, match=r"^token must be printable ASCII") as raised:
        RemoteEngine("http://here", "sécret\n")
    assert "cret" not in str(raised.value)


LOCAL_METHODS = {"calibrate", "calibrate_probabilities", "check_index"}  # that a server does not offer
LOCAL_METHODS |= {"choose_ranker", "classify", "count_videos", "describe_segments", "embeddings", "facets", "file"}
LOCAL_METHODS |= {"forget_calibration", "forget_probabilities", "import_embeddings", "index", "index_frames"}
LOCAL_METHODS |= {"interpret", "list_page", "locate_many", "missing", "open", "prepare_moments", "prepare_searches"}
LOCAL_METHODS |= {"list_search_notes", "rate", "reopen", "score_videos", "search_many", "teach_sound"}


REMOTE_METHODS = {"frame"}  # a local program reads frames from the file


def list_methods(cls: type) -> dict[str, list[tuple[str, Any, Any]]]:
    """Return the names, kinds and defaults of the parameters of public methods."""
    return {
        name: [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(method).parameters.values()
        ]
        for name, method in inspect.getmembers(cls, callable)
        if not name.startswith("_")
    }


def test_methods_have_the_signatures_of_the_local_engine() -> None:
    local, remote = list_methods(Engine), list_methods(RemoteEngine)
    assert local.keys() - remote.keys() == LOCAL_METHODS
    assert remote.keys() - local.keys() == REMOTE_METHODS
    for name in remote.keys() & local.keys():
        assert remote[name] == local[name], name


# A real server


@pytest.fixture
def near(index: Path) -> Iterator[Engine]:
    with Engine(index, ColourEncoder()) as engine:
        yield engine


@pytest.fixture
def far(index: Path) -> Iterator[RemoteEngine]:
    with serve_index(index) as url, RemoteEngine(url) as engine:
        yield engine


IMAGE = np.full((8, 12, 3), (30, 30, 200), np.uint8)
QUERIES: dict[str, Query] = {
    "words": "red & rain",
    "not": "blue -red",
    "picture": IMAGE,
    "events": Sequence(["red", ["black", "dark"]], gap=3),
    "event": Sequence(['"red"  rain'], verbatim=True),
    "composed": ComposedQuery(images=(IMAGE,), text="red, no blue"),
    "verbatim": ComposedQuery(images=(IMAGE, IMAGE[:4]), text="red, no blue", verbatim=True),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_local_and_remote_results_are_equal(near: Engine, far: RemoteEngine, query: Query, index: Path) -> None:
    films = index.parent / "films"
    all_filters = Filters(str(films), "film", 1.0, 8.0, after=86401.0, before=4e9)
    num_hits = []
    for filters in (Filters(), all_filters, Filters(before=86401.0), Filters(folder="/nowhere")):
        hits = near.search(query, 5, rerank=None, filters=filters)
        assert far.search(query, 5, rerank=None, filters=filters) == hits
        assert far.locate(query, 3, filters=filters) == near.locate(query, 3, filters=filters)
        num_hits.append(len(hits))
    assert num_hits == [2, 1, 1, 0]
    for video in (1, films / "copy.mp4"):
        moments, same = near.locate(query, video=video), far.locate(query, video=video)
        assert [(m.start, m.end, m.score) for m in moments] == [(m.start, m.end, m.score) for m in same]
        if isinstance(query, Sequence) and len(query.events) > 1:  # which have no single curve
            continue
        curve, read = near.curve(query, video), far.curve(query, video)
        for name in (field.name for field in fields(curve)):
            assert np.array_equal(getattr(curve, name), getattr(read, name)), name


def test_local_and_remote_contents_are_equal(near: Engine, far: RemoteEngine, index: Path) -> None:
    assert [[Path(path).name for path in video.paths] for video in far.videos()] == [
        ["blue.mp4"],
        ["red.mp4", "copy.mp4"],
    ]
    for video, read in zip(near.videos(), far.videos(), strict=True):
        assert read.facts == {name: video.facts[name] for name in ("width", "height", "average_rate")}
        assert read.changed == pytest.approx(video.changed, abs=1e-6)
        assert replace(read, facts=video.facts, changed=video.changed) == video
        assert far.video(video.id) == read
    assert [video.paths for video in far.videos(Filters(max_seconds=8.0))] == [far.videos()[1].paths]
    with pytest.raises(RemoteError, match="t must be at least 0, got"):
        far.frame(1, -1.0)
    assert far.info() == near.info()
    assert [Path(path).name for path, _ in far.failed()] == ["bad.mp4"]
    assert far.failed() == near.failed()
    path = index.parent / "films" / "blue.mp4"
    assert (near.transcript(path), far.transcript(path)) == ([], [])
    add_words(index, find_content(index, "blue.mp4"), ["one red apple", "two pears"])
    assert [text.text for text in near.transcript(path)] == ["one red apple", "two pears"]
    assert far.transcript(path) == far.transcript(path, ["speech", "screen"], unnamed=True) == near.transcript(path)
    assert far.transcript(path, ["screen"]) == near.transcript(path, ["screen"]) == []
    follow_shots(index, path, None, duration_s=3.0)
    assert (near.shots(path), far.shots(path)) == ([], []), "indexed without shots"
    follow_shots(index, path, [ShotChange(1.0, 1.5, "fade")], duration_s=3.0)
    assert near.shots(path) == far.shots(path) == [Shot(0.0, 1.0, None), Shot(1.5, 3.0, "fade")]
