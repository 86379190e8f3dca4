"""The route that finds copies: a stream of events, from the progress of the check to the groups of files."""

import threading
from functools import partial

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.events import Send, document_events, stream_events, write_event, write_problem
from vidret.serve.fields import Id, with_rows_of
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rows import find_video, write_row
from vidret.serve.schemas import LinkedRow
from vidret.types import CopiedFile

MAX_VIDEOS = 100_000  # whose copies one request looks for
BUSY = "the server is busy: it compares videos for another request"
EVENTS = document_events("Events: progress, repeatedly, then groups; or problem, if the index cannot be compared.")


class DuplicatesRequest(BaseModel):
    """Videos to find copies of."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}, {"videos": [7]}]})

    videos: list[Id] = Field([], max_length=MAX_VIDEOS, description="Default: all of them.")


class ProgressEvent(BaseModel):
    """The event ``progress``."""

    checked: int = Field(description="Number of pairs of videos that were compared.", examples=[64])
    total: int = Field(examples=[300])


@with_rows_of(CopiedFile)
class CopyRow(LinkedRow):
    """A file of a group of copies, compared with the best file of the group."""


class GroupsEvent(BaseModel):
    """The last event, ``groups``: files that show the same footage, the best one of each group first."""

    groups: list[list[CopyRow]]


class LeftError(Exception):
    """Nobody waits for the answer any more."""


def duplicate_routes(engine: Engine) -> APIRouter:
    """Return the route ``/api/duplicates``, which serves one request at a time."""
    router = APIRouter(prefix="/api", tags=["search"], responses=refusals(400, 403, 404, 413))
    free = threading.BoundedSemaphore(1)

    @router.post("/duplicates", response_class=StreamingResponse, responses=EVENTS)
    async def find_duplicates(body: DuplicatesRequest) -> StreamingResponse:
        """Find the files that show the same footage; nothing is changed."""
        for video_id in body.videos:
            await run_in_threadpool(find_video, engine, video_id)
        if not free.acquire(blocking=False):
            raise RefusedError(503, BUSY, {"Retry-After": "30"})
        events = stream_events(partial(send_groups, engine, body.videos), on_end=free.release)
        return StreamingResponse(events, media_type="text/event-stream")

    return router


def send_groups(engine: Engine, videos: list[int], send: Send, is_left: threading.Event) -> str:
    """Send the progress of a search for copies, and return the last event; empty if nobody waits for it."""

    def on_progress(checked: int, total: int) -> None:
        if is_left.is_set():
            raise LeftError
        send(write_event("progress", ProgressEvent(checked=checked, total=total)))

    try:
        groups = engine.duplicates(videos, on_progress=on_progress)
    except LeftError:
        return ""
    except VidretError as error:
        return write_problem(422, "Unprocessable Content", error)
    rows = [[write_row(CopyRow, file) for file in group.files] for group in groups]
    return write_event("groups", GroupsEvent(groups=rows))
