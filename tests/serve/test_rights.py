"""Tests of rights: each route and tool names one, tokens of an index have theirs, and changes are recorded."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.serve.conftest import URL, check_refusal, find_id
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.access import AccessMiddleware, check_access
from vidret.serve.app import create_app
from vidret.serve.problems import list_routes
from vidret.serve.rights import ALIKE, Right, check_rights
from vidret.serve.routes.indexing import Indexer
from vidret.store.tokens import RECORD, TOKENS, TokenRight, make_token, read_record, record_change

# Routes that take a body, or a method, of changes, and only read.
READING = {"/api/search", "/api/locate", "/api/footage", "/api/duplicates", "/api/ask", "/knn-service"}
READING |= {"/api/videos/{id}/curve"}


def test_every_route_names_a_right_and_those_that_change_something_name_change(engine: Engine) -> None:
    guarded: Any = create_app(engine, Indexer([]))
    for route in list_routes(guarded._app._app._app.routes):  # inside its middleware
        if not isinstance(route, APIRoute):
            assert getattr(route, "path", "") in ALIKE, route
            continue
        rights = {
            dependency.call.right for dependency in route.dependant.dependencies if isinstance(dependency.call, Right)
        }
        assert rights, f"{route.path} names no right"
        changes = (route.methods or set()) & {"POST", "PUT", "DELETE", "PATCH"} and route.path not in READING
        # Biometric data, and the folders of the server: no reader gets them.
        is_private = route.path.startswith(("/api/people", "/api/index/folders"))
        assert ("change" in rights) == bool(changes or is_private), route.path
        assert (rights == {None}) == (route.path in ("/healthz", "/readyz")), route.path


def test_an_app_with_a_route_that_names_none_does_not_start() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    check_rights(app)
    app.get("/api/late")(lambda: None)
    with pytest.raises(TypeError, match="/api/late must name a right, got none"):
        check_rights(app)


class Caller:
    def __init__(self, client: TestClient, token: str) -> None:
        self.client, self.token = client, token

    def __call__(self, method: str, path: str, body: Any = None) -> int:
        return int(self.ask(method, path, body).status_code)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.client.request(method, path, json=body, headers=headers, follow_redirects=False)


Issue = Callable[..., Caller]


@pytest.fixture
def issue(engine: Engine, client: TestClient) -> Issue:
    """Return a function that makes a token of the index, and returns who has it."""

    def make(name: str, right: TokenRight, collection: str = "") -> Caller:
        return Caller(client, make_token(engine.path, name, right, collection=collection))

    return make


def test_a_token_is_needed_from_the_first_one_on(issue: Issue, client: TestClient, engine: Engine) -> None:
    assert client.get("/api/videos").status_code == 200, "nobody on this machine needs a token yet"
    ann = issue("ann", "read")
    assert client.get("/api/videos").status_code == 401
    assert Caller(client, "A" * 43)("GET", "/api/videos") == 401
    assert ann("GET", "/api/videos") == 200
    TOKENS.remove(engine.path, "ann", "a token")
    assert ann("GET", "/api/videos") == 401
    assert client.get("/api/videos").status_code == 401, "the last token does not open the door when it goes"
    assert client.get("/healthz").status_code == 200


def test_who_may_read_cannot_change(issue: Issue, engine: Engine) -> None:
    ann, ben = issue("ann", "read"), issue("ben", "change")
    spans = {"moments": [{"video": find_id(engine, "red.mp4"), "start": 0, "end": 2}]}
    assert ann("POST", "/api/search", {"query": "red"}) == 200
    answer = ann.ask("POST", "/api/collections/best/moments", spans)
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "the token of ann must have the right change, got read",
    )
    for method, path in (("POST", "/api/index"), ("DELETE", "/api/index"), ("DELETE", "/api/concepts/x")):
        assert ann(method, path, {"paths": ["/a"]} if method == "POST" else None) == 403, path
    assert ben("POST", "/api/collections/best/moments", spans) == 200
    assert ann("GET", "/api/collections/best") == 200


def test_a_token_for_one_collection_reaches_nothing_else(issue: Issue, engine: Engine) -> None:
    owner = issue("owner", "change")
    red, blue = find_id(engine, "red.mp4"), find_id(engine, "blue.mp4")
    for name, video in (("best", red), ("rest", blue)):
        owner("POST", f"/api/collections/{name}/moments", {"moments": [{"video": video, "start": 0.5, "end": 2}]})
    guest = issue("guest", "read", "best")
    page = guest.ask("GET", "/")
    assert (page.status_code, page.headers["location"]) == (307, "api/collections/best/export?format=html")
    text = guest.ask("GET", f"/{page.headers['location']}").text
    clip = f"/api/videos/{red}/clip?start=0.500&end=2.000"
    assert f'href="../..{clip.removeprefix("/api").replace("&", "&amp;")}"' in text
    assert "<a href" not in owner.ask("GET", f"/{page.headers['location']}").text
    assert guest("GET", clip) == 200
    assert guest("GET", f"/api/thumbnails/{red}?t=1") == 200
    refused = [f"/api/thumbnails/{red}?t=2.5", f"/api/thumbnails/{blue}?t=1", f"/api/videos/{red}/clip?start=0&end=2"]
    refused += [f"/api/videos/{red}/clip?start=1&end=2.5", f"/api/videos/{red}/clip?start=x&end=2"]
    refused += [f"/api/videos/{red}/stream", "/api/videos", "/api/index", "/api/collections", "/metrics"]
    refused += ["/api/collections/rest", "/api/collections/rest/export?format=csv", f"/api/videos/{red}"]
    for path in refused:
        assert guest("GET", path) == 403, path
    assert guest("POST", "/api/search", {"query": "red"}) == 403
    note = {"moments": [{"video": red, "start": 1, "end": 2, "note": "x"}], "revision": 1}
    assert guest("PUT", "/api/collections/best", note) == 403
    editor = issue("editor", "change", "best")
    assert editor("PUT", "/api/collections/rest", note) == 403
    assert editor("PUT", "/api/collections/best", note) == 200
    for video, start, end in ((red, 0.5, 2), (red, 1, 2.001), (blue, 1, 2)):
        moment = {"video": video, "start": start, "end": end}
        assert editor("POST", "/api/collections/best/moments", {"moments": [moment]}) == 403
        assert editor("PUT", "/api/collections/best", {"moments": [moment], "revision": 2}) == 403
    content = engine.collection("best").moments[0].content
    for end, status in ((3, 403), (2, 200)):
        named = {"moments": [{"content": content, "start": 1, "end": end}], "revision": 2}
        assert editor("PUT", "/api/collections/best", named) == status
    found = {"finds": "videos", "query": "blue", "revision": 3}
    check_refusal(editor.ask("PUT", "/api/collections/best", found), 403, "the token of editor may not add to best")
    assert editor("DELETE", "/api/collections/best") == 403
    assert owner("DELETE", "/api/collections/best") == 200
    assert guest("GET", clip) == 403, "what is removed is no longer shared"
    assert editor("POST", "/api/collections/best/moments", {"moments": note["moments"]}) == 403


def test_changes_are_recorded_with_who_and_what_and_refused_ones_are_not(issue: Issue, engine: Engine) -> None:
    ben, ann = issue("ben", "change"), issue("ann", "read")
    spans = {"moments": [{"video": find_id(engine, "red.mp4"), "start": 0, "end": 2}]}
    ben("POST", "/api/collections/my%20list/moments", spans)
    ann("DELETE", "/api/collections/my%20list")
    ben("DELETE", "/api/collections/none")
    ben("POST", "/api/search", {"query": "red"})
    ben("DELETE", "/api/collections/my%20list")
    rows = read_record(engine.path, 10)
    assert [(row["who"], row["what"], row.get("with")) for row in rows] == [
        ("ben", "POST /api/collections/my list/moments", {"moments": json.dumps(spans["moments"])}),
        ("ben", "DELETE /api/collections/my list", None),
    ]
    assert read_record(engine.path, 1) == rows[1:]
    assert ben.token not in (engine.path / RECORD).read_text()


def test_a_change_is_recorded_though_nobody_needs_a_token(client: TestClient, engine: Engine) -> None:
    client.put("/api/collections/reds", json={"finds": "videos", "query": "red"})
    (row,) = read_record(engine.path, 10)
    assert (row["who"], row["with"]["query"]) == ("without a token", "red")


def test_a_torn_line_of_the_record_hides_no_other(tmp_path: Path) -> None:
    record_change(tmp_path, "ann", "first")
    with (tmp_path / RECORD).open("ab") as file:
        file.write(b'{"when": "20')  # all that a full disk took
    for what in ("second", "third"):
        record_change(tmp_path, "ann", what)
    assert [row["what"] for row in read_record(tmp_path, 9)] == ["first", "a damaged line", "second", "third"]
    assert [row["what"] for row in read_record(tmp_path, 1)] == ["third"]


def test_only_hashes_are_kept(issue: Issue, engine: Engine) -> None:
    ann = issue("ann", "read")
    text = TOKENS.path(engine.path).read_text()
    assert ann.token not in text
    assert len(json.loads(text)["tokens"][0]["digest"]) == 64
    with pytest.raises(VidretError, match="name must be new, got ann"):
        make_token(engine.path, "ann", "change")
    with pytest.raises(VidretError, match="name must be up to 64 letters"):
        make_token(engine.path, "a b", "change")


def test_tokens_hold_while_an_index_is_replaced_and_not_for_one_without(issue: Issue, engine: Engine) -> None:
    ann, away = issue("ann", "read"), engine.path.with_name("away")
    assert ann("GET", "/api/videos") == 200
    engine.path.rename(away)
    assert ann("GET", "/api/videos") == 503
    away.rename(engine.path)
    assert ann("GET", "/api/videos") == 200
    TOKENS.path(engine.path).unlink()
    assert ann("GET", "/api/videos") == 401


def test_damaged_tokens_open_no_door(issue: Issue, client: TestClient, engine: Engine) -> None:
    ann = issue("ann", "read")
    TOKENS.path(engine.path).write_text("{}")
    assert (ann("GET", "/api/videos"), client.get("/api/videos").status_code) == (503, 503)


def test_tokens_of_an_index_let_others_connect(engine: Engine) -> None:
    with pytest.raises(VidretError, match=r"token must be given to listen on 0\.0\.0\.0"):
        check_access("0.0.0.0", None, engine.path)
    make_token(engine.path, "ann", "read")
    check_access("0.0.0.0", None, engine.path)


def test_an_app_without_such_routes_refuses_tokens_for_one_collection(engine: Engine) -> None:
    guarded = AccessMiddleware(Starlette(), host="localhost", token=None, index=engine.path, whole=True)
    client = TestClient(guarded, base_url=URL)
    full_token = make_token(engine.path, "ann", "read")
    scoped_token = make_token(engine.path, "ben", "read", collection="best")
    assert client.get("/mcp", headers={"Authorization": f"Bearer {full_token}"}).status_code == 404
    assert client.get("/mcp", headers={"Authorization": f"Bearer {scoped_token}"}).status_code == 403


def test_a_server_is_alive_while_the_disk_of_its_tokens_hangs(
    engine: Engine, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, reading = threading.Event(), threading.Event()

    def hang(_: object) -> Path:
        reading.set()
        go_on.wait(60)
        return TOKENS.path(engine.path)

    monkeypatch.setattr("vidret.serve.rights.TOKENS", SimpleNamespace(path=hang, read=TOKENS.read))
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(client.get, path) for path in ("/api/videos", "/page/main.js")]
        reading.wait(60)
        alive = pool.submit(client.get, "/healthz")
        try:
            assert alive.result(5).status_code == 200
        finally:
            go_on.set()
        assert [answer.result().status_code for answer in waiting] == [200, 200]
