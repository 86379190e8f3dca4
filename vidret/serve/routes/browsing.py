"""Routes to browse an index without a query: facets, kinds of segments, a map of moments, and unusual videos."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from vidret.engine import Engine
from vidret.serve.fields import MAX_PATH_LENGTH, collect_options, with_options, with_rows_of
from vidret.serve.rights import READ
from vidret.serve.rows import LinkedRow, VideoRow, video_row, write_row
from vidret.serve.worker import Worker
from vidret.store.lookup import Facets
from vidret.types import Filters, KindOfVideo, MappedMoment


@with_options(Filters)
class FacetsRequest(BaseModel, extra="forbid"):
    """The videos to count."""

    utc_offset: int = Field(
        0, ge=-86400, le=86400, description="Time zone of the days, in seconds east of UTC, such as 3600."
    )


@with_options(Filters)
class BrowseRequest(BaseModel, extra="forbid"):
    """The videos to browse."""


@with_options(Filters)
class UnusualRequest(BaseModel, extra="forbid"):
    """The videos among which to look for unusual ones."""

    against: str | None = Field(
        None, max_length=MAX_PATH_LENGTH, description="Folder of the videos to compare with; default: all others."
    )
    k: int = Field(24, ge=1, le=200, description="Maximum number of videos.")


@with_rows_of(Facets)
class FacetsAnswer(BaseModel):
    """Numbers of videos that pass the filters, by property; those of a property ignore the filter by it."""


@with_rows_of(KindOfVideo)
class KindRow(LinkedRow):
    """A kind of content, shown by a typical moment."""


@with_rows_of(MappedMoment)
class MappedRow(BaseModel):
    """A moment on the map."""


class KindsAnswer(BaseModel):
    """Kinds, the most frequent first."""

    kinds: list[KindRow]


class MapAnswer(BaseModel):
    """The moments of a map, on which similar ones are near each other."""

    moments: list[MappedRow]


class UnusualAnswer(BaseModel):
    """Unusual videos, the most unusual first."""

    videos: list[VideoRow]


def browsing_routes(engine: Engine, worker: Worker) -> APIRouter:
    """Return the routes ``/api/facets``, ``/api/kinds``, ``/api/map`` and ``/api/unusual``."""
    router = APIRouter(prefix="/api", tags=["browse"], dependencies=[READ])

    @router.get("/facets")
    def count_facets(request: Annotated[FacetsRequest, Query()]) -> FacetsAnswer:
        """Count the videos by each property that can be filtered by."""
        facets = engine.facets(collect_options(request, Filters), utc_offset_s=request.utc_offset)
        return write_row(FacetsAnswer, facets)

    @router.get("/kinds")
    async def list_kinds(request: Annotated[BrowseRequest, Query()]) -> KindsAnswer:
        """List what the videos show, each kind by a typical moment."""
        filters = collect_options(request, Filters)
        kinds = await worker.call(lambda engine: engine.explorer.list_kinds(filters))
        return KindsAnswer(kinds=[write_row(KindRow, kind) for kind in kinds])

    @router.get("/map")
    async def draw_map(request: Annotated[BrowseRequest, Query()]) -> MapAnswer:
        """Place moments on a map."""
        filters = collect_options(request, Filters)
        moments = await worker.call(lambda engine: engine.explorer.draw_map(filters))
        return MapAnswer(moments=[write_row(MappedRow, moment) for moment in moments])

    @router.get("/unusual")
    async def list_unusual(request: Annotated[UnusualRequest, Query()]) -> UnusualAnswer:
        """List the videos that are least like the others."""
        filters, against = collect_options(request, Filters), Filters(folder=request.against)
        unusual_videos = await worker.call(lambda engine: engine.explorer.list_unusual(filters, against, request.k))
        return UnusualAnswer(videos=[video_row(engine.video(unusual.video)) for unusual in unusual_videos])

    return router
