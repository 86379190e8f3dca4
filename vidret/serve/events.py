"""Responses as streams of server-sent events, which a function in a thread sends as it works."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from vidret.errors import VidretError
from vidret.serve.problems import INTERNAL_ERROR, kind_of, make_problem

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 10.0  # a comment is sent after this time without an event
Send = Callable[[str], None]


def document_events(description: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a response of events whose data is JSON."""
    text = {"type": "string"}
    event = {"type": "object", "required": ["event", "data"], "properties": {"event": text, "data": text}}
    return {200: {"description": description, "content": {"text/event-stream": {"schema": event}}}}


def write_event(name: str, data: BaseModel) -> str:
    """Return a server-sent event with one line of data: the JSON has no line breaks."""
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


def write_problem(status: int, error: VidretError) -> str:
    """Return the last event of an answer that failed."""
    return write_event("problem", make_problem(status, str(error), kind_of(error)))


def stream_events(
    work: Callable[[Send, threading.Event], str],
    *,
    first: str = "",
    on_end: Callable[[], object],
    is_left: threading.Event | None = None,
) -> StreamingResponse:
    """Run ``work`` in a thread, and respond with the events that it sends, after the ``first`` one.

    ``work`` gets a function that sends an event, and ``is_left``, which is set when the client has left. It
    returns the last event, empty for none. If it fails, the last event is a problem. ``on_end`` is always called before
    the last event.
    """
    loop, events, is_left = asyncio.get_running_loop(), asyncio.Queue[str | None](), is_left or threading.Event()

    def send(event: str | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        last = ""
        try:
            last = work(send, is_left)
        except VidretError as error:
            last = write_problem(500, error)
        except CancelledError:  # the loop ends, and with it what ``work`` waits for
            pass
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
