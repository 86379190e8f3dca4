"""Rows of responses, from results of the engine."""

import dataclasses
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.serve.problems import RefusedError
from vidret.serve.schemas import (
    EventRow,
    EvidenceRow,
    FootageRow,
    HitRow,
    InterpretationRow,
    MomentRow,
    StepRow,
    VideoRow,
)
from vidret.store.records import StoredVideo
from vidret.text import file_name, is_url, sanitize, show_path
from vidret.types import EventSpan, Evidence, Hit, Moment, Query, SharedFootage, Source
from vidret.types import Sequence as EventSequence


def find_video(engine: Engine, video_id: int) -> StoredVideo:
    """Return the video with an id.

    Raises:
        RefusedError: There is no such video.
    """
    try:
        return engine.video(video_id)
    except StoreError as error:
        raise RefusedError(404, str(error)) from error


def find_file(video: StoredVideo) -> str | None:
    """Return the first path of a video that exists, or None. URLs are taken to exist."""
    return next((path for path in video.paths if is_url(path) or os.path.isfile(path)), None)  # noqa: PTH113


def hit_rows(engine: Engine, hits: Sequence[Hit]) -> list[HitRow]:
    """Return the rows of hits, without videos that were removed in the meantime."""
    rows = []
    for hit in hits:
        try:
            duration = engine.video(hit.video).duration
        except StoreError:
            continue
        rows.append(
            HitRow(
                video=hit.video,
                path=show_path(hit.path),
                title=title(hit.path),
                duration=duration,
                segment=hit.segment.number,
                start=hit.segment.start,
                end=hit.segment.end,
                time=hit.time,
                score=hit.score,
                probability=hit.probability,
                likelihood=hit.likelihood,
                weak=hit.weak,
                copies=[show_path(path) for path in hit.copies],
                why=hit.why,
                evidence=evidence_rows(hit.evidence),
                events=event_rows(hit.events),
                thumbnail=thumbnail_url(hit.video, hit.time),
                stream=stream_url(hit.video),
            )
        )
    return rows


def evidence_rows(evidence: Sequence[Evidence]) -> list[EvidenceRow]:
    """Return the rows of evidence."""
    return [EvidenceRow(**dataclasses.asdict(each) | {"matches": list(each.matches)}) for each in evidence]


def event_rows(events: Sequence[EventSpan]) -> list[EventRow]:
    """Return the rows of events."""
    return [EventRow(**dataclasses.asdict(each)) for each in events]


def interpretation_row(engine: Engine, query: Query, sources: Sequence[Source] | None) -> InterpretationRow | None:
    """Return how a query is understood; None for an image or a vector."""
    if not isinstance(query, str | EventSequence):
        return None
    interpretation = engine.interpret(query, sources=sources)
    steps = [StepRow(events=list(step.events), gap_s=step.gap_s) for step in interpretation.steps]
    return InterpretationRow(text=interpretation.describe(), steps=steps, excluded=list(interpretation.excluded))


def moment_row(moment: Moment) -> MomentRow:
    """Return the row of a moment, with a thumbnail of the frame in its middle."""
    fields = dataclasses.asdict(moment) | {"path": show_path(moment.path), "likelihood": moment.likelihood}
    fields |= {"evidence": evidence_rows(moment.evidence), "events": event_rows(moment.events)}
    thumbnail = thumbnail_url(moment.video, (moment.start + moment.end) / 2)
    return MomentRow(**fields, title=title(moment.path), thumbnail=thumbnail, stream=stream_url(moment.video))


def footage_row(found: SharedFootage) -> FootageRow:
    """Return the row of a find of a clip, with a thumbnail of the frame in its middle."""
    paths = {"path": show_path(found.path), "copies": [show_path(path) for path in found.copies]}
    thumbnail = thumbnail_url(found.video, (found.start + found.end) / 2)
    fields = dataclasses.asdict(found) | paths
    return FootageRow(**fields, title=title(found.path), thumbnail=thumbnail, stream=stream_url(found.video))


def video_row(video: StoredVideo) -> VideoRow:
    """Return the row of a video."""
    first, *copies = video.paths
    changed = None if video.changed is None else datetime.fromtimestamp(video.changed, UTC).isoformat()
    return VideoRow(
        id=video.id,
        title=title(first),
        path=show_path(first),
        copies=[show_path(path) for path in copies],
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
    """Return the name of a file without its suffix."""
    return sanitize(Path(file_name(path)).stem)


def thumbnail_url(video_id: int, time_s: float) -> str:
    """Return the path of a frame in the API."""
    return f"/api/thumbnails/{video_id}?t={round(time_s, 2):g}"


def stream_url(video_id: int) -> str:
    """Return the path of a file in the API."""
    return f"/api/videos/{video_id}/stream"
