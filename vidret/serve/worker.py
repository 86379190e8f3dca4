"""One thread owns the engine: it takes all searches that wait at once, and other questions one by one."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from vidret.engine import Engine
from vidret.serve.problems import RefusedError
from vidret.types import Asked, Hit

T = TypeVar("T")

AT_ONCE = 64  # searches answered together


class Waiting(NamedTuple):
    """A search, or another question that is asked of the engine, and where its answer goes."""

    what: Asked | Callable[[Engine], Any]
    future: "Future[Any]"


class Worker:
    """Answer questions in the order they came, except that searches that wait join the first of them."""

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
            engine: The engine.
            size: How many questions may wait.
            timeout: Seconds after which an answer is no longer waited for.
            on_batch: Called with the number of searches that are answered together.
        """
        self._engine, self._size, self._timeout, self._on_batch = engine, size, timeout, on_batch
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    async def search(self, asked: Asked) -> list[Hit]:
        """Search.

        Raises:
            RefusedError: Too much waits already, or for too long.
            VidretError: What the engine says of this search.
        """
        answer: list[Hit] = await self._wait(asked)
        return answer

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Ask the engine anything else; the errors are those of ``search``."""
        answer: T = await self._wait(question)
        return answer

    async def _wait(self, what: Asked | Callable[[Engine], Any]) -> Any:
        future: Future[Any] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._size:
                sentence = f"the server is busy: {len(self._waiting)} questions wait already"
                raise RefusedError(503, sentence, {"Retry-After": "1"})
            self._waiting.append(Waiting(what, future))
            self._changed.notify()
        # Without a Retry-After: to ask again at once would make it worse.
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)  # gives up with the future: the worker then leaves it out
        except TimeoutError:
            raise RefusedError(503, f"the server had no answer within {self._timeout:g} s") from None

    def _work(self) -> None:
        while batch := self._take():
            wanted = [each for each in batch if each.future.set_running_or_notify_cancel()]
            searches = [each for each in wanted if isinstance(each.what, Asked)]
            if searches:
                self._on_batch(len(searches))
                self._search(searches)
            elif wanted:
                self._ask(wanted[0])

    def _take(self) -> list[Waiting]:
        """Wait for what comes first; give nothing once all is answered and ``close`` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            first = self._waiting[0]
            joined = [each for each in self._waiting if isinstance(each.what, Asked)] or [first]
            batch = joined[:AT_ONCE] if isinstance(first.what, Asked) else [first]
            self._waiting = deque(each for each in self._waiting if each not in batch)
            return batch

    def _search(self, batch: list[Waiting]) -> None:
        """Search for all at once; where that fails each is asked alone, so that a wrong one spoils no other."""
        try:
            answers = self._engine.search_many([each.what for each in batch if isinstance(each.what, Asked)])
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                for each in batch:
                    self._search([each])
        else:
            for each, hits in zip(batch, answers, strict=True):
                each.future.set_result(hits)

    def _ask(self, waiting: Waiting) -> None:
        assert not isinstance(waiting.what, Asked)
        try:
            waiting.future.set_result(waiting.what(self._engine))
        except Exception as error:
            waiting.future.set_exception(error)
