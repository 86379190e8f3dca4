"""Searching for videos and for moments."""

import time

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from vidret.engine import Engine
from vidret.serve.pictures import PictureReader
from vidret.serve.problems import refusals
from vidret.serve.rows import find_video, hit_rows, moment_row
from vidret.serve.schemas import LocateAnswer, LocateRequest, QueryRequest, SearchAnswer, SearchRequest
from vidret.serve.worker import Worker
from vidret.types import Query, SearchOptions


def search_routes(engine: Engine, worker: Worker, pictures: PictureReader) -> APIRouter:
    """Make the routes under ``/api`` that search."""
    router = APIRouter(prefix="/api", tags=["search"], responses=refusals(400, 403, 413))

    async def read_query(asked: QueryRequest) -> Query:
        if asked.image is not None:
            return await pictures.read(asked.image)
        assert asked.query is not None
        return asked.query

    @router.post("/search")
    async def search(asked: SearchRequest) -> SearchAnswer:
        """Find the videos that answer a query."""
        started = time.perf_counter()
        query = await read_query(asked)
        options = SearchOptions(k=asked.k, rerank=asked.rerank, filters=asked.filters())
        hits = await worker.search(query, options)
        rows = await run_in_threadpool(hit_rows, engine, hits)
        weak = bool(rows) and all(row.weak for row in rows)
        return SearchAnswer(query=asked.query, weak=weak, took_ms=milliseconds_since(started), hits=rows)

    @router.post("/locate", responses=refusals(404))
    async def locate(asked: LocateRequest) -> LocateAnswer:
        """Find the moments that answer a query, in one video or in all."""
        started = time.perf_counter()
        query, filters = await read_query(asked), asked.filters()
        if asked.video is not None:
            await run_in_threadpool(find_video, engine, asked.video)
        moments = await worker.ask(
            lambda engine: engine.locate(
                query,
                asked.k,
                video=asked.video,
                videos=asked.videos,
                filters=filters,
                overlapping=asked.overlapping,
                weak=asked.weak,
            )
        )
        rows = [moment_row(moment) for moment in moments]
        weak = bool(rows) and all(row.weak for row in rows)
        return LocateAnswer(query=asked.query, weak=weak, took_ms=milliseconds_since(started), moments=rows)

    return router


def milliseconds_since(started: float) -> float:
    """Give the time since a moment of ``time.perf_counter``."""
    return round(1000 * (time.perf_counter() - started), 2)
