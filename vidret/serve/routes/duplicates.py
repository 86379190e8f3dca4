"""The route that finds copies: a stream of events, from the progress of the check to the groups of files."""

import dataclasses
import threading
from functools import partial

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.events import Send, document_events, stream_events, write_event, write_problem
from vidret.serve.fields import Id
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rows import find_video, stream_url, title
from vidret.text import show_path
from vidret.types import CopiedFile, CopyGroup

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


class CopyRow(BaseModel):
    """A file of a group of copies, compared with the best file of the group."""

    video: int = Field(examples=[7])
    path: str = Field(examples=["/videos/beach.mp4"])
    title: str = Field(examples=["beach"])
    width: int = Field(description="In pixels; 0 if unknown.", examples=[1920])
    height: int = Field(examples=[1080])
    bit_rate: int = Field(description="Bits per second of the whole file; 0 if unknown.", examples=[4_000_000])
    duration: float = Field(examples=[90.0])
    start: float = Field(description="Where the footage of the best file begins in this file.", examples=[0.0])
    end: float = Field(examples=[90.0])
    best_start: float = Field(description="Where it begins in the best file.", examples=[0.0])
    speed: float = Field(description="Seconds of this file per second of the best one.", examples=[1.0])
    differs: list[str] = Field(description="How it differs.", examples=[["mirrored"]])
    agreement: float = Field(description="How well decoded frames agree in what moves.", examples=[0.95])
    moves: bool = Field(description="False if too little moves to tell it from another recording of the same place.")
    stream: str = Field(examples=["/api/videos/7/stream"])


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
    return write_event("groups", GroupsEvent(groups=[group_rows(group) for group in groups]))


def group_rows(group: CopyGroup) -> list[CopyRow]:
    """Return the rows of a group, the best file first."""
    return [file_row(file) for file in group.files]


def file_row(file: CopiedFile) -> CopyRow:
    """Return the row of a file of a group."""
    fields = dataclasses.asdict(file) | {"path": show_path(file.path), "differs": list(file.differs)}
    return CopyRow(**fields, title=title(file.path), stream=stream_url(file.video))
