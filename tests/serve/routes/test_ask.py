"""Questions over HTTP: events, refusals, and that the client and the command agree with the engine."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.chatting import Chat, Reply, run_chat, say, stream
from tests.index_server import connect, serve_engine
from tests.serve.conftest import Serve, check_refusal, find_id, read_events
from tests.waiting import wait_until
from vidret.client import RemoteEngine, RemoteError
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.language.endpoint import ChatEndpoint
from vidret.language.retrieval import ContextOptions
from vidret.serve.problems import INTERNAL_ERROR
from vidret.serve.routes.asking import MAX_ASKED

QUESTION = "when do we see red?"


@pytest.fixture
def chat() -> Iterator[Chat]:
    with run_chat(lambda _: stream("It is red [1]", "[44].")) as chat:
        yield chat


def make_llm(chat: Chat, **settings: Any) -> ChatEndpoint:
    return ChatEndpoint(url=chat.url, model="small", key="secret-key", backoff_s=0.01, **settings)


def ask(client: TestClient, **body: Any) -> list[tuple[str, Any]]:
    return read_events(client.post("/api/ask", json={"question": QUESTION, "llm_queries": False, **body}))


def test_events_lead_from_moments_to_a_checked_answer(serve: Serve, engine: Engine, chat: Chat) -> None:
    events = ask(serve(engine, llm=make_llm(chat)), moments=3)
    assert [name for name, _ in events] == ["moments", "text", "text", "answer"]
    moments = events[0][1]["moments"]
    assert [moment["number"] for moment in moments] == [1, 2, 3]
    assert "both" in {moment["title"] for moment in moments}
    assert moments[0]["thumbnail"].startswith("/api/thumbnails/")
    assert events[-1][1]["text"] == "It is red [1]."
    assert events[-1][1]["cited"] == [1]
    assert events[-1][1]["notes"] == ["removed citations of moments that were not retrieved: 44"]
    assert len([part for part in chat.requests[0]["messages"][1]["content"] if part["type"] == "image_url"]) == 6


def test_model_writes_queries_before_the_first_event(serve: Serve, engine: Engine) -> None:
    with run_chat(lambda request_index: say("Red [1]." if request_index else '["blue"]')) as chat:
        client = serve(engine, llm=make_llm(chat))
        events = ask(client, llm_queries=True, question="red")
        assert len(chat.requests) == 2
        assert {row["title"] for row in events[0][1]["moments"]} >= {"both"}  # it shows red and blue
        assert ask(client, llm_queries=True, question="red")[-1] == events[-1]
        assert len(chat.requests) == 3  # queries are kept, answers are not
        assert [name for name, _ in ask(client, question="blue", llm_queries=True)] == ["moments", "text", "answer"]
    assert events[-1][1]["notes"] == []


def test_a_second_round_sends_the_moments_of_both(serve: Serve, engine: Engine) -> None:
    replies = [say('["blue"]'), stream("NOT SHOWN"), say('["green"]'), stream("Green [2].")]
    with run_chat(lambda request_index: replies[request_index]) as chat:
        events = ask(serve(engine, llm=make_llm(chat)), llm_queries=True, moments=1, frames=1)
    assert [name for name, _ in events] == ["moments", "moments", "text", "answer"]
    first, both = ([moment["number"] for moment in event["moments"]] for _, event in events[:2])
    assert (first, both) == ([1], [1, 2])
    assert events[-1][1] == {"text": "Green [2].", "shown": True, "cited": [2], "notes": []}
    assert len([part for part in chat.requests[3]["messages"][1]["content"] if part["type"] == "image_url"]) == 1


def test_server_without_an_endpoint_asks_nobody(client: TestClient) -> None:
    check_refusal(
        client.post("/api/ask", json={"question": QUESTION}),
        403,
        "questions must be allowed by vidret serve --llm URL, got none",
    )
    assert client.get("/api/index").json()["asks"] is False


def test_invalid_questions_are_refused(serve: Serve, engine: Engine, chat: Chat) -> None:
    client = serve(engine, llm=make_llm(chat))
    for body, status, rule in (
        ({"question": "..."}, 422, "question must contain a word"),
        ({"question": "a b", "videos": [99]}, 404, "99"),
        ({"question": "a b", "moments": 21}, 422, "moments"),
        ({"question": "a b", "frames": True}, 422, "frames must be a number"),
        ({"question": "a b", "llm": "http://elsewhere"}, 422, "llm"),
        ({"question": "a" * 1001}, 422, "question"),
    ):
        check_refusal(client.post("/api/ask", json=body), status, rule)
    assert chat.requests == []


def test_failing_endpoint_is_a_problem_without_the_key(
    serve: Serve, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    replies = [
        Reply(b"", 302, {"Location": "http://127.0.0.1:1/"}),
        Reply(b"", 401),
        Reply(b"<html>"),
        say(""),
        say("It is \ud800 [1]."),
        stream("It is ", "\ud800 [1]."),
        Reply(b"[" * 100_000),
    ]
    with run_chat(lambda request_index: replies[request_index]) as chat:
        client = serve(engine, llm=make_llm(chat))
        for _ in replies:
            events = ask(client, frames=0)
            assert [name for name, _ in events if name != "text"] == ["moments", "problem"]
            assert events[-1][1]["status"] == 502
            assert "secret-key" not in json.dumps(events) + caplog.text
    assert len(chat.requests) == len(replies)


def test_a_stream_ends_with_a_problem_whatever_fails(
    serve: Serve, engine: Engine, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_arguments: object) -> None:
        raise MemoryError("secret of the machine")

    monkeypatch.setattr("vidret.serve.routes.asking.draw_video", fail)
    events = ask(serve(engine, llm=make_llm(chat)), frames=1)
    assert [name for name, _ in events] == ["moments", "problem"]
    assert (events[-1][1]["status"], events[-1][1]["detail"]) == (500, INTERNAL_ERROR)


def test_a_frame_that_a_shutdown_cancels_is_no_fault(
    serve: Serve, engine: Engine, chat: Chat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancel(*_arguments: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("vidret.serve.routes.asking.draw_video", cancel)
    assert [name for name, _ in ask(serve(engine, llm=make_llm(chat)), frames=1)] == ["moments"]
    assert caplog.text == ""


def test_only_a_few_questions_are_answered_at_a_time(serve: Serve, engine: Engine) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def answer(_number: int) -> Reply:
        begun.release()
        gate.wait(10)
        return say("Red [1].")

    with run_chat(answer) as chat:
        client = serve(engine, llm=make_llm(chat))
        with ThreadPoolExecutor(MAX_ASKED) as threads:
            asked = [threads.submit(ask, client, frames=0) for _ in range(MAX_ASKED)]
            assert all(begun.acquire(timeout=10) for _ in asked)
            refused = client.post("/api/ask", json={"question": QUESTION, "frames": 0})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            gate.set()
        assert ask(client, frames=0)[-1][0] == "answer"


@pytest.mark.parametrize("llm_queries", [True, False])
def test_questions_of_clients_that_have_left_are_dropped(engine: Engine, llm_queries: bool) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def answer(_number: int) -> Reply:
        begun.release()
        gate.wait(20)
        return say("Red [1].")

    content = json.dumps({"question": QUESTION, "frames": 0, "llm_queries": llm_queries})
    head = "POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length"
    with run_chat(answer) as chat, serve_engine(engine, llm=make_llm(chat)) as url, ExitStack() as clients:

        def send_question(timeout_s: float) -> bool:
            """Send a question, and return whether the endpoint was asked in time."""
            clients.enter_context(connect(url)).sendall(f"{head}: {len(content)}\r\n\r\n{content}".encode())
            return begun.acquire(timeout=timeout_s)

        assert all(send_question(10) for _ in range(MAX_ASKED))
        assert not send_question(0.2)
        clients.close()
        left = time.monotonic()
        wait_until(lambda: send_question(0.5))
        gate.set()
        assert time.monotonic() - left < 10


def test_client_gets_what_the_engine_answers(engine: Engine, chat: Chat) -> None:
    llm, options = make_llm(chat), ContextOptions(moments=2, frames=1, llm_queries=False)
    local = engine.ask(QUESTION, llm, options=options)
    with serve_engine(engine, llm=llm) as url, RemoteEngine(url) as remote:
        served = remote.ask(QUESTION, options=options)
        client_answer = remote.ask(QUESTION, llm, videos=[find_id(engine, "both.mp4")], options=options)
    for answer in (served, client_answer):
        assert (answer.text, answer.notes) == (local.text, local.notes)
    assert [(m.number, m.path) for m in served.cited] == [(m.number, m.path) for m in local.cited]
    assert {moment.video for moment in client_answer.context.moments} == {find_id(engine, "both.mp4")}


def test_client_reports_what_a_server_cannot_answer(engine: Engine) -> None:
    with pytest.raises(VidretError, match="llm must be a chat endpoint, got none"):
        engine.ask(QUESTION)
    with pytest.raises(VidretError, match=r"llm must be a ChatEndpoint, got 'http://127\.0\.0\.1:9'"):
        engine.ask(QUESTION, "http://127.0.0.1:9")  # type: ignore[arg-type]
    unknown = run_chat(lambda _: Reply(b"", 404))
    with unknown as chat, serve_engine(engine, llm=make_llm(chat)) as url, RemoteEngine(url) as remote:
        with pytest.raises(RemoteError, match="answered 404"):
            remote.ask(QUESTION)
        assert len(remote.videos()) == 3  # the connection can be used again
    with (
        serve_engine(engine) as url,
        RemoteEngine(url) as remote,
        pytest.raises(RemoteError, match="must be allowed by"),
    ):
        remote.ask(QUESTION)
