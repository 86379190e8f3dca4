"""Routes for saved searches and lists of moments, and their export."""

import asyncio
import json
import logging
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError

from vidret.engine import Engine
from vidret.errors import DecodeError, OptionError, StoreError, VidretError
from vidret.present.editors import TIMELINES
from vidret.present.export import FORMATS
from vidret.present.html import POLICY
from vidret.search.collections import MAX_MOMENTS, MAX_NOTE
from vidret.serve.fields import Id, Seconds, collect_options, with_rows_of
from vidret.serve.files import stat_video
from vidret.serve.problems import RefusedError, Responses, describe_invalid, make_busy, refusals
from vidret.serve.rights import CHANGE, GRANT, READ, Right
from vidret.serve.routes.search import LocateRequest, SearchRequest
from vidret.serve.rows import write_row
from vidret.serve.worker import Worker
from vidret.store.tokens import RIGHTS, StoredToken
from vidret.text import format_count, sanitize
from vidret.types import OPTIONS, ListedMoment, Moment, SavedCollection, as_moments, to_row
from vidret.video.workers.process import make_command

logger = logging.getLogger(__name__)
REQUESTS: dict[str, type[BaseModel]] = {"videos": SearchRequest, "moments": LocateRequest}
Name = Annotated[str, Path(min_length=1, max_length=64, examples=["highlights"])]
MEDIA_TYPES = {"json": "application/json", "csv": "text/csv", "html": "text/html", "fcpxml": "application/xml"}
SUFFIXES = {"chapters": "ffmeta", "markers": "edl"}
TEXT = {"schema": {"type": "string"}}
ROWS = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
FILE: Responses = {200: {"content": dict.fromkeys(("text/plain", *MEDIA_TYPES.values()), TEXT) | ROWS}}
OWN, CHANGE_OWN = (
    Depends(Right(right, within=lambda request, name: bool(request.path_params["name"] == name))) for right in RIGHTS
)
CLIP_URL = "../../videos/{video}/clip?start={start:.3f}&end={end:.3f}"
EXPORT_S = 120.0
READING = (*TIMELINES, "html")  # formats that need the video files
# Reads the videos, which may be malicious, in a separate process.
EXPORT = """
import json, sys
from vidret.present.export import format_moments
from vidret.types import Moment, from_row
asked = json.load(sys.stdin)
text = format_moments([from_row(Moment, row) for row in asked.pop("moments")], **asked)
sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
"""


PICKED = {"video": 1, "start": 3, "end": 8}


class PickedRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [PICKED]}):
    """A moment to add to a list."""

    video: Id
    start: Seconds
    end: Seconds
    note: str = Field("", max_length=MAX_NOTE, description="A note for the user.")


class AddRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"moments": [PICKED]}]}):
    """Moments to add to a list."""

    moments: list[PickedRequest] = Field(max_length=MAX_MOMENTS)


class ListedRequest(PickedRequest):
    """A moment of a list: of a video of the index, or of a removed one, which is named by its content."""

    video: Id | None = None  # type: ignore[assignment]
    content: str = Field("", max_length=200, description="Fingerprint of the content, if the video was removed.")


SAVED = {"finds": "videos", "query": "a dog", "options": {"k": 20}}


class CollectionRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [SAVED]}):
    """The new state of a collection: a saved search with its query and options, or a list with its moments."""

    finds: Literal["", "videos", "moments"] = Field("", description="What a saved search finds; empty for a list.")
    query: str = Field("", description="Text of a saved search; empty for a list.")
    options: dict[str, Any] = Field({}, description="Options of a saved search: fields of /api/search or /api/locate.")
    moments: list[ListedRequest] = Field([], max_length=MAX_MOMENTS, description="Moments of a list, in its order.")
    revision: int = Field(0, ge=0, description="Revision of the collection to replace; 0 for a new one.")


@with_rows_of(SavedCollection)
class CollectionRow(BaseModel):
    """A saved search or a list of moments."""


class CollectionsAnswer(BaseModel):
    """The collections, by name."""

    collections: list[CollectionRow]


def collection_routes(engine: Engine, worker: Worker, *, timeout: float) -> APIRouter:
    """Return the routes under ``/api/collections``; an export waits at most ``timeout`` seconds for others."""
    router = APIRouter(prefix="/api/collections", tags=["collections"])
    exporting = asyncio.Semaphore(1)

    @router.get("", dependencies=[READ])
    def list_kept() -> CollectionsAnswer:
        """List the saved searches and the lists of moments."""
        return CollectionsAnswer(
            collections=[write_row(CollectionRow, collection) for collection in engine.collections()]
        )

    @router.get("/{name}", responses=refusals(404), dependencies=[OWN])
    def show(name: Name) -> CollectionRow:
        """Return a saved search, or a list with its moments."""
        return write_row(CollectionRow, engine.collection(name))

    @router.put("/{name}", responses=refusals(400, 403, 404, 409, 413), dependencies=[CHANGE_OWN])
    def save(request: Request, name: Name, body: CollectionRequest) -> CollectionRow:
        """Store a saved search or a list, in place of the given revision."""
        saved = read_collection(engine, name, body)
        check_shown(engine, request.scope[GRANT], saved)
        return write_row(CollectionRow, engine.save_collection(saved))

    @router.post("/{name}/moments", responses=refusals(400, 403, 404, 413), dependencies=[CHANGE_OWN])
    def add(request: Request, name: Name, body: AddRequest) -> CollectionRow:
        """Add moments to the end of a list, which is created if needed."""
        added = SavedCollection(name=name, moments=tuple(read_moment(engine, moment) for moment in body.moments))
        check_shown(engine, request.scope[GRANT], added)
        return write_row(CollectionRow, engine.add_to_list(name, added.list_moments()))

    @router.delete("/{name}", responses=refusals(403, 404), dependencies=[CHANGE])
    def remove(name: Name) -> CollectionsAnswer:
        """Remove a saved search or a list, and list the remaining ones; videos stay."""
        engine.remove_collection(name)
        return list_kept()

    @router.get("/{name}/export", response_class=Response, responses=FILE | refusals(404), dependencies=[OWN])
    async def export(
        request: Request,
        name: Name,
        form: Annotated[Literal[FORMATS], Query(alias="format", description="File format.")],  # type: ignore[valid-type]
        fps: Annotated[
            float | None, Query(gt=0, le=1000, description="Frame rate of a timeline; default: that of most moments.")
        ] = None,
        handles: Annotated[
            float, Query(ge=0, le=3600, description="Seconds before and after each moment in a timeline.")
        ] = 0.0,
    ) -> Response:
        """Return the current contents of a collection as a file or a page; a saved search is run again."""
        collection = await run_in_threadpool(engine.collection, name)
        moments = as_moments(await worker.call(lambda engine: engine.collect(name)))
        clip_url = CLIP_URL if request.scope[GRANT].collection and not collection.finds else ""
        asked = {"form": form, "query": name, "fps": fps, "handles_s": handles, "clip_url": clip_url}
        asked |= {"first_rank": collection.read_options().offset + 1} if collection.finds else {}
        try:
            async with asyncio.timeout(timeout):
                await exporting.acquire()
        except TimeoutError:
            raise make_busy("it exports other collections", 2) from None
        try:
            text = await run_in_threadpool(export_apart, engine, moments, asked)
        finally:
            exporting.release()
        file = quote(f"{name}.{SUFFIXES.get(form, form)}", safe="")
        disposition = "inline" if form == "html" else "attachment"
        headers = {"Content-Disposition": f"{disposition}; filename*=UTF-8''{file}"}
        headers |= {"Content-Security-Policy": POLICY} if form == "html" else {}
        return Response(text, media_type=MEDIA_TYPES.get(form, "text/plain"), headers=headers)

    return router


def read_collection(engine: Engine, name: str, body: CollectionRequest) -> SavedCollection:
    """Return the collection of a request.

    Raises:
        NotFoundError: The video of a moment is not in the index.
        OptionError: An option of the search is invalid.
    """
    if not body.finds:
        moments = tuple(read_moment(engine, moment) for moment in body.moments)
        return SavedCollection(name=name, moments=moments, revision=body.revision)
    try:
        asked = REQUESTS[body.finds].model_validate({"query": body.query, **body.options})
    except ValidationError as error:
        raise OptionError(describe_invalid(error.errors(), within=0)) from None
    options: Any = collect_options(asked, OPTIONS[body.finds])
    return replace(SavedCollection.of_search(name, body.query, options), revision=body.revision)


def read_moment(engine: Engine, asked: PickedRequest) -> ListedMoment:
    """Return the moment of a request. Its video must be in the index, unless the request names it by content."""
    path = "" if asked.video is None else engine.video(asked.video).paths[0]
    return ListedMoment(path=path, **{"content": "", **asked.model_dump()})


def check_shown(engine: Engine, grant: StoredToken, asked: SavedCollection) -> None:
    """Check that a token for one collection stores only parts of moments that the collection shows already.

    Raises:
        RefusedError: It stores others, by which the token would reach all of the index.
    """
    if not grant.collection:
        return
    shown: dict[int | str | None, list[ListedMoment]] = {}
    for listed in (moment for kept in engine.collections() if kept.name == asked.name for moment in kept.moments):
        for key in (listed.video, listed.content):
            shown.setdefault(key, []).append(listed)
    is_part = all(
        any(
            shown_moment.start <= moment.start and moment.end <= shown_moment.end
            for shown_moment in shown.get(moment.content if moment.video is None else moment.video, [])
        )
        for moment in asked.moments
    )
    if asked.finds or not is_part:
        raise RefusedError(403, f"the token of {grant.name} may not add to {asked.name}")


def export_apart(engine: Engine, moments: Sequence[Moment], asked: dict[str, Any]) -> bytes:
    """Return moments in the requested format; if it needs the video files, moments of unreadable ones are left out.

    Raises:
        VidretError: The format cannot represent these moments, or it takes too long.
    """
    shown = [moment for moment in moments if asked["form"] not in READING or may_read(engine, moment.video)]
    if missing := len(moments) - len(shown):
        left_out = format_count(missing, "moment")
        logger.warning("%s: %s left out of the export, whose files may not be read now", asked["query"], left_out)
    rows = [to_row(moment, "json", str) for moment in shown]
    document = json.dumps({"moments": rows, **asked}).encode()
    try:
        done = subprocess.run(make_command(EXPORT), input=document, capture_output=True, timeout=EXPORT_S, check=False)
    except subprocess.TimeoutExpired:
        raise VidretError(f"the export takes longer than {EXPORT_S:g} s") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise VidretError(sanitize(reason.partition(": ")[2] or reason))
    return done.stdout


def may_read(engine: Engine, video_id: int) -> bool:
    """Return whether the file of a video may be read; see ``open_video``."""
    try:
        stat_video(engine, engine.video(video_id))
    except (DecodeError, StoreError):
        return False
    return True
