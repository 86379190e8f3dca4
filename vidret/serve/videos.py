"""The videos of the index: listing them, and how a query fits one of them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool

from vidret.engine import Engine
from vidret.serve import schemas
from vidret.serve.pictures import PictureReader
from vidret.serve.problems import refusals
from vidret.serve.rows import find_video, moment_row, video_row
from vidret.serve.schemas import CurveAnswer, Pictured, VideoRow, VideosAnswer, VideosRequest
from vidret.serve.worker import Worker
from vidret.types import Query as Asking

MOMENTS = 10  # of one video

VideoId = Annotated[schemas.Id, Path(alias="id")]


def video_routes(engine: Engine, worker: Worker, pictures: PictureReader) -> APIRouter:
    """Make the routes under ``/api/videos``."""
    router = APIRouter(prefix="/api/videos", tags=["videos"])

    @router.get("")
    def list_videos(asked: Annotated[VideosRequest, Query()]) -> VideosAnswer:
        """List videos in the order of their paths."""
        found = engine.videos(asked.filters())
        part = found[asked.offset : asked.offset + asked.limit]
        return VideosAnswer(total=len(found), videos=[video_row(video) for video in part])

    @router.get("/{id}", responses=refusals(404))
    def describe_video(number: VideoId) -> VideoRow:
        """Describe a video."""
        return video_row(find_video(engine, number))

    @router.get("/{id}/curve", responses=refusals(404))
    async def rate_words(number: VideoId, q: Annotated[schemas.Words, Query(examples=["a dog"])]) -> CurveAnswer:
        """Score words against every stored frame of a video, and find its moments."""
        return await rate(number, q)

    @router.post("/{id}/curve", responses=refusals(400, 403, 404, 413))
    async def rate_picture(number: VideoId, asked: Pictured) -> CurveAnswer:
        """Score a picture against every stored frame of a video, and find its moments."""
        return await rate(number, await pictures.read(asked.image))

    async def rate(number: int, query: Asking) -> CurveAnswer:
        await run_in_threadpool(find_video, engine, number)
        return await worker.ask(lambda engine: tell_curve(engine, number, query))

    return router


def tell_curve(engine: Engine, number: int, query: Asking) -> CurveAnswer:
    """Ask the engine how a query fits a video, and what that is worth."""
    curve = engine.curve(query, number)
    moments = [moment_row(moment) for moment in engine.locate(query, MOMENTS, video=number)]
    # Nothing is shown of a video that is weak, nor of one that a head cannot read.
    weak = not moments and bool(engine.locate(query, 1, video=number, weak=True))
    return CurveAnswer(
        times=curve.times.tolist(),
        scores=curve.scores.tolist(),
        start=curve.start,
        end=curve.end,
        best=curve.best,
        weak=weak,
        typical=curve.typical,
        moments=moments,
    )
