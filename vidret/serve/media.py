"""What there is to look at: thumbnails, and the files themselves."""

import mimetypes
import os
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.serve import schemas
from vidret.serve.files import OpenFileResponse, open_video
from vidret.serve.problems import Described, RefusedError, refusals
from vidret.serve.rows import find_video
from vidret.serve.thumbnails import Thumbnails, draw_reason
from vidret.text import sanitize, strip_query

WIDTH = 320
KEEP = "private, max-age=3600"

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_RANGE = {"text/plain": {"schema": {"type": "string"}}}
FRAME: Described = {
    200: {
        "content": {"image/jpeg": _BYTES},
        "headers": {"X-Vidret-Reason": {"description": "Why the tile is grey.", "schema": {"type": "string"}}},
    }
}
FILE: Described = {
    200: {"description": "The file.", "content": {"*/*": _BYTES}},
    206: {"description": "Ranges of it.", "content": {"*/*": _BYTES}},
    400: {"description": "The range is malformed.", "content": _RANGE},
    416: {"description": "The range lies beyond the file.", "content": _RANGE},
}

VideoId = Annotated[schemas.Id, Path(alias="id")]


def media_routes(engine: Engine, thumbnails: Thumbnails) -> APIRouter:
    """Make the routes that give bytes of videos; files are named by the index, never by a request."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))

    @router.get("/thumbnails/{id}", response_class=Response, responses=FRAME)
    async def show_frame(
        number: VideoId,
        t: Annotated[schemas.Seconds, Query(description="The time of the frame.", examples=[12.5])] = 0.0,
        w: Annotated[int, Query(ge=32, le=1280, description="The width, at most.")] = WIDTH,
    ) -> Response:
        """Show a frame; where there is none a grey tile, and why."""
        video = await run_in_threadpool(find_video, engine, number)
        try:
            path, file = await run_in_threadpool(open_video, engine, video)
            about = None
            if file is not None:
                with file:  # it is decoded elsewhere
                    about = os.fstat(file.fileno())
            content = await thumbnails.get(path, min(t, video.duration), w, about)
        except DecodeError as error:
            reason = sanitize(" ".join(error.reason.split())).encode("ascii", "replace").decode()
            tile = await run_in_threadpool(draw_reason, error.reason, w)
            return Response(tile, media_type="image/jpeg", headers={"X-Vidret-Reason": reason})
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": KEEP})

    @router.head("/videos/{id}/stream", include_in_schema=False)
    @router.get("/videos/{id}/stream", response_class=FileResponse, responses=FILE)
    def send_file(number: VideoId) -> FileResponse:
        """Send a video's file, or the ranges of it that are asked for."""
        try:
            path, file = open_video(engine, find_video(engine, number))
        except DecodeError as error:
            raise RefusedError(404, str(error)) from error
        if file is None:
            raise RefusedError(404, f"{strip_query(path)}: lies at an address, and this server plays files here only")
        return OpenFileResponse(file, guess_kind(path))

    return router


def guess_kind(path: str) -> str:
    """Name the kind of a file for a player: what is called no video is given as bytes, which no browser runs."""
    kind = mimetypes.guess_type(path)[0] or ""
    return kind if kind.startswith("video/") else "application/octet-stream"
