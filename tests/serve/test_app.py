"""Tests of the app: its page, its health, and the conformance of all routes to the OpenAPI document."""

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import metadata
from typing import Any
from unittest.mock import Mock

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema_rs import validator_for
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from tests.indexed_texts import add_words, find_content
from tests.serve.conftest import URL, Serve, check_refusal
from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.serve.app import PAGE, create_app
from vidret.serve.routes.indexing import Indexer
from vidret.store.catalog.database import Database
from vidret.types import SOURCES

PATIENCE_S = 120  # a machine that is busy decodes footage slowly; schemathesis cancels a request after 10 s by default
EXAMPLES = settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_page_and_its_files_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for name in ("main.js", "style.css", "icon.svg"):
        answer = client.get(f"/page/{name}")
        assert answer.content == (PAGE / name).read_bytes()
        cached = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (cached.status_code, cached.headers["cache-control"]) == (304, "no-cache")
    script = client.get("/page/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-encoding"] == "gzip"
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404], "they load external scripts"


def test_head_answers_as_get_without_the_body(client: TestClient) -> None:
    paths = ("/", "/healthz", "/readyz", "/page/main.js", "/metrics", "/openapi.json", "/api/videos", "/api/videos/1")
    for path in (*paths, "/api/videos/1/stream", "/api/videos/99", "/api/videos?source=speech", "/api/search"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        if path != "/metrics":  # which counts the requests
            assert head.headers == got.headers, path


def test_a_parameter_that_a_route_does_not_have_is_refused(client: TestClient) -> None:
    for path in ("videos", "videos/1", "videos/1/transcript", "videos/1/stream", "thumbnails/1", "index", "facets"):
        check_refusal(client.get(f"/api/{path}?source=speech"), 422, "source must not be given, got 'speech'")
    check_refusal(client.post("/api/search?k=3", json={"query": "red"}), 422, "k must not be given, got '3'")
    assert client.get("/healthz?source=probe").status_code == client.get("/?utm=x").status_code == 200


def test_a_server_whose_index_cannot_be_read_is_alive_but_not_ready(
    serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(engine)
    for path in ("/healthz", "/readyz"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": metadata.version("vidret")})
    monkeypatch.setattr(Database, "read", Mock(side_effect=StoreError("catalog.sqlite: disk I/O error")))
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code >= 500


def test_readiness_reads_one_row(serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    client, read, num_rows = serve(engine), Database.read, list[int]()

    def count(database: Database, take: Callable[[Any], Any], sql: str, *values: object) -> Any:
        rows = read(database, take, sql, *values)
        num_rows.append(len(rows))
        return rows

    monkeypatch.setattr(Database, "read", count)
    assert client.get("/readyz").status_code == 200
    assert sum(num_rows) == 1


def test_an_index_that_is_gone_has_no_answers_and_one_in_its_place_has_its_own(
    client: TestClient, own_engine: Engine, engine: Engine
) -> None:
    add_words(engine.path, find_content(engine.path, "red.mp4"), ["one red apple"])
    asked = ("/readyz", "/api/videos", "/api/index", "/api/people", "/api/collections", "/api/thumbnails/1")
    assert client.get("/api/index").json()["words"]
    engine.path.rename(engine.path.with_name("away"))
    for path in asked:
        check_refusal(client.get(path), 503, "there is no index here")
    own_engine.path.rename(engine.path)
    assert {path: client.get(path).status_code for path in asked} == dict.fromkeys(asked, 200)
    answer = client.post("/api/search", json={"query": "red"}).json()
    assert all("/own/films/" in hit["path"] for hit in answer["hits"])
    assert client.get("/api/index").json()["words"] == []


def test_a_server_whose_disk_fails_says_so_and_is_alive(client: TestClient, engine: Engine) -> None:
    engine.path.rename(engine.path.with_name("away"))
    engine.path.symlink_to(engine.path)  # which no program can read
    assert client.get("/healthz").status_code == 200
    for path in ("/readyz", "/api/videos"):
        check_refusal(client.get(path), 503, "cannot be read")
    engine.path.unlink()
    engine.path.touch()
    check_refusal(client.get("/api/videos"), 503, "there is no index here")


def test_full_queue_is_reported_over_http(serve: Serve, engine: Engine) -> None:
    answer = serve(engine, queue=0).post("/api/search", json={"query": "red"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_request_has_an_example_and_examples_match_their_schemas(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert len(schemas) > 15
    for name, schema in schemas.items():
        full_schema = {**schema, "components": document["components"]}
        for example in schema.get("examples", []):
            assert validator_for(full_schema).is_valid(example), name
        for field, field_schema in schema.get("properties", {}).items():
            for example in field_schema.get("examples", []):
                assert validator_for({**field_schema, "components": document["components"]}).is_valid(example), (
                    name,
                    field,
                )

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                named = document["components"]["schemas"][media["schema"]["$ref"].rsplit("/", 1)[1]]
                fields = named["properties"].values()
                assert "examples" in named or all("examples" in field for field in fields), f"{method} {path}"


def test_the_page_names_every_source() -> None:
    table = (PAGE / "words.js").read_text("utf-8").partition("SOURCES = {")[2].partition("};")[0]
    assert re.findall(r"^  (\w+): \[", table, re.MULTILINE) == list(SOURCES)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_routes_conform_to_the_document(engine: Engine, mode: GenerationMode) -> None:
    app = create_app(engine, Indexer([]))
    described = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    video_id, seen = engine.videos()[0].id, set()
    for found in described.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        seen.add(operation.label)

        @settings(EXAMPLES)
        @given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case: schemathesis.Case[Any]) -> None:
            if mode.is_positive and case.path_parameters:
                case.path_parameters["id"] = video_id
            # A schema cannot express a complete image, or that one of two fields is required.
            case.call_and_validate(base_url=URL, timeout=PATIENCE_S, excluded_checks=[positive_data_acceptance])

        # A route without parameters has no invalid requests.
        with suppress(Unsatisfiable) if mode.is_negative else nullcontext():
            conforms()
    assert {"POST /api/search", "GET /api/videos/{id}/stream", "DELETE /api/index", "GET /metrics"} <= seen
