"""Routes for thumbnails and video files."""

import mimetypes
import os
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.serve import fields
from vidret.serve.files import OpenFileResponse, open_video
from vidret.serve.problems import RefusedError, Responses, refusals
from vidret.serve.rows import find_video
from vidret.serve.thumbnails import Thumbnails, draw_reason
from vidret.store.records import StoredVideo
from vidret.text import sanitize, strip_query

DEFAULT_WIDTH = 320
CACHED = "private, max-age=3600"

BYTES = {"schema": {"type": "string", "format": "binary"}}
_RANGE = {"text/plain": {"schema": {"type": "string"}}}
FRAME: Responses = {
    200: {
        "content": {"image/jpeg": BYTES},
        "headers": {"X-Vidret-Reason": {"description": "Why there is no frame.", "schema": {"type": "string"}}},
    }
}
FILE: Responses = {
    200: {"description": "The file.", "content": {"*/*": BYTES}},
    206: {"description": "Ranges of the file.", "content": {"*/*": BYTES}},
    400: {"description": "The range is malformed.", "content": _RANGE},
    416: {"description": "The range is outside the file.", "content": _RANGE},
}

VideoId = Annotated[fields.Id, Path(alias="id")]


def media_routes(engine: Engine, thumbnails: Thumbnails) -> APIRouter:
    """Return the routes for frames and files of videos. Paths come from the index only, never from a request."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))

    @router.get("/thumbnails/{id}", response_class=Response, responses=FRAME)
    async def show_frame(
        video_id: VideoId,
        t: Annotated[fields.Seconds, Query(description="Time of the frame in seconds.", examples=[12.5])] = 0.0,
        w: Annotated[int, Query(ge=32, le=1280, description="Maximum width in pixels.")] = DEFAULT_WIDTH,
    ) -> Response:
        """Return a frame as JPEG, or a grey tile with the reason if there is none."""
        video = await run_in_threadpool(find_video, engine, video_id)
        try:
            content = await draw_video(engine, thumbnails, video, t, w)
        except DecodeError as error:
            reason = sanitize(" ".join(error.reason.split())).encode("ascii", "replace").decode()
            tile = await run_in_threadpool(draw_reason, error.reason, w)
            return Response(tile, media_type="image/jpeg", headers={"X-Vidret-Reason": reason})
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": CACHED})

    @router.head("/videos/{id}/stream", include_in_schema=False)
    @router.get("/videos/{id}/stream", response_class=FileResponse, responses=FILE)
    def send_file(video_id: VideoId) -> FileResponse:
        """Return the file of a video, or the requested ranges of it."""
        path, file = open_local_video(engine, video_id, purpose="sends")
        return OpenFileResponse(file, guess_media_type(path))

    return router


async def draw_video(engine: Engine, thumbnails: Thumbnails, video: StoredVideo, time_s: float, width: int) -> bytes:
    """Return a JPEG of the frame of a video nearest to a time, at most ``width`` pixels wide.

    Raises:
        DecodeError: The frame cannot be decoded.
        RefusedError: Too many frames are pending.
    """
    path, file = await run_in_threadpool(open_video, engine, video)
    status = None
    if file is not None:
        with file:  # another process opens it again to decode it
            status = os.fstat(file.fileno())
    return await thumbnails.get(path, min(time_s, video.duration), width, status)


def open_local_video(engine: Engine, video_id: int, *, purpose: str) -> tuple[str, BinaryIO]:
    """Return the first readable path of a video with its open file; ``purpose`` says what the server does with it.

    Raises:
        RefusedError: There is no such video, no path can be read, or it is at a URL.
    """
    try:
        path, file = open_video(engine, find_video(engine, video_id))
    except DecodeError as error:
        raise RefusedError(404, str(error)) from error
    if file is None:
        raise RefusedError(404, f"{strip_query(path)}: is at a URL, and this server {purpose} local files only")
    return path, file


def guess_media_type(path: str) -> str:
    """Return the media type of a video file; other names are plain bytes, which no browser executes."""
    media_type = mimetypes.guess_type(path)[0] or ""
    return media_type if media_type.startswith("video/") else "application/octet-stream"
