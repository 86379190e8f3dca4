"""Routes to search for videos and to locate moments."""

import time
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, model_validator

from vidret.engine import Engine
from vidret.serve.fields import (
    Count,
    EncodedImage,
    Id,
    ImageReader,
    QueryText,
    Seconds,
    collect_options,
    with_options,
    with_rows_of,
)
from vidret.serve.problems import refusals
from vidret.serve.rights import READ
from vidret.serve.rows import HitRow, InterpretationRow, LinkedRow, MomentRow, hit_rows, interpretation_row, write_row
from vidret.serve.worker import Worker
from vidret.types import (
    MAX_EVENTS,
    MAX_OFFSET,
    ComposedQuery,
    Filters,
    Hit,
    LocateOptions,
    Moment,
    Query,
    SearchOptions,
    Sequence,
    SharedFootage,
)

MAX_IMAGES = 8  # in one query


class QueryRequest(BaseModel, extra="forbid"):
    """Text, events in order, images, or images with text."""

    query: QueryText | None = Field(
        None,
        description='Text to search for; -word and -"some words" exclude, up to 16 times; @name stands for a taught '
        "concept or a person.",
    )
    events: list[QueryText | list[QueryText]] | None = Field(
        None,
        min_length=1,
        max_length=MAX_EVENTS,
        description="Events that follow one another, in place of query. An inner list holds events that happen at the "
        "same time.",
    )
    gap: Seconds | None = Field(None, description="Maximum seconds between two events; null for any.")
    image: EncodedImage | Annotated[list[EncodedImage], Field(min_length=1, max_length=MAX_IMAGES)] | None = Field(
        None, description=f"One image or up to {MAX_IMAGES} that results should resemble; may be combined with query."
    )

    verbatim: bool = Field(
        False,
        description="Whether the encoder reads the events, or the text beside an image, exactly as written, as papers "
        "encode benchmarks. Otherwise quotes mark words to match literally, and -word excludes.",
    )

    @model_validator(mode="after")
    def check_one(self) -> "QueryRequest":
        """Refuse a request without a query or with two; text may be combined with images."""
        has_query, is_liked = self.query is not None or self.image is not None, bool(getattr(self, "like", ()))
        if (self.events is None) == (not has_query) and not (is_liked and not has_query):
            raise ValueError("query, image, both, or only events must be given")
        if self.gap is not None and self.events is None:
            raise ValueError("gap must come with events")
        if self.verbatim and self.events is None and self.image is None:
            raise ValueError("verbatim must come with events or an image")
        return self


@with_options(SearchOptions)
class SearchRequest(QueryRequest, json_schema_extra={"examples": [{"query": "a dog -beach", "k": 12}]}):
    """A search for videos; ``query`` may be left out if ``like`` is given."""


@with_options(LocateOptions)
class LocateRequest(QueryRequest, json_schema_extra={"examples": [{"query": "somebody opens a door", "k": 5}]}):
    """A search for moments."""

    video: Id | None = Field(None, description="Id of the only video to look in; default: the best videos.")


@with_options(Filters)
class FootageRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"video": 1, "start": 3, "end": 8}]}):
    """A span of a video, the clip, whose footage to find in other videos or elsewhere in this one."""

    video: Id
    start: Seconds | None = Field(None, description="Start of the clip in seconds; default: start of the video.")
    end: Seconds | None = Field(None, description="End of the clip in seconds; default: end of the video.")
    k: Count = Field(10, ge=1, le=50, description="Maximum number of results.")
    within: Id | None = Field(None, description="Id of the only video to look in; default: all.")
    repeated: bool = Field(False, description="Find all spans of each video, not only the best.")


@with_rows_of(SharedFootage)
class FootageRow(LinkedRow):
    """A span of a video that shows the same footage."""


class FootageAnswer(BaseModel):
    """Spans that show the same footage, best first."""

    took_ms: float = Field(description="Duration of the request in milliseconds.", examples=[850.5])
    found: list[FootageRow]


class FoundAnswer(BaseModel):
    """The base of search answers: all fields but the results."""

    query: str | None = Field(description="The query of the request; null without text.", examples=["a dog -beach"])
    interpretation: InterpretationRow | None = Field(description="null for an image, or without a query.")
    next_offset: int | None = Field(description="The offset of the next page; null on the last that offset allows.")
    weak: bool = Field(
        description="Whether all results of this page are weak; on the first page: nothing matches well."
    )
    notes: list[str] = Field(description="Notes for the user, such as that no video has the requested sound.")
    took_ms: float = Field(description="Duration of the request in milliseconds.", examples=[21.5])


class SearchAnswer(FoundAnswer):
    """Videos, best first."""

    hits: list[HitRow]


class LocateAnswer(FoundAnswer):
    """Moments, best first."""

    moments: list[MomentRow]


def search_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the routes ``/api/search``, ``/api/locate`` and ``/api/footage``."""
    router = APIRouter(prefix="/api", tags=["search"], dependencies=[READ], responses=refusals(400, 403, 413))

    @router.post("/search")
    async def search(body: SearchRequest) -> SearchAnswer:
        """Find the videos that match a query."""
        started = time.perf_counter()
        query, options = await decode_query(body, images), collect_options(body, SearchOptions)
        hits = await worker.search(query, options)
        rows = await run_in_threadpool(hit_rows, engine, hits)
        understood = await run_in_threadpool(interpretation_row, engine, query, options.sources)
        notes = await run_in_threadpool(engine.list_search_notes, query, options)
        facts = describe_results(hits, options, started)
        return SearchAnswer(query=body.query, interpretation=understood, hits=rows, notes=notes, **facts)

    @router.post("/locate", responses=refusals(404))
    async def locate(body: LocateRequest) -> LocateAnswer:
        """Find the moments that match a query, in one video or in all."""
        started = time.perf_counter()
        query, options = await decode_query(body, images), collect_options(body, LocateOptions)
        if body.video is not None:
            await run_in_threadpool(engine.video, body.video)
        moments = await worker.call(lambda engine: engine.locate_with(query, options, video=body.video))
        understood = await run_in_threadpool(interpretation_row, engine, query, options.sources)
        notes = await run_in_threadpool(engine.list_search_notes, query, options)
        rows = [write_row(MomentRow, moment) for moment in moments]
        facts = describe_results(moments, options, started)
        return LocateAnswer(query=body.query, interpretation=understood, moments=rows, notes=notes, **facts)

    _add_footage_route(router, engine, worker)
    return router


def _add_footage_route(router: APIRouter, engine: Engine, worker: Worker) -> None:
    @router.post("/footage", responses=refusals(404))
    async def find_footage(body: FootageRequest) -> FootageAnswer:
        """Find where videos show the same footage as a span of a video."""
        started = time.perf_counter()
        for video_id in (body.video, body.within):
            if video_id is not None:
                await run_in_threadpool(engine.video, video_id)
        results = await worker.call(
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
        return FootageAnswer(
            took_ms=milliseconds_since(started), found=[write_row(FootageRow, footage) for footage in results]
        )


async def decode_query(body: QueryRequest, images: ImageReader) -> Query:
    """Return the query of a request, with its images decoded."""
    if body.events is not None:
        return Sequence(body.events, body.gap, body.verbatim)
    if body.image is None:
        return body.query or ""  # ``like`` stands in for an empty query
    encoded = [body.image] if isinstance(body.image, str) else body.image
    pictures = tuple([await images.read(picture) for picture in encoded])
    if body.query is None and len(pictures) == 1:
        return pictures[0]
    return ComposedQuery(images=pictures, text=body.query or "", verbatim=body.verbatim)


def describe_results(
    results: list[Hit] | list[Moment], options: SearchOptions | LocateOptions, started: float
) -> dict[str, Any]:
    """Return facts about results: the offset of the next page if this one is full, whether all are weak, the time."""
    following = options.offset + options.k
    return {
        "next_offset": following if len(results) == options.k and following <= MAX_OFFSET else None,
        "weak": bool(results) and all(result.weak for result in results),
        "took_ms": milliseconds_since(started),
    }


def milliseconds_since(started: float) -> float:
    """Return the time since ``started``, a value of ``time.perf_counter``."""
    return round(1000 * (time.perf_counter() - started), 2)
