"""The two threads that use the engine: one answers all waiting searches as a batch, one runs other calls in turn.

A call such as ``locate`` may decode and encode a whole video, so searches do not wait behind it.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from vidret.engine import Engine
from vidret.errors import MovedError
from vidret.serve.problems import RefusedError, make_busy
from vidret.text import format_count
from vidret.types import Hit, Query, SearchOptions

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BATCH = 64  # searches per batch
SHUTDOWN_S = 5.0  # time for waiting requests at shutdown


class Job(NamedTuple):
    """A search or another call of the engine, and the future of its result."""

    work: Any
    future: "Future[Any]"


class JobThread:
    """A thread that runs the jobs of its queue in order of arrival, up to ``max_batch`` at a time."""

    def __init__(self, name: str, run: Callable[[list[Job]], None], *, size: int, max_batch: int) -> None:
        self._run, self._size, self._max_batch = run, size, max_batch
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish the waiting jobs and stop the thread; a job that takes too long is left to end with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(SHUTDOWN_S)

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, work: Any) -> "Future[Any]":
        """Add a job to the queue, and return the future of its result.

        Raises:
            RefusedError: The queue is full or closed.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._size:
                raise make_busy(f"{format_count(len(self._waiting), 'request')} waiting")
            self._waiting.append(Job(work, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while batch := self._take():
            if active := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                self._run(active)

    def _take(self) -> list[Job]:
        """Wait for jobs, and return the next batch; empty once the thread is closed and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]


class Worker:
    """Runs searches and other calls in two threads that share one engine, and so one model and one index.

    When another process moves the index to another encoder, the engine opens it again.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        size: int = 64,
        timeout: float = 30.0,
        on_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """Set up the threads, which have exclusive use of the engine between ``start`` and ``close``.

        At most ``size`` searches wait, and as many other calls, each for ``timeout`` seconds. ``on_batch`` is called
        with the size of each batch of searches.
        """
        self._engine, self._timeout, self._on_batch = engine, timeout, on_batch
        self._reopening = threading.Lock()
        self._searches = JobThread("searches", self._search, size=size, max_batch=MAX_BATCH)
        self._calls = JobThread("calls", self._call, size=size, max_batch=1)

    def start(self) -> None:
        """Start the threads."""
        self._searches.start()
        self._calls.start()

    def close(self) -> None:
        """Finish the waiting jobs and stop the threads."""
        self._searches.close()
        self._calls.close()

    def __len__(self) -> int:
        return len(self._searches) + len(self._calls)

    async def search(self, query: Query, options: SearchOptions) -> list[Hit]:
        """Return the hits of a query.

        Raises:
            RefusedError: Too many searches are waiting, or this one waited too long.
            VidretError: The engine refused the search.
        """
        hits: list[Hit] = await self._wait(self._searches.submit((query, options)))
        return hits

    async def call(self, function: Callable[[Engine], T]) -> T:
        """Call a function with the engine, and return its result. Errors are those of ``search``."""
        result: T = await self._wait(self._calls.submit(function))
        return result

    async def _wait(self, future: "Future[Any]") -> Any:
        # No Retry-After, since repeating the request would make the server busier.
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)  # a timeout cancels the future, so that its thread skips it
        except TimeoutError:
            raise RefusedError(503, f"the server did not respond within {self._timeout:g} s") from None

    def _search(self, batch: list[Job]) -> None:
        self._on_batch(len(batch))
        self._search_together(batch)

    def _search_together(self, batch: Sequence[Job]) -> None:
        """Search for all jobs at once; if that fails, one by one, so that an invalid query affects no other."""
        try:
            queries, options = zip(*(job.work for job in batch), strict=True)
            results = self._use_engine(lambda engine: engine.search_many(queries, options))
        except BaseException as error:
            if len(batch) == 1:
                fail(batch[0].future, error)
            else:
                for job in batch:
                    self._search_together([job])
        else:
            for job, hits in zip(batch, results, strict=True):
                job.future.set_result(hits)

    def _call(self, batch: list[Job]) -> None:
        (job,) = batch
        try:
            job.future.set_result(self._use_engine(job.work))
        except BaseException as error:
            fail(job.future, error)

    def _use_engine(self, work: Callable[[Engine], T]) -> T:
        """Return the result of a function of the engine; reopen the engine if its index has another encoder now."""
        encoder = self._engine.encoder
        try:
            return work(self._engine)
        except MovedError as error:
            logger.warning("%s: loading it", str(error).partition(";")[0])
            with self._reopening:
                if self._engine.encoder is encoder:  # else the other thread has reopened it
                    self._engine.reopen()
            return work(self._engine)


def fail(future: "Future[Any]", error: BaseException) -> None:
    """Set an error as a job's result. A ``BaseException``, such as a panic of native code, must not end the thread."""
    future.set_exception(error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}"))
