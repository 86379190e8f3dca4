"""Routes for the videos of the index: their contents, the score curve of a query, and copies of files."""

import base64
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from vidret.engine import Engine
from vidret.errors import OptionError, VidretError
from vidret.serve import fields
from vidret.serve.events import Send, document_events, stream_events, write_event, write_problem
from vidret.serve.fields import (
    MAX_PATH_LENGTH,
    TINY_IMAGE,
    Id,
    ImageReader,
    collect_options,
    with_options,
    with_rows_of,
)
from vidret.serve.problems import make_busy, refusals
from vidret.serve.rights import READ
from vidret.serve.routes.search import QueryRequest, decode_query
from vidret.serve.rows import LinkedRow, MomentRow, VideoRow, video_row, write_row
from vidret.serve.worker import Worker
from vidret.types import CopiedFile, Curve, Filters, Shot, Source, TextSource, TimedText
from vidret.types import Query as SearchQuery


class CurveRequest(QueryRequest, json_schema_extra={"examples": [{"image": TINY_IMAGE}]}):
    """A query of one event."""


@with_rows_of(Curve)
class CurveAnswer(BaseModel):
    """The score of a query at every stored frame of a video, and its moments."""

    weak: bool = Field(description="Whether it is unlikely that the video answers the query.")
    moments: list[MomentRow] = Field(description="The best moments of the video.")


@with_options(Filters)
class VideosRequest(BaseModel, extra="forbid"):
    """A page of the list of videos."""

    cursor: str = Field(
        "", max_length=2 * MAX_PATH_LENGTH, description="The next of the page before; default: the first page."
    )
    limit: int = Field(100, ge=1, le=1000, description="Maximum number of videos.")


class VideosAnswer(BaseModel):
    """A page of the list of videos, in the order of their paths."""

    total: int = Field(description="Number of videos on all pages.")
    videos: list[VideoRow]
    next: str | None = Field(None, description="The cursor of the next page; null on the last page.")


@with_rows_of(TimedText)
class TextRow(BaseModel):
    """Words that are said or shown in a video."""


class TranscriptAnswer(BaseModel):
    """The words of a video, by time."""

    texts: list[TextRow]


@with_rows_of(Shot)
class ShotRow(BaseModel):
    """A span of a video between two shot changes; gradual changes belong to neither shot."""


class ShotsAnswer(BaseModel):
    """The shots of a video, by time."""

    shots: list[ShotRow]


MAX_MOMENTS = 10


def video_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the routes under ``/api/videos``."""
    router = APIRouter(prefix="/api/videos", tags=["videos"], dependencies=[READ])

    @router.get("")
    def list_videos(request: Annotated[VideosRequest, Query()]) -> VideosAnswer:
        """List videos in the order of their paths."""
        filters = collect_options(request, Filters)
        videos, following = engine.list_page(filters, after=parse_cursor(request.cursor), limit=request.limit)
        rows = [video_row(video) for video in videos]
        cursor = None if following is None else make_cursor(following)
        return VideosAnswer(total=engine.count_videos(filters), videos=rows, next=cursor)

    @router.get("/{id}", responses=refusals(404))
    def describe_video(video_id: fields.VideoId) -> VideoRow:
        """Describe a video."""
        return video_row(engine.video(video_id))

    @router.get("/{id}/transcript", responses=refusals(404))
    def read_transcript(
        video_id: fields.VideoId,
        sources: Annotated[
            list[TextSource] | None,
            Query(description="Sources to read; default: all but sounds.", examples=[["speech"]]),
        ] = None,
        unnamed: Annotated[bool, Query(description="Label speakers without a name, as person-7.")] = False,
    ) -> TranscriptAnswer:
        """Return what is said and shown in a video, by time, with the names of the speakers."""
        texts = engine.transcript(engine.video(video_id).id, sources, unnamed=unnamed)
        return TranscriptAnswer(texts=[write_row(TextRow, text) for text in texts])

    @router.get("/{id}/shots", responses=refusals(404))
    def read_shots(video_id: fields.VideoId) -> ShotsAnswer:
        """Return the shots of a video, by time; empty if it was indexed without shots."""
        shots = engine.shots(engine.video(video_id).id)
        return ShotsAnswer(shots=[write_row(ShotRow, shot) for shot in shots])

    @router.get("/{id}/curve", responses=refusals(404))
    async def score_text(
        video_id: fields.VideoId,
        q: Annotated[fields.QueryText, Query(description="Text to search for.", examples=["a dog"])],
        sources: Annotated[
            list[Source] | None, Query(description="Sources to find moments in; default: all that the index has.")
        ] = None,
    ) -> CurveAnswer:
        """Score text against every stored frame of a video, and locate its moments."""
        return await score(video_id, q, sources)

    @router.post("/{id}/curve", responses=refusals(400, 403, 404, 413))
    async def score_query(video_id: fields.VideoId, body: CurveRequest) -> CurveAnswer:
        """Score a query, such as an image, against every stored frame of a video, and locate its moments."""
        return await score(video_id, await decode_query(body, images))

    async def score(video_id: int, query: SearchQuery, sources: Sequence[Source] | None = None) -> CurveAnswer:
        await run_in_threadpool(engine.video, video_id)
        return await worker.call(lambda engine: compute_curve(engine, video_id, query, sources))

    return router


def make_cursor(path: str) -> str:
    """Return the cursor of the page after a path."""
    return base64.urlsafe_b64encode(os.fsencode(path)).decode()


def parse_cursor(cursor: str) -> str:
    """Return the path after which a page begins."""
    try:
        return os.fsdecode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except ValueError:
        raise OptionError(f"cursor must be one of an earlier page, got {cursor[:60]}") from None


def compute_curve(
    engine: Engine, video_id: int, query: SearchQuery, sources: Sequence[Source] | None = None
) -> CurveAnswer:
    """Return the score curve of a query in a video, and its moments in some sources."""
    curve = engine.curve(query, video_id)
    moments = engine.locate(query, MAX_MOMENTS, video=video_id, sources=sources)
    rows = [write_row(MomentRow, moment) for moment in moments]
    weak = bool(moments) and all(moment.weak for moment in moments)
    if sources is not None:
        curve = replace(curve, texts=tuple(text for text in curve.texts if text.source in sources))
    return write_row(CurveAnswer, curve, weak=weak, moments=rows)


MAX_VIDEOS = 100_000  # in one request for copies
EVENTS = document_events("Events: progress, repeatedly, then groups; or problem, if the index cannot be compared.")


class DuplicatesRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{}, {"videos": [7]}]}):
    """Videos to find copies of."""

    videos: list[Id] = Field([], max_length=MAX_VIDEOS, description="Ids of the videos; empty for all.")


class ProgressEvent(BaseModel):
    """The event ``progress``."""

    checked: int = Field(description="Number of pairs of videos compared so far.", examples=[64])
    total: int = Field(description="Number of pairs of videos to compare.", examples=[300])


@with_rows_of(CopiedFile)
class CopyRow(LinkedRow):
    """A file of a group of copies, compared with the best file of the group."""


class GroupsEvent(BaseModel):
    """The last event, ``groups``: files that show the same footage, the best one of each group first."""

    groups: list[list[CopyRow]]


class LeftError(Exception):
    """The client has left."""


def duplicate_routes(engine: Engine) -> APIRouter:
    """Return the route ``/api/duplicates``, which serves one request at a time."""
    router = APIRouter(prefix="/api", tags=["search"], dependencies=[READ], responses=refusals(400, 403, 404, 413))
    free = threading.BoundedSemaphore(1)

    @router.post("/duplicates", response_class=StreamingResponse, responses=EVENTS)
    async def find_duplicates(body: DuplicatesRequest) -> StreamingResponse:
        """Find the files that show the same footage; nothing is changed."""
        for video_id in body.videos:
            await run_in_threadpool(engine.video, video_id)
        if not free.acquire(blocking=False):
            raise make_busy("it compares videos for another request", 30)
        return stream_events(partial(send_groups, engine, body.videos), on_end=free.release)

    return router


def send_groups(engine: Engine, videos: list[int], send: Send, is_left: threading.Event) -> str:
    """Send the progress of a search for copies, and return the last event; empty if the client has left."""

    def on_progress(checked: int, total: int) -> None:
        if is_left.is_set():
            raise LeftError
        send(write_event("progress", ProgressEvent(checked=checked, total=total)))

    try:
        groups = engine.duplicates(videos, on_progress=on_progress)
    except LeftError:
        return ""
    except VidretError as error:
        return write_problem(422, error)
    rows = [[write_row(CopyRow, file) for file in group.files] for group in groups]
    return write_event("groups", GroupsEvent(groups=rows))
