"""Two threads ask the engine: one answers searches, all that wait together, the other everything else in turn.

A question such as ``locate`` may decode and encode a whole video, so no search waits behind it.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from vidret.engine import Engine
from vidret.serve.problems import RefusedError
from vidret.types import Hit, Query, SearchOptions

T = TypeVar("T")

AT_ONCE = 64  # searches answered together
PATIENCE_S = 5.0  # for what waits when the server ends


class Waiting(NamedTuple):
    """A search, or another question that is asked of the engine, and where its answer goes."""

    what: Any
    future: "Future[Any]"


class Answerer:
    """A thread that answers what waits in its queue, up to ``at_once`` together, in the order of arrival."""

    def __init__(self, name: str, answer: Callable[[list[Waiting]], None], *, size: int, at_once: int) -> None:
        """Take the function that answers, and how many may wait."""
        self._answer, self._size, self._at_once = answer, size, at_once
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Answer what waits, and end the thread; one that takes too long for that ends with the program."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(PATIENCE_S)

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, what: Any) -> "Future[Any]":
        """Add to the queue, and return the future of the answer.

        Raises:
            RefusedError: The queue is full or closed.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._size:
                sentence = f"the server is busy: {len(self._waiting)} questions wait already"
                raise RefusedError(503, sentence, {"Retry-After": "1"})
            self._waiting.append(Waiting(what, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while batch := self._take():
            wanted = [each for each in batch if each.future.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _take(self) -> list[Waiting]:
        """Wait for the next to answer; return an empty list once all is answered and ``close`` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]


class Worker:
    """Answer searches and other questions in two threads that share one engine, and so one model and one index."""

    def __init__(
        self,
        engine: Engine,
        *,
        size: int = 64,
        timeout: float = 30.0,
        on_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """Take an engine, which from ``start`` to ``close`` is this one's to ask.

        Args:
            engine: The engine; its index is open already.
            size: How many searches may wait, and how many other questions.
            timeout: Seconds after which an answer is no longer waited for.
            on_batch: Called with the number of searches that are answered together.
        """
        self._engine, self._timeout, self._on_batch = engine, timeout, on_batch
        self._searches = Answerer("searches", self._search, size=size, at_once=AT_ONCE)
        self._questions = Answerer("questions", self._ask, size=size, at_once=1)

    def start(self) -> None:
        """Begin to answer."""
        self._searches.start()
        self._questions.start()

    def close(self) -> None:
        """Answer what waits, and end."""
        self._searches.close()
        self._questions.close()

    def __len__(self) -> int:
        """Return how many searches and questions wait."""
        return len(self._searches) + len(self._questions)

    async def search(self, query: Query, options: SearchOptions) -> list[Hit]:
        """Search.

        Raises:
            RefusedError: Too many searches wait already, or this one waited too long.
            VidretError: What the engine says of this search.
        """
        answer: list[Hit] = await self._wait(self._searches.put((query, options)))
        return answer

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Ask the engine anything else; the errors are those of ``search``."""
        answer: T = await self._wait(self._questions.put(question))
        return answer

    async def _wait(self, future: "Future[Any]") -> Any:
        # Without a Retry-After: to ask again at once would make it worse.
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)  # gives up with the future: its thread then leaves it out
        except TimeoutError:
            raise RefusedError(503, f"the server had no answer within {self._timeout:g} s") from None

    def _search(self, batch: list[Waiting]) -> None:
        self._on_batch(len(batch))
        self._search_together(batch)

    def _search_together(self, batch: Sequence[Waiting]) -> None:
        """Search for all at once; where that fails each is asked alone, so that a wrong one spoils no other."""
        try:
            queries, options = zip(*(each.what for each in batch), strict=True)
            answers = self._engine.search_many(queries, options)
        except BaseException as error:
            if len(batch) == 1:
                fail(batch[0].future, error)
            else:
                for each in batch:
                    self._search_together([each])
        else:
            for each, hits in zip(batch, answers, strict=True):
                each.future.set_result(hits)

    def _ask(self, batch: list[Waiting]) -> None:
        (waiting,) = batch
        try:
            waiting.future.set_result(waiting.what(self._engine))
        except BaseException as error:
            fail(waiting.future, error)


def fail(future: "Future[Any]", error: BaseException) -> None:
    """Give an error as the answer; what is no ``Exception``, such as a panic of native code, must end no thread."""
    future.set_exception(error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}"))
