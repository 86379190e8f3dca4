"""Tests of error responses: one problem document with one sentence, without internal details."""

import errno
from unittest.mock import Mock

import pytest
from starlette.testclient import TestClient

from tests.serve.conftest import Serve, check_refusal
from vidret.engine import Engine
from vidret.errors import (
    ConflictError,
    DecodeError,
    EncoderError,
    MissingExtraError,
    NotFoundError,
    OptionError,
    StoreError,
    VidretError,
)
from vidret.serve.problems import INTERNAL_ERROR, MAX_VALUE_LENGTH, describe_invalid

BUSY = "the server is busy: too many files are open"


def test_errors_of_the_engine_become_problems(serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(engine)
    unreadable = StoreError("/a: cannot be read")
    unreadable.__cause__ = OSError(errno.EMFILE, "Too many open files")
    for error, status, sentence in (
        (OptionError("k must be at least 1, got 0"), 422, "k must be at least 1, got 0"),
        (VidretError("head must be trained, got none"), 422, "head must be trained, got none"),
        (EncoderError("no such words"), 422, "no such words"),
        (DecodeError("/a/film.mp4", "is empty"), 422, "/a/film.mp4: is empty"),
        (NotFoundError("no video has the id 7"), 404, "no video has the id 7"),
        (ConflictError("the name is taken"), 409, "the name is taken"),
        (StoreError("/a: database is locked"), 503, "/a: database is locked"),
        (MissingExtraError("searching", "cpu"), 503, 'searching needs the extra "cpu": pip install "vidret[cpu]"'),
        (
            StoreError("/a/\udcff\n.mp4: is damaged"),
            503,
            "/a/\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.mp4: is damaged",
        ),
        (unreadable, 503, BUSY),
        (OSError(errno.ENFILE, "Too many open files in system"), 503, BUSY),
        (OSError(errno.EIO, "Input/output error"), 500, INTERNAL_ERROR),
        (RuntimeError("the password is hunter2"), 500, INTERNAL_ERROR),
    ):
        monkeypatch.setattr(engine, "search_many", Mock(side_effect=error))
        answer = client.post("/api/search", json={"query": "red"})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["detail"] == sentence
        assert answer.json()["kind"] == ("usage" if isinstance(error, OptionError) else "failure")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get("retry-after") == ("1" if sentence == BUSY else None)


def test_unknown_routes_and_methods_are_problems(client: TestClient) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/api/search", 405), ("POST", "/", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == f"{method} {path} must be one of /openapi.json"
    for path, methods in (("/api/collections/x", "DELETE, GET, HEAD, PUT"), ("/api/search", "POST")):
        assert client.patch(path).headers["allow"] == methods


def test_body_that_is_no_json_is_a_problem(client: TestClient) -> None:
    for body, status, sentence in (
        (b"{query: red}", 422, "the body must be JSON, got Expecting property name"),
        (b"null", 422, "got None"),  # FastAPI takes it for no body in older versions
        (b"", 422, "the body must be given"),
        (b"\xff", 400, "error parsing the body"),
    ):
        answer = client.post("/api/search", content=body, headers={"Content-Type": "application/json"})
        check_refusal(answer, status, sentence)
    answer = client.post("/api/search", content=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"})
    check_refusal(answer, 422, "Content-Type must be application/json, got another")


def test_a_wrong_item_is_not_told_as_a_missing_one_too(client: TestClient) -> None:
    assert "item" not in client.post("/api/search", json={"query": "red", "sources": ["odd"]}).json()["detail"]


def test_a_body_that_is_nested_deeply_is_a_problem_whatever_it_is_called(client: TestClient) -> None:
    for kind, status in (("application/json", 400), ("text/plain", 422)):
        answer = client.post("/api/concepts", content="[" * 100_000, headers={"Content-Type": kind})
        assert answer.status_code == status


def test_long_values_are_shortened_and_many_errors_counted() -> None:
    sentence = describe_invalid([{"loc": ("body", "image"), "msg": "is wrong", "input": "x" * 10_000}])
    assert sentence.startswith("image: is wrong, got 'xxx")
    assert len(sentence) < MAX_VALUE_LENGTH + 40
    many = [{"loc": ("body", f"a{index}"), "msg": "is wrong", "input": 1} for index in range(1000)]
    assert describe_invalid(many).startswith("a0: is wrong, got 1; a1: is wrong")
    assert describe_invalid(many).endswith("a4: is wrong, got 1; and 995 more")
