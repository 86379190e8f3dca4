"""Answers that arrive as server-sent events, while a thread works on them."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from vidret.errors import VidretError
from vidret.serve.problems import INTERNAL_ERROR, kind_of, make_problem

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 10.0  # time without an event after which a comment shows that the server is at work
Send = Callable[[str], None]


def document_events(description: str) -> dict[int | str, dict[str, Any]]:
    """Return the response of a route that answers with events, whose data is JSON, for the OpenAPI document."""
    text = {"type": "string"}
    event = {"type": "object", "required": ["event", "data"], "properties": {"event": text, "data": text}}
    return {200: {"description": description, "content": {"text/event-stream": {"schema": event}}}}


def write_event(name: str, data: BaseModel) -> str:
    """Return a server-sent event; JSON has no line break outside strings, and escapes those inside."""
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


def write_problem(status: int, error: VidretError) -> str:
    """Return the event that ends an answer that failed."""
    return write_event("problem", make_problem(status, str(error), kind_of(error)))


def stream_events(
    work: Callable[[Send, threading.Event], str], *, first: str = "", on_end: Callable[[], object]
) -> StreamingResponse:
    """Run a function in a thread, and answer with the events that it sends as they arrive, after a ``first`` one.

    ``work`` gets a function that sends an event, and an event that is set when nobody waits any more. It returns the
    last event, empty if there is none. If it fails, a problem is the last event. ``on_end`` is called before that in
    any case.
    """
    loop, events, is_left = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

    def send(event: str | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        last = ""
        try:
            last = work(send, is_left)
        except VidretError as error:
            last = write_problem(500, error)
        except BaseException:  # such as a panic of native code
            logger.exception("a stream failed")
            last = write_problem(500, VidretError(INTERNAL_ERROR))
        finally:
            on_end()  # before the last event, after which a client may send its next request
            if last:
                send(last)
            send(None)

    async def read() -> AsyncIterator[str]:
        try:
            if first:
                yield first
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield ": waiting\n\n"
                    continue
                if event is None:
                    return
                yield event
        finally:
            is_left.set()

    threading.Thread(target=run, name="events", daemon=True).start()
    return StreamingResponse(read(), media_type="text/event-stream")
