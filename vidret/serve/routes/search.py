"""Routes to search for videos and to locate moments."""

import time
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from vidret.engine import Engine
from vidret.serve.fields import collect_options
from vidret.serve.images import ImageReader
from vidret.serve.problems import refusals
from vidret.serve.rows import find_video, hit_rows, interpretation_row, write_row
from vidret.serve.schemas import (
    FootageAnswer,
    FootageRequest,
    FootageRow,
    LocateAnswer,
    LocateRequest,
    MomentRow,
    QueryRequest,
    SearchAnswer,
    SearchRequest,
)
from vidret.serve.worker import Worker
from vidret.types import ComposedQuery, Filters, Hit, LocateOptions, Moment, Query, SearchOptions, Sequence


def search_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the routes ``/api/search``, ``/api/locate`` and ``/api/footage``."""
    router = APIRouter(prefix="/api", tags=["search"], responses=refusals(400, 403, 413))

    @router.post("/search")
    async def search(body: SearchRequest) -> SearchAnswer:
        """Find the videos that match a query."""
        started = time.perf_counter()
        query, options = await decode_query(body, images), collect_options(body, SearchOptions)
        hits = await worker.search(query, options)
        rows = await run_in_threadpool(hit_rows, engine, hits)
        understood = await run_in_threadpool(interpretation_row, engine, query, options.sources)
        return SearchAnswer(
            query=body.query, interpretation=understood, hits=rows, **describe_results(hits, options, started)
        )

    @router.post("/locate", responses=refusals(404))
    async def locate(body: LocateRequest) -> LocateAnswer:
        """Find the moments that match a query, in one video or in all."""
        started = time.perf_counter()
        query, options = await decode_query(body, images), collect_options(body, LocateOptions)
        if body.video is not None:
            await run_in_threadpool(find_video, engine, body.video)
        moments = await worker.call(lambda engine: engine.locate_with(query, options, video=body.video))
        understood = await run_in_threadpool(interpretation_row, engine, query, options.sources)
        rows = [write_row(MomentRow, moment) for moment in moments]
        facts = describe_results(moments, options, started)
        return LocateAnswer(query=body.query, interpretation=understood, moments=rows, **facts)

    _add_footage_route(router, engine, worker)
    return router


def _add_footage_route(router: APIRouter, engine: Engine, worker: Worker) -> None:
    @router.post("/footage", responses=refusals(404))
    async def find_footage(body: FootageRequest) -> FootageAnswer:
        """Find where videos show the same footage as a stretch of a video."""
        started = time.perf_counter()
        for video_id in (body.video, body.within):
            if video_id is not None:
                await run_in_threadpool(find_video, engine, video_id)
        found = await worker.call(
            lambda engine: engine.find_footage(
                body.video,
                body.k,
                start=body.start,
                end=body.end,
                video=body.within,
                filters=collect_options(body, Filters),
                repeated=body.repeated,
            )
        )
        return FootageAnswer(took_ms=milliseconds_since(started), found=[write_row(FootageRow, each) for each in found])


async def decode_query(body: QueryRequest, images: ImageReader) -> Query:
    """Return the query of a request, with its images decoded."""
    if body.events is not None:
        return Sequence(body.events, body.gap)
    if body.image is None:
        assert body.query is not None
        return body.query
    encoded = [body.image] if isinstance(body.image, str) else body.image
    pictures = tuple([await images.read(each) for each in encoded])
    if body.query is None and len(pictures) == 1:
        return pictures[0]
    return ComposedQuery(images=pictures, text=body.query or "")


def describe_results(
    results: list[Hit] | list[Moment], options: SearchOptions | LocateOptions, started: float
) -> dict[str, Any]:
    """Return the facts about results: the next page, if this one is full, whether all are weak, and the time taken."""
    return {
        "next_offset": options.offset + options.k if len(results) == options.k else None,
        "weak": bool(results) and all(result.weak for result in results),
        "took_ms": milliseconds_since(started),
    }


def milliseconds_since(started: float) -> float:
    """Return the time since ``started``, a value of ``time.perf_counter``."""
    return round(1000 * (time.perf_counter() - started), 2)
