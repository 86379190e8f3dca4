"""The route that answers questions by a stream of events, from the retrieved moments to a language model's answer.

It needs a server that was started with an endpoint. Only requests to this route send anything to the endpoint.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from vidret.endpoints.transport import EndpointError
from vidret.engine import Engine
from vidret.language.answers import CitedAnswer, stream_answer
from vidret.language.endpoint import ChatEndpoint, ReplyCache
from vidret.language.questions import CACHE, MAX_QUESTION
from vidret.language.retrieval import (
    ContextMoment,
    ContextOptions,
    QuestionContext,
    draw_frames,
    gather_context,
    make_rounds,
)
from vidret.serve.events import Send, document_events, stream_events, write_event, write_problem
from vidret.serve.fields import Id, collect_options, with_options, with_rows_of
from vidret.serve.problems import SHUTTING_DOWN, RefusedError, make_busy, refusals
from vidret.serve.rights import READ
from vidret.serve.routes.media import draw_video, note_leaving
from vidret.serve.rows import LinkedRow, write_row
from vidret.serve.thumbnails import Thumbnails
from vidret.serve.worker import Worker
from vidret.store.records import StoredVideo

MAX_VIDEOS = 100  # in one question


@with_options(ContextOptions)
class AskRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"question": "who opens the door?"}]}):
    """A question about videos."""

    question: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)]
    videos: list[Id] = Field([], max_length=MAX_VIDEOS, description="Ids of the videos to look in; empty for all.")


@with_rows_of(ContextMoment)
class AskedMoment(LinkedRow):
    """A moment that may answer the question; ``number`` is what the answer cites."""

    duration: float = Field(description="Duration of the video in seconds.", examples=[90.0])


class MomentsEvent(BaseModel):
    """The first event, ``moments``: what was retrieved, by video and time. A second round sends it again with more."""

    question: str
    moments: list[AskedMoment]
    notes: list[str] = Field(description="Notes on what could not be read.")


class TextEvent(BaseModel):
    """The event ``text``: the answer so far, which the next one replaces."""

    text: str = Field(examples=["A man opens it [1]"])


class AnswerEvent(BaseModel):
    """The last event, ``answer``."""

    text: str = Field(
        description="The answer; citations of moments that were not retrieved are removed.",
        examples=["A man opens it [1]."],
    )
    shown: bool = Field(description="Whether the videos show the answer, according to the model.")
    cited: list[int] = Field(description="Numbers of the moments that the answer cites.", examples=[[1]])
    notes: list[str] = Field(description="Notes on what was removed or is missing.")


MAX_ASKED = 4  # concurrent requests to the endpoint
NO_MODEL = "questions must be allowed by vidret serve --llm URL, got none"
EVENTS = document_events(
    "Events: moments, then text, repeatedly, then answer; or problem, if the endpoint fails. "
    "A second round sends moments and text again."
)


def ask_routes(engine: Engine, worker: Worker, thumbnails: Thumbnails, llm: ChatEndpoint | None) -> APIRouter:
    """Return the route ``/api/ask``; without an endpoint it refuses every question."""
    router = APIRouter(prefix="/api", tags=["search"], dependencies=[READ], responses=refusals(400, 403, 404, 413))
    free = threading.BoundedSemaphore(MAX_ASKED)

    @router.post("/ask", response_class=StreamingResponse, responses=EVENTS)
    async def ask(request: Request, body: AskRequest) -> StreamingResponse:
        """Answer a question by a language model, which cites the moments that a search finds."""
        if llm is None:
            raise RefusedError(403, NO_MODEL)
        for video_id in body.videos:
            await run_in_threadpool(engine.video, video_id)
        options = collect_options(body, ContextOptions)
        if not free.acquire(blocking=False):
            raise make_busy(f"{MAX_ASKED} questions are being answered", 5)
        is_left = threading.Event()
        leaving = asyncio.ensure_future(note_leaving(request, is_left))
        endpoint = replace(llm, awaited=lambda: not is_left.is_set())
        try:
            cache, loop = ReplyCache(engine.path / CACHE), asyncio.get_running_loop()
            search = partial(gather_context, question=body.question, videos=body.videos, options=options)

            def gather(**settings: Any) -> QuestionContext:
                if is_left.is_set():
                    raise RefusedError(503, SHUTTING_DOWN)
                return asyncio.run_coroutine_threadsafe(worker.call(partial(search, **settings)), loop).result()

            first, find_more = await run_in_threadpool(make_rounds, body.question, options, endpoint, cache, gather)
            moments = await run_in_threadpool(write_moments_event, engine, first)
        except BaseException:
            is_left.set()  # the server may be shutting down
            free.release()
            raise
        finally:
            leaving.cancel()

        def draw(video: StoredVideo, time_s: float, width: int) -> bytes:
            drawn = draw_video(engine, thumbnails, video, time_s, width)
            return asyncio.run_coroutine_threadsafe(drawn, loop).result()

        def show(context: QuestionContext) -> QuestionContext:
            return draw_frames(engine, context, options, draw)

        def answer() -> Iterator[str | QuestionContext | CitedAnswer]:
            more = None if find_more is None else lambda context: show(find_more(context))
            return stream_answer(show(first), endpoint, more)

        return stream_events(partial(send_answer, engine, answer), first=moments, on_end=free.release, is_left=is_left)

    return router


def send_answer(
    engine: Engine,
    answer: Callable[[], Iterator[str | QuestionContext | CitedAnswer]],
    send: Send,
    is_left: threading.Event,
) -> str:
    """Send the text of an answer as it grows, and return the last event; empty if the client has left."""
    try:
        parts = answer()  # draws frames; the endpoint is asked when the first part is read
        while not is_left.is_set():
            part = next(parts)
            if isinstance(part, CitedAnswer):
                cited, notes = [moment.number for moment in part.cited], list(part.notes)
                return write_event("answer", AnswerEvent(text=part.text, shown=part.is_shown, cited=cited, notes=notes))
            if isinstance(part, str):
                send(write_event("text", TextEvent(text=part)))
            else:
                send(write_moments_event(engine, part))
    except EndpointError as error:
        return write_problem(502, error)
    return ""


def write_moments_event(engine: Engine, context: QuestionContext) -> str:
    """Return the event with the retrieved moments."""
    rows = [write_row(AskedMoment, moment, duration=engine.video(moment.video).duration) for moment in context.moments]
    return write_event("moments", MomentsEvent(question=context.question, moments=rows, notes=list(context.notes)))
