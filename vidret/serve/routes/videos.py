"""Routes for the videos of the index, and for the score curve of a query in a video."""

import base64
import os
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from vidret.engine import Engine
from vidret.serve import fields
from vidret.serve.fields import collect_options
from vidret.serve.images import ImageReader
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rows import find_video, video_row, write_row
from vidret.serve.schemas import (
    CurveAnswer,
    ImageRequest,
    MomentRow,
    ShotRow,
    ShotsAnswer,
    TextRow,
    TranscriptAnswer,
    VideoRow,
    VideosAnswer,
    VideosRequest,
)
from vidret.serve.worker import Worker
from vidret.types import Filters, Source, TextSource
from vidret.types import Query as SearchQuery

MAX_MOMENTS = 10


def video_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the routes under ``/api/videos``."""
    router = APIRouter(prefix="/api/videos", tags=["videos"])

    @router.get("")
    def list_videos(request: Annotated[VideosRequest, Query()]) -> VideosAnswer:
        """List videos in the order of their paths."""
        filters = collect_options(request, Filters)
        page = engine.list_page(filters, after=parse_cursor(request.cursor), limit=request.limit)
        following = make_cursor(page[-1].paths[0]) if len(page) == request.limit else None
        rows = [video_row(video) for video in page]
        return VideosAnswer(total=engine.count_videos(filters), videos=rows, next=following)

    @router.get("/{id}", responses=refusals(404))
    def describe_video(video_id: fields.VideoId) -> VideoRow:
        """Describe a video."""
        return video_row(find_video(engine, video_id))

    @router.get("/{id}/transcript", responses=refusals(404))
    def read_transcript(
        video_id: fields.VideoId,
        sources: Annotated[list[TextSource] | None, Query(description="Default: all.", examples=[["speech"]])] = None,
    ) -> TranscriptAnswer:
        """Return what is said and shown in a video, by time."""
        texts = engine.transcript(find_video(engine, video_id).id, sources)
        return TranscriptAnswer(texts=[write_row(TextRow, text) for text in texts])

    @router.get("/{id}/shots", responses=refusals(404))
    def read_shots(video_id: fields.VideoId) -> ShotsAnswer:
        """Return the shots of a video by time; none if it was indexed without shots."""
        shots = engine.shots(find_video(engine, video_id).id)
        return ShotsAnswer(shots=[write_row(ShotRow, shot) for shot in shots])

    @router.get("/{id}/curve", responses=refusals(404))
    async def score_text(
        video_id: fields.VideoId,
        q: Annotated[fields.QueryText, Query(examples=["a dog"])],
        sources: Annotated[
            list[Source] | None, Query(description="What the moments are found in; default: all that the index has.")
        ] = None,
    ) -> CurveAnswer:
        """Score text against every stored frame of a video, and locate its moments."""
        return await score(video_id, q, sources)

    @router.post("/{id}/curve", responses=refusals(400, 403, 404, 413))
    async def score_image(video_id: fields.VideoId, body: ImageRequest) -> CurveAnswer:
        """Score an image against every stored frame of a video, and locate its moments."""
        return await score(video_id, await images.read(body.image))

    async def score(video_id: int, query: SearchQuery, sources: Sequence[Source] | None = None) -> CurveAnswer:
        await run_in_threadpool(find_video, engine, video_id)
        return await worker.call(lambda engine: compute_curve(engine, video_id, query, sources))

    return router


def make_cursor(path: str) -> str:
    """Return the cursor of the page after a path."""
    return base64.urlsafe_b64encode(os.fsencode(path)).decode()


def parse_cursor(cursor: str) -> str:
    """Return the path after which a page begins.

    Raises:
        RefusedError: The cursor is not one of an earlier page.
    """
    try:
        return os.fsdecode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except ValueError:
        raise RefusedError(422, f"cursor must be one of an earlier page, got {cursor[:60]}") from None


def compute_curve(
    engine: Engine, video_id: int, query: SearchQuery, sources: Sequence[Source] | None = None
) -> CurveAnswer:
    """Return the score curve of a query in a video, and its moments in some sources."""
    curve = engine.curve(query, video_id)
    moments = engine.locate(query, MAX_MOMENTS, video=video_id, sources=sources)
    rows = [write_row(MomentRow, moment) for moment in moments]
    weak = bool(moments) and all(moment.weak for moment in moments)
    return write_row(CurveAnswer, curve, weak=weak, moments=rows)
