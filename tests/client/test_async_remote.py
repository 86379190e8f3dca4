"""The client for asyncio: its agreement with ``RemoteEngine``, requests at once, and cancellation."""

import asyncio
import inspect
import threading
from pathlib import Path
from typing import assert_type

import pytest

import vidret
from tests.index_server import serve_index
from tests.scripted_server import HIT, Reply, serve
from vidret.client import RemoteEngine, RemoteError
from vidret.client.async_remote import AsyncRemoteEngine
from vidret.errors import VidretError
from vidret.types import Hit


def list_public(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")}


def test_methods_are_those_of_the_client_as_coroutines() -> None:
    assert vidret.AsyncRemoteEngine is AsyncRemoteEngine
    names = list_public(RemoteEngine)
    assert list_public(AsyncRemoteEngine) == names
    for name in names:
        method, twin = getattr(AsyncRemoteEngine, name), getattr(RemoteEngine, name)
        assert inspect.iscoroutinefunction(method), name
        if name != "close":
            assert inspect.signature(method) == inspect.signature(twin), name
            assert inspect.getdoc(method) == inspect.getdoc(twin), name


def test_searches_at_once_find_what_one_after_another_does(index: Path) -> None:
    async def search(url: str, queries: list[str]) -> list[list[Hit]]:
        async with AsyncRemoteEngine(url, connections=3) as engine:
            found = await asyncio.gather(*(engine.search(query, k=2) for query in queries))
            info, frame = await asyncio.gather(engine.info(), engine.frame("red.mp4", 1.0))
            assert_type(found, list[list[Hit]])
            assert (info.videos, frame[:2]) == (2, b"\xff\xd8")
            with pytest.raises(RemoteError, match="video must be one of this index, got 99"):
                await engine.video(99)
            return found

    queries = ["red", "blue", "black", "red -black"] * 2
    with serve_index(index) as url, RemoteEngine(url) as remote:
        assert asyncio.run(search(url, queries)) == [remote.search(query, k=2) for query in queries]


class Gate:
    """A call that waits until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Event()

    def wait(self, _engine: RemoteEngine) -> None:
        self.entered.release()
        assert self.opened.wait(10)


def test_requests_at_once_are_bounded_and_a_cancelled_one_is_not_sent() -> None:
    async def run(url: str) -> None:
        gate = Gate()
        async with AsyncRemoteEngine(url, connections=2) as engine:
            held = [asyncio.create_task(engine._run(gate.wait)) for _ in range(2)]
            for _ in held:
                await asyncio.to_thread(gate.entered.acquire)
            waiting = asyncio.create_task(engine.search("cancelled"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.02)
            held[0].cancel()  # raises at once, while its thread goes on
            with pytest.raises(asyncio.CancelledError):
                await held[0]
            gate.opened.set()
            assert len(await engine.search("sent")) == 1
            await held[1]
        with pytest.raises(RuntimeError, match="after shutdown"):
            await engine.search("late")

    with serve() as server:
        server.replies = [Reply({"hits": [HIT]})]
        asyncio.run(run(server.url))
        assert [request.body["query"] for request in server.asked] == ["sent"]


def test_notes_are_those_of_the_search_that_was_awaited() -> None:
    async def run(url: str) -> list[tuple[str, ...]]:
        async with AsyncRemoteEngine(url, connections=2) as engine:

            async def search(query: str) -> tuple[str, ...]:
                await engine.search(query)
                return engine.notes

            read = [await search(query) for query in ("one", "two", "three")]
            await engine.failed()
            return [*read, engine.notes]

    with serve() as server:
        replies = [{"hits": [HIT], "notes": ["a: one"]}, {"hits": []}, {"hits": [], "notes": ["a: three", "b"]}]
        server.replies = [*map(Reply, replies), Reply({"failures": []})]
        assert asyncio.run(run(server.url)) == [("a: one",), (), ("a: three", "b"), ()]


def test_wrong_arguments_are_refused_before_a_request() -> None:
    with pytest.raises(VidretError, match="connections must be at least 1, got 0"):
        AsyncRemoteEngine("http://127.0.0.1:1", connections=0)
    with pytest.raises(VidretError, match="url must be like"):
        AsyncRemoteEngine("here")
