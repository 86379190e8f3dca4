"""The route that cuts a span out of a video."""

import asyncio
import tempfile
import threading
from pathlib import Path
from time import monotonic
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from vidret.engine import Engine
from vidret.present.cutting import cut_moment, name_clips
from vidret.present.ffmpeg import POLL_S, Limits, find_ffmpeg
from vidret.serve import fields
from vidret.serve.files import OpenFileResponse
from vidret.serve.media import BYTES, VideoId, open_local_video
from vidret.serve.problems import RefusedError, Responses, refusals
from vidret.serve.rows import title
from vidret.types import Moment

MAX_CLIP_S = 600.0
MAX_PENDING = 8  # clips that are cut or wait
LIMITS = Limits(out_bytes=1 << 30, time_s=300.0)
CLIP: Responses = {200: {"description": "The clip.", "content": {"video/mp4": BYTES}}}


def clip_routes(engine: Engine, *, timeout: float) -> APIRouter:
    """Return the route ``/api/videos/{id}/clip``; ``timeout`` is how long a request waits for others, in seconds."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))
    cutter = ClipCutter(engine, timeout)

    @router.get("/videos/{id}/clip", response_class=FileResponse, responses=CLIP)
    async def cut_clip(
        request: Request,
        video_id: VideoId,
        start: Annotated[fields.Seconds, Query(description="Start of the clip in seconds.", examples=[3.0])],
        end: Annotated[
            fields.Seconds, Query(description=f"Its end, at most {MAX_CLIP_S:.0f} s later.", examples=[8.0])
        ],
    ) -> FileResponse:
        """Return a span of a video as an MP4 file (H.264, AAC) that is exact to the frame."""
        if not start < end <= start + MAX_CLIP_S:
            raise RefusedError(422, f"end must be at most {MAX_CLIP_S:.0f} s after start, {start:g}, got {end:g}")
        is_left = threading.Event()
        leaving = asyncio.ensure_future(note_leaving(request, is_left))
        try:
            clip = await run_in_threadpool(cutter.cut, video_id, start, end, is_left)
        finally:
            is_left.set()  # the server may be shutting down
            leaving.cancel()
        return OpenFileResponse(clip, "video/mp4", filename=f"{title(clip.name).removeprefix('01_')}.mp4")

    return router


async def note_leaving(request: Request, is_left: threading.Event) -> None:
    """Set an event once the client of a request has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    is_left.set()


class ClipCutter:
    """Cuts one clip at a time; a few further requests wait."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        """Set the maximum time that a request waits for its turn."""
        self._engine, self._timeout_s = engine, timeout_s
        self._free = threading.BoundedSemaphore(MAX_PENDING)
        self._turn = threading.Lock()

    def cut(self, video_id: int, start: float, end: float, is_left: threading.Event) -> BinaryIO:
        """Return a span of a video as an open file that has no path any more.

        Raises:
            RefusedError: There is no such video, its file may not be sent, or too many clips are pending.
            VidretError: ffmpeg is missing or fails, a limit is exceeded, or ``is_left`` was set.
        """
        if not self._free.acquire(blocking=False):
            raise RefusedError(503, f"the server is busy: {MAX_PENDING} clips are pending", {"Retry-After": "5"})
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


def cut_span(engine: Engine, video_id: int, start: float, end: float, is_left: threading.Event) -> BinaryIO:
    """Return a span of a video as an open file that has no path any more. Errors are those of ``ClipCutter.cut``."""
    path, file = open_local_video(engine, video_id, purpose="cuts")
    with file, tempfile.TemporaryDirectory(prefix="vidret-clip-") as folder:
        moment = Moment(video=video_id, path=path, start=start, end=end, score=0.0, weak=False, by="request")
        clip = Path(folder) / name_clips([moment], copy=False)[0]
        cut_moment(moment, file.fileno(), clip, find_ffmpeg(), limits=LIMITS, is_left=is_left.is_set)
        return clip.open("rb")
