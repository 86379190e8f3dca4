"""The route that cuts a span out of a video."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.present.cutting import cut_moments
from vidret.serve import fields
from vidret.serve.files import RELINKED
from vidret.serve.media import BYTES, VideoId, open_local_video
from vidret.serve.problems import RefusedError, Responses, refusals
from vidret.serve.rows import title
from vidret.types import Moment

MAX_CLIP_S = 600.0
CLIP: Responses = {200: {"description": "The clip.", "content": {"video/mp4": BYTES}}}


def clip_routes(engine: Engine) -> APIRouter:
    """Return the route ``/api/videos/{id}/clip``. One clip is cut at a time; further requests wait."""
    router = APIRouter(prefix="/api", tags=["media"], responses=refusals(404))
    turn = asyncio.Lock()

    @router.get("/videos/{id}/clip", response_class=FileResponse, responses=CLIP)
    async def cut_clip(
        video_id: VideoId,
        start: Annotated[fields.Seconds, Query(description="Start of the clip in seconds.", examples=[3.0])],
        end: Annotated[
            fields.Seconds, Query(description=f"Its end, at most {MAX_CLIP_S:.0f} s later.", examples=[8.0])
        ],
    ) -> FileResponse:
        """Return a span of a video as an MP4 file (H.264, AAC) that is exact to the frame."""
        if not start < end <= start + MAX_CLIP_S:
            raise RefusedError(422, f"end must be at most {MAX_CLIP_S:.0f} s after start, {start:g}, got {end:g}")
        async with turn:
            clip = await run_in_threadpool(cut_span, engine, video_id, start, end)
        remove = BackgroundTask(shutil.rmtree, clip.parent, ignore_errors=True)
        name = f"{title(clip.name.removeprefix('01_'))}.mp4"
        return FileResponse(clip, media_type="video/mp4", filename=name, background=remove)

    return router


def cut_span(engine: Engine, video_id: int, start: float, end: float) -> Path:
    """Cut a span of a video into a file in a new temporary folder, which the caller removes.

    Raises:
        RefusedError: There is no such video, or its file is not one that may be sent.
        VidretError: ffmpeg is missing or fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="vidret-clip-"))
    try:
        path, file = open_local_video(engine, video_id, purpose="cuts")
        with file:  # ffmpeg opens it again by its path, which must still lead to it afterwards
            moment = Moment(video=video_id, path=path, start=start, end=end, score=0.0, weak=False, by="request")
            clip = cut_moments([moment], folder)[0]
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # noqa: PTH116
                raise DecodeError(path, RELINKED)
    except DecodeError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RefusedError(404, str(error)) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return clip
