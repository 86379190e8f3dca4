"""Routes for thumbnails, video files, and spans that are cut out of videos."""

import asyncio
import mimetypes
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from vidret.engine import Engine
from vidret.errors import DecodeError, OptionError
from vidret.present.cutting import cut_moment, name_clips
from vidret.present.ffmpeg import POLL_S, Limits, find_ffmpeg
from vidret.present.sheet import draw_reason
from vidret.serve import fields
from vidret.serve.files import OpenFileResponse, open_video, stat_video
from vidret.serve.problems import RefusedError, Responses, make_busy, refusals
from vidret.serve.rights import READ, Right, in_moments
from vidret.serve.rows import title
from vidret.serve.thumbnails import Thumbnails
from vidret.store.records import StoredVideo
from vidret.text import sanitize, strip_query
from vidret.types import Moment
from vidret.video.images import encode_jpeg

DEFAULT_WIDTH = 320
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


def media_routes(engine: Engine, thumbnails: Thumbnails) -> APIRouter:
    """Return the routes for frames and files of videos. Paths come from the index only, never from a request."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))
    in_list = Depends(Right("read", within=in_moments(engine, "t", "t")))

    @router.get("/thumbnails/{id}", response_class=Response, responses=FRAME, dependencies=[in_list])
    async def show_frame(
        request: Request,
        video_id: fields.VideoId,
        t: Annotated[fields.Seconds, Query(description="Time of the frame in seconds.", examples=[12.5])] = 0.0,
        w: Annotated[int, Query(ge=32, le=1280, description="Maximum width in pixels.")] = DEFAULT_WIDTH,
    ) -> Response:
        """Return a frame as JPEG, or a grey tile with the reason if there is none."""
        video = await run_in_threadpool(engine.video, video_id)
        # Browsers ask each time: another index that is served here has the same addresses.
        headers = {"Cache-Control": "private, no-cache"}
        try:
            path, status = await thumbnails.ask_disk(stat_video, engine, video)
            thumbnail = await thumbnails.find(path, min(t, video.duration), w, status)
            headers["ETag"] = f'"{thumbnail.key}"'
            if headers["ETag"] in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            content = await thumbnails.draw(thumbnail)
        except DecodeError as error:
            reason = sanitize(" ".join(error.reason.split())).encode("ascii", "replace").decode()
            tile = await run_in_threadpool(draw_missing, error.reason, w)
            return Response(tile, media_type="image/jpeg", headers={"X-Vidret-Reason": reason})
        return Response(content, media_type="image/jpeg", headers=headers)

    @router.get("/videos/{id}/stream", response_class=FileResponse, responses=FILE, dependencies=[READ])
    def send_file(video_id: fields.VideoId) -> FileResponse:
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
    path, status = await thumbnails.ask_disk(stat_video, engine, video)
    return await thumbnails.get(path, min(time_s, video.duration), width, status)


def draw_missing(reason: str, width: int) -> bytes:
    """Return a grey JPEG with the reason why there is no frame."""
    return encode_jpeg(draw_reason(reason, (width, width * 9 // 16)))


def open_local_video(engine: Engine, video_id: int, *, purpose: str) -> tuple[str, BinaryIO]:
    """Return the first readable path of a video with its open file; errors name the ``purpose``, such as "sends"."""
    try:
        path, file = open_video(engine, engine.video(video_id))
    except DecodeError as error:
        raise RefusedError(404, str(error)) from error
    if file is None:
        raise RefusedError(404, f"{strip_query(path)}: is at a URL, and this server {purpose} local files only")
    return path, file


def guess_media_type(path: str) -> str:
    """Return the media type of a video file; other names are plain bytes, which no browser executes."""
    media_type = mimetypes.guess_type(path)[0] or ""
    return media_type if media_type.startswith("video/") else "application/octet-stream"


MAX_CLIP_S = 600.0
MAX_PENDING = 8  # clips in progress or waiting
LIMITS = Limits(out_bytes=1 << 30, time_s=300.0)
CLIP: Responses = {200: {"description": "The clip.", "content": {"video/mp4": BYTES}}}


def clip_routes(engine: Engine, *, timeout: float) -> APIRouter:
    """Return the route ``/api/videos/{id}/clip``; a request waits at most ``timeout`` seconds for others."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))
    cutter = ClipCutter(engine, timeout)
    in_list = Depends(Right("read", within=in_moments(engine, "start", "end")))

    @router.get("/videos/{id}/clip", response_class=FileResponse, responses=CLIP, dependencies=[in_list])
    async def cut_clip(
        request: Request,
        video_id: fields.VideoId,
        start: Annotated[fields.Seconds, Query(description="Start in seconds.", examples=[3.0])],
        end: Annotated[
            fields.Seconds,
            Query(description=f"End in seconds, at most {MAX_CLIP_S:.0f} s after start.", examples=[8.0]),
        ],
    ) -> FileResponse:
        """Return a span of a video as an MP4 file (H.264, AAC) that is exact to the frame."""
        if not start < end <= start + MAX_CLIP_S:
            raise OptionError(f"end must be after start, {start:g}, by at most {MAX_CLIP_S:.0f} s, got {end:g}")
        is_left = threading.Event()
        leaving = asyncio.ensure_future(note_leaving(request, is_left))
        try:
            clip, folder = await run_in_threadpool(cutter.cut, video_id, start, end, is_left)
        finally:
            is_left.set()  # the server may be shutting down
            leaving.cancel()
        return OpenFileResponse(clip, "video/mp4", f"{title(clip.name).removeprefix('01_')}.mp4", folder)

    return router


async def note_leaving(request: Request, is_left: threading.Event) -> None:
    """Set an event once the client of a request has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    is_left.set()


class ClipCutter:
    """Cuts one clip at a time; a few further requests wait."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self._engine, self._timeout_s = engine, timeout_s
        self._free = threading.BoundedSemaphore(MAX_PENDING)
        self._turn = threading.Lock()

    def cut(
        self, video_id: int, start: float, end: float, is_left: threading.Event
    ) -> tuple[BinaryIO, TemporaryDirectory[str]]:
        """Return a span of a video as an open file, and its folder, to be removed once the file is closed.

        Raises:
            RefusedError: There is no such video, its file may not be sent, or too many clips are pending.
            VidretError: ffmpeg is missing or fails, a limit is exceeded, or ``is_left`` was set.
        """
        if not self._free.acquire(blocking=False):
            raise make_busy(f"{MAX_PENDING} clips are pending", 5)
        try:
            self._wait(is_left)
            try:
                return cut_span(self._engine, video_id, start, end, is_left)
            finally:
                self._turn.release()
        finally:
            self._free.release()

    def _wait(self, is_left: threading.Event) -> None:
        deadline = monotonic() + self._timeout_s
        while not self._turn.acquire(timeout=POLL_S):
            if is_left.is_set() or monotonic() > deadline:
                raise RefusedError(503, f"the server did not respond within {self._timeout_s:g} s")


def cut_span(
    engine: Engine, video_id: int, start: float, end: float, is_left: threading.Event
) -> tuple[BinaryIO, TemporaryDirectory[str]]:
    """Cut a span of a video; see ``ClipCutter.cut``."""
    path, file = open_local_video(engine, video_id, purpose="cuts")
    folder = TemporaryDirectory(prefix="vidret-clip-")
    try:
        with file:
            moment = Moment(video=video_id, path=path, start=start, end=end, score=0.0, weak=False, by="request")
            clip = Path(folder.name) / name_clips([moment])[0]
            cut_moment(moment, file, clip, find_ffmpeg(), limits=LIMITS, is_left=is_left.is_set)
        return clip.open("rb"), folder
    except BaseException:
        folder.cleanup()
        raise
