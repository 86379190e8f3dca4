"""``AsyncRemoteEngine``: the methods of ``RemoteEngine`` as coroutines, for programs that run on asyncio."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from vidret.client.remote import RemoteEngine
from vidret.errors import VidretError

P = ParamSpec("P")
T = TypeVar("T")

CONNECTIONS = 8  # requests at once


def as_coroutine(
    method: Callable[Concatenate[RemoteEngine, P], T],
) -> Callable[Concatenate["AsyncRemoteEngine", P], Coroutine[Any, Any, T]]:
    """Return a method of ``RemoteEngine`` as one of ``AsyncRemoteEngine``, with its parameters and documentation."""

    async def call(self: "AsyncRemoteEngine", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(lambda engine: method(engine, *args, **kwargs))

    update_wrapper(call, method)
    call.__doc__ = inspect.getdoc(method)  # of the class that defines it
    return call


class AsyncRemoteEngine:
    """The engine of a ``vidret serve`` for asyncio: the methods of ``RemoteEngine``, awaited.

    An async context manager. Each request runs in a thread with its own connection; when all connections are in
    use, further requests wait in the order of their calls, and ``timeout`` does not include that wait.

    A cancelled call, also by ``asyncio.timeout``, raises at once. It is never sent if it was waiting. If it was sent,
    its answer is dropped when it arrives, and its connection is in use until then; the server may have carried out the
    request, such as ``teach`` or ``forget``.

    ``notes`` holds the server's notes on the last search. Read them before the next ``await``.
    """

    def __init__(
        self, url: str, token: str | None = None, timeout: float = 30.0, *, connections: int = CONNECTIONS
    ) -> None:
        """Store the address of a server; it is first contacted by a request.

        Args:
            url: See ``RemoteEngine``.
            token: See ``RemoteEngine``.
            timeout: See ``RemoteEngine``.
            connections: Maximum number of requests at once.

        Raises:
            VidretError: The URL or the token is invalid, or there are no connections.
        """
        if connections < 1:
            raise VidretError(f"connections must be at least 1, got {connections}")
        self._open: Callable[[], RemoteEngine] = lambda: RemoteEngine(url, token, timeout)
        self._idle = [self._open()]  # each engine is used by one thread at a time
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="vidret-remote")
        self.url = self._idle[0].url
        self.notes: tuple[str, ...] = ()

    async def close(self) -> None:
        """Wait for the requests in progress, and close the connections; later calls raise a RuntimeError."""
        await asyncio.to_thread(self._threads.shutdown)
        for engine in self._idle:
            engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[RemoteEngine], T]) -> T:
        self.notes = ()
        loop = asyncio.get_running_loop()
        answer, self.notes = await loop.run_in_executor(self._threads, self._lend_engine, call)
        return answer

    def _lend_engine(self, call: Callable[[RemoteEngine], T]) -> tuple[T, tuple[str, ...]]:
        """Call with an idle engine, or a new one if all are in use; return the answer and the server's notes."""
        try:
            engine = self._idle.pop()
        except IndexError:
            engine = self._open()
        engine.notes = ()
        try:
            return call(engine), engine.notes
        finally:
            self._idle.append(engine)

    search = as_coroutine(RemoteEngine.search)
    search_with = as_coroutine(RemoteEngine.search_with)
    locate = as_coroutine(RemoteEngine.locate)
    locate_with = as_coroutine(RemoteEngine.locate_with)
    ask = as_coroutine(RemoteEngine.ask)
    find_footage = as_coroutine(RemoteEngine.find_footage)
    duplicates = as_coroutine(RemoteEngine.duplicates)
    curve = as_coroutine(RemoteEngine.curve)
    teach = as_coroutine(RemoteEngine.teach)
    concepts = as_coroutine(RemoteEngine.concepts)
    forget = as_coroutine(RemoteEngine.forget)
    collections = as_coroutine(RemoteEngine.collections)
    collection = as_coroutine(RemoteEngine.collection)
    collect = as_coroutine(RemoteEngine.collect)
    save_collection = as_coroutine(RemoteEngine.save_collection)
    add_to_list = as_coroutine(RemoteEngine.add_to_list)
    remove_collection = as_coroutine(RemoteEngine.remove_collection)
    transcript = as_coroutine(RemoteEngine.transcript)
    shots = as_coroutine(RemoteEngine.shots)
    frame = as_coroutine(RemoteEngine.frame)
    videos = as_coroutine(RemoteEngine.videos)
    video = as_coroutine(RemoteEngine.video)
    info = as_coroutine(RemoteEngine.info)
    failed = as_coroutine(RemoteEngine.failed)
