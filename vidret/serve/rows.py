"""From what the engine gives to the rows of answers."""

import dataclasses
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.serve.problems import RefusedError
from vidret.serve.schemas import HitRow, MomentRow, VideoRow
from vidret.store.records import StoredVideo
from vidret.text import file_name, is_url, sanitize
from vidret.types import Hit, Moment


def find_video(engine: Engine, number: int) -> StoredVideo:
    """Look up a video.

    Raises:
        RefusedError: There is none of this id.
    """
    try:
        return engine.video(number)
    except StoreError as error:
        raise RefusedError(404, str(error)) from error


def find_file(video: StoredVideo) -> str | None:
    """Give the first path of a video that is there, as an address always seems; None when its file is gone."""
    return next((path for path in video.paths if is_url(path) or os.path.isfile(path)), None)  # noqa: PTH113


def hit_rows(engine: Engine, hits: Sequence[Hit]) -> list[HitRow]:
    """Make the rows of a search; a video that was forgotten since is left out."""
    rows = []
    for hit in hits:
        try:
            duration = engine.video(hit.video).duration
        except StoreError:
            continue
        rows.append(
            HitRow(
                video=hit.video,
                path=sanitize(hit.path),
                title=title(hit.path),
                duration=duration,
                segment=hit.segment.number,
                start=hit.segment.start,
                end=hit.segment.end,
                time=hit.time,
                score=hit.score,
                weak=hit.weak,
                copies=[sanitize(path) for path in hit.copies],
                why=hit.why,
                thumbnail=thumbnail(hit.video, hit.time),
                stream=stream(hit.video),
            )
        )
    return rows


def moment_row(moment: Moment) -> MomentRow:
    """Make the row of a moment, shown by the frame in its middle."""
    told = dataclasses.asdict(moment) | {"path": sanitize(moment.path)}
    middle = (moment.start + moment.end) / 2
    shown = thumbnail(moment.video, middle)
    return MomentRow(**told, title=title(moment.path), thumbnail=shown, stream=stream(moment.video))


def video_row(video: StoredVideo) -> VideoRow:
    """Make the row of a video."""
    first, *copies = video.paths
    changed = None if video.changed is None else datetime.fromtimestamp(video.changed, UTC).isoformat()
    return VideoRow(
        id=video.id,
        title=title(first),
        path=sanitize(first),
        copies=[sanitize(path) for path in copies],
        duration=video.duration,
        width=cast(int | None, video.facts.get("width")),
        height=cast(int | None, video.facts.get("height")),
        fps=cast(float | None, video.facts.get("average_rate")),
        complete=video.complete,
        salvaged=video.salvaged,
        segments=video.num_segments,
        changed=changed,
        missing=find_file(video) is None,
    )


def title(path: str) -> str:
    """Give a file's name without its suffix."""
    return sanitize(Path(file_name(path)).stem)


def thumbnail(video: int, time: float) -> str:
    """Say where a frame is to be had."""
    return f"/api/thumbnails/{video}?t={round(time, 2):g}"


def stream(video: int) -> str:
    """Say where a file is to be had."""
    return f"/api/videos/{video}/stream"
