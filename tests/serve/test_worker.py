"""Tests of the worker: batches of searches, errors of single ones, and calls that do not delay searches."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve import worker as workers
from vidret.serve.problems import RefusedError
from vidret.serve.worker import MAX_BATCH, Worker
from vidret.types import Hit, Query, SearchOptions

pytestmark = pytest.mark.anyio


class GatedEngine:
    """An engine that responds when its gate is open; the hits of a query are the query itself, k times."""

    encoder = None

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()

    def search_many(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        self.batches.append([str(query) for query in queries])
        self.threads.add(threading.get_ident())
        self.entered.release()
        self.gate.acquire()
        if "wrong" in queries:
            raise VidretError("query must be right, got wrong")
        return [cast(list[Hit], [query] * option.k) for query, option in zip(queries, options, strict=True)]


@contextmanager
def working(engine: GatedEngine, **given: Any) -> Iterator[Worker]:
    worker = Worker(cast(Engine, engine), **given)
    worker.start()
    try:
        yield worker
    finally:
        engine.gate.release(1000)
        worker.close()


async def occupy(worker: Worker, engine: GatedEngine) -> "asyncio.Task[list[Hit]]":
    """Block the search thread, so that later searches wait."""
    task = asyncio.create_task(worker.search("first", SearchOptions()))
    await asyncio.to_thread(engine.entered.acquire)
    return task


async def hold(worker: Worker, wait: Callable[[], object]) -> "asyncio.Task[None]":
    """Block the thread of calls, so that later calls wait."""
    entered = threading.Event()

    def function(_engine: Engine) -> None:
        entered.set()
        wait()

    task = asyncio.create_task(worker.call(function))
    await asyncio.to_thread(entered.wait)
    return task


async def put(*requests: Coroutine[Any, Any, Any]) -> "list[asyncio.Task[Any]]":
    """Put requests into the queue."""
    tasks = [asyncio.create_task(function) for function in requests]
    await asyncio.sleep(0)  # one iteration of the loop puts each into the queue
    return tasks


async def test_waiting_searches_are_batched() -> None:
    engine, sizes = GatedEngine(), list[int]()
    with working(engine, size=200, on_batch=sizes.append) as worker:
        first = await occupy(worker, engine)
        waiting = await put(*(worker.search(str(k), SearchOptions(k=k)) for k in range(MAX_BATCH + 3)))
        assert len(worker) == MAX_BATCH + 3
        engine.gate.release(3)
        assert len(await first) == 10
        assert (await asyncio.gather(*waiting)) == [[str(k)] * k for k in range(MAX_BATCH + 3)]
    assert sizes == [1, MAX_BATCH, 3]
    assert [len(batch) for batch in engine.batches] == sizes
    assert len(engine.threads) == 1


async def test_failed_search_does_not_affect_others() -> None:
    engine = GatedEngine()
    with working(engine) as worker:
        await occupy(worker, engine)
        waiting = await put(*(worker.search(query, SearchOptions(k=1)) for query in ("red", "wrong", "blue")))
        engine.gate.release(5)
        red, wrong, blue = await asyncio.gather(*waiting, return_exceptions=True)
    assert [red, blue] == [["red"], ["blue"]]
    assert isinstance(wrong, VidretError)
    assert str(wrong) == "query must be right, got wrong"
    assert engine.batches == [["first"], ["red", "wrong", "blue"], ["red"], ["wrong"], ["blue"]]


async def test_neither_slow_calls_nor_slow_searches_delay_the_others() -> None:
    engine, gate = GatedEngine(), threading.Event()
    engine.gate.release(2)
    with working(engine, timeout=5.0) as worker:
        slow = await hold(worker, lambda: gate.wait(10))
        assert len(await worker.search("red", SearchOptions(k=1))) == 1
        assert len(await worker.search("blue", SearchOptions(k=2))) == 2
        assert not slow.done()
        gate.set()
        await slow
        for _ in range(2):
            engine.entered.acquire()
        search = await occupy(worker, engine)
        assert await worker.call(lambda _: "a moment") == "a moment"
        assert not search.done()


async def test_waiting_calls_do_not_fill_the_queue_of_searches() -> None:
    engine, gate = GatedEngine(), threading.Event()
    engine.gate.release(1)
    with working(engine, size=1) as worker:
        first = await hold(worker, lambda: gate.wait(10))
        (second,) = await put(worker.call(lambda _: None))
        with pytest.raises(RefusedError, match="the server is busy: 1 request waiting"):
            await worker.call(lambda _: None)
        assert len(await worker.search("red", SearchOptions(k=1))) == 1
        gate.set()
        await asyncio.gather(first, second)


async def test_calls_run_in_order_and_fail_alone() -> None:
    order = list[str]()
    with working(GatedEngine()) as worker:
        waiting = await put(
            worker.call(lambda _: order.append("one")),
            worker.call(lambda _: 1 // 0),
            worker.call(lambda _: order.append("three")),
        )
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[1], ZeroDivisionError)
    assert order == ["one", "three"]


async def test_request_that_times_out_is_skipped() -> None:
    engine = GatedEngine()
    with working(engine, timeout=0.05) as worker:
        first = await occupy(worker, engine)
        slow = await hold(worker, engine.gate.acquire)
        late = worker.search("late", SearchOptions()), worker.call(lambda _: engine.batches.append(["late"]))
        for task in (first, slow, *await put(*late)):
            with pytest.raises(RefusedError, match=r"did not respond within 0.05 s") as refused:
                await task
            assert (refused.value.status, refused.value.headers) == (503, None)
    assert engine.batches == [["first"]], "nothing was done for requests that timed out"


async def test_closing_finishes_waiting_requests_refuses_new_ones_and_waits_for_no_slow_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, gate = GatedEngine(), threading.Event()
    with working(engine) as worker:
        await occupy(worker, engine)
        (waiting,) = await put(worker.search("red", SearchOptions(k=1)))
        slow = await hold(worker, lambda: gate.wait(10))
        engine.gate.release(2)
        monkeypatch.setattr(workers, "SHUTDOWN_S", 0.2)
        await asyncio.to_thread(worker.close)
        assert await waiting == ["red"]
        with pytest.raises(RefusedError):
            await worker.search("late", SearchOptions())
        assert not slow.done()
        gate.set()
        await slow


class PanicError(BaseException):
    """A panic of native code, which is not an ``Exception``."""


async def test_panic_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = GatedEngine()
    engine.gate.release(10)

    def panic(*_arguments: object) -> Any:
        raise PanicError("index out of range")

    with working(engine) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "search_many", panic)
            for request in (worker.search("red", SearchOptions()), worker.call(panic)):
                with pytest.raises(RuntimeError, match="PanicError: index out of range"):
                    await request
        assert len(await worker.search("red", SearchOptions(k=1))) == 1
        assert await worker.call(lambda _: "a moment") == "a moment"
