"""Tests of access control and of limits of request bodies."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.serve.conftest import Serve, check_refusal
from vidret.endpoints.transport import is_loopback
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve import access as bodies
from vidret.serve.access import MAX_BYTES, check_access
from vidret.serve.app import create_app
from vidret.serve.routes.indexing import Indexer

TOKEN = "a+token/of=16~chars"
OTHER = "another-token"
PATHS = ("/", "/page/main.js", "/api/videos", "/api/videos/1/stream", "/metrics", "/openapi.json", "/nothing")


@pytest.fixture
def guarded(serve: Serve, engine: Engine) -> TestClient:
    return serve(engine, token=TOKEN)


def test_a_request_needs_the_token_but_those_of_orchestrators(guarded: TestClient) -> None:
    refused: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "vidret=no"},
        {"Cookie": "vidret-99999=no", "Host": "[::1]:99999"},
    )
    for path, headers in product(PATHS, refused):
        answer = guarded.get(path, headers=headers)
        check_refusal(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    for scheme in ("Bearer", "bearer"):
        assert guarded.get("/api/videos", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
    for path in ("/healthz", "/readyz"):
        assert guarded.get(path).status_code == 200, path
        assert guarded.get(f"{path}/").status_code != 200


def test_a_browser_without_the_token_is_told_how_to_give_it(guarded: TestClient) -> None:
    for url in ("/", "/?token=wrong", "/api/videos/1/stream"):
        answer = guarded.get(url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert "/?token=TOKEN" in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"


def test_token_in_the_url_becomes_a_cookie(guarded: TestClient, serve: Serve, engine: Engine) -> None:
    answer = guarded.get("/", params={"token": TOKEN, "q": "a dog"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "./?q=a+dog")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert guarded.get("/").status_code == 200, "the client sends the cookie"
    assert guarded.get("/api/videos").status_code == 200
    other = serve(engine, token=OTHER)  # on another port of this host, which has the same cookies
    other.base_url, other.cookies = guarded.base_url.copy_with(port=8001), guarded.cookies
    assert other.get("/").status_code == 401
    assert other.get("/", params={"token": OTHER}).status_code == 200
    assert guarded.get("/").status_code == 200, "each server keeps its own token"


def test_token_in_other_urls_is_refused(guarded: TestClient) -> None:
    for path in ("/?token=wrong", f"/api/videos?token={TOKEN}", f"/nothing?token={TOKEN}"):
        answer = guarded.get(path, follow_redirects=False)
        assert answer.status_code == 401, path
        assert "set-cookie" not in answer.headers


def test_host_names_are_local_or_well_formed_elsewhere(client: TestClient, serve: Serve, engine: Engine) -> None:
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LocalHost"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1@evil", ""):
        check_refusal(client.get("/healthz", headers={"Host": host}), 421)
    everywhere, bearer = serve(engine, host="0.0.0.0", token=TOKEN), {"Authorization": f"Bearer {TOKEN}"}
    assert everywhere.get("/api/videos", headers=bearer | {"Host": "videos.example"}).status_code == 200
    for host in ("[", "a]b", "videos.example/?", "videos.example#", "user@videos.example", "a b", ""):
        for path in ("/", "/api/videos"):
            check_refusal(everywhere.get(path, headers=bearer | {"Host": host}), 421)


def test_requests_of_other_origins_are_refused(client: TestClient) -> None:
    for origin in ("http://evil.example", "http://localhost:9000", "https://localhost", "null", "http://[", ""):
        headers = {"Origin": origin}
        for answer in (
            client.post("/api/search", json={"query": "red"}, headers=headers),
            client.post("/knn-service", json={"text": "red"}, headers=headers),
            client.post("/api/index", json={"paths": ["/"]}, headers=headers),
            client.delete("/api/index", headers=headers),
        ):
            check_refusal(answer, 403, f"origin must be this server, got {origin}")
    same_origin = client.post("/api/search", json={"query": "red"}, headers={"Origin": "http://localhost"})
    assert same_origin.status_code == 200


@pytest.mark.parametrize("origin", ["https://localhost", "https://videos.example"])
def test_sec_fetch_site_decides_behind_a_tls_proxy(client: TestClient, origin: str) -> None:
    def ask(site: str) -> int:
        headers = {"Origin": origin, "Sec-Fetch-Site": site}
        return client.post("/api/search", json={"query": "red"}, headers=headers).status_code

    assert [ask(site) for site in ("same-origin", "same-site", "cross-site", "none")] == [200, 403, 403, 403]


def test_other_sites_may_link_but_not_embed(client: TestClient) -> None:
    def ask(path: str, site: str, mode: str) -> Any:
        return client.get(path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})

    for path in ("/", "/api/videos/1/stream", "/api/thumbnails/1", "/api/videos/1/curve?q=red"):
        for site in ("cross-site", "same-site"):
            for mode in ("no-cors", "cors"):
                check_refusal(ask(path, site, mode), 403)
            assert ask(path, site, "navigate").status_code == 200
        assert ask(path, "same-origin", "cors").status_code == 200


def test_web_sockets_are_refused(client: TestClient) -> None:
    for path in ("/", "/page/main.js", "/api/videos"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass


def test_bodies_above_the_limits_are_refused(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BYTES // 1024 + 1):
            yield b"x" * 1024

    fields = b",".join(b'"a%d":1' % index for index in range(1_000_000))
    for content, rule in (
        (b'"' + b"x" * MAX_BYTES + b'"', "the body must have at most 16 MiB, got more"),
        (endless(), "the body must have at most 16 MiB, got more"),
        (b"{%b}" % fields, "the body must have at most 20000 commas, got more"),
    ):
        answer = client.post("/api/search", content=content, headers={"Content-Type": "application/json"})
        check_refusal(answer, 413, rule)
        assert ("content-length" in answer.request.headers) == isinstance(content, bytes), "or in chunks"


def test_total_size_of_bodies_is_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_HELD_BYTES", 1000)

    def ask(size: int) -> Any:
        return client.post("/api/search", json={"query": "red", "folder": "/" * size})

    refused = ask(2000)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [ask(700).status_code for _ in range(3)] == [200, 200, 200], "bodies are released after the response"


def test_responses_have_security_headers(client: TestClient) -> None:
    for path in ("/", "/page/style.css", "/api/videos", "/api/videos/99", "/api/videos/1/stream"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' data: blob:; media-src 'self'"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_network_address_needs_a_token(engine: Engine) -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::", "videos.example"):
        with pytest.raises(
            VidretError, match=rf"token must be given to listen on {host}, which other machines can reach"
        ):
            create_app(engine, Indexer([]), host=host)
        check_access(host, TOKEN)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        check_access(host, None)


@pytest.mark.parametrize("token", ["", "short", "with a space", "with;semicolon", "with\nline", "ümlauts!"])
def test_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(VidretError, match="token must be 8 or more letters") as error:
        check_access("localhost", token)
    assert not token or token not in str(error.value)
