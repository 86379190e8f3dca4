"""The rows of responses, and their conversion from results of the engine."""

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field

from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.serve.fields import with_rows_of
from vidret.store.records import LANGUAGES, SHOWN_FACTS, StoredVideo
from vidret.text import file_name, is_url, sanitize, show_path
from vidret.types import Hit, KindOfVideo, Moment, Query, Source, to_row
from vidret.types import Sequence as EventSequence


class LinkedRow(BaseModel):
    """The base of rows about a video: its name, and links to a frame and the file.

    The links are paths as in the OpenAPI document: the address of the server comes before them, also if it has a path.
    """

    title: str = Field(description="Name of the file without its suffix.", examples=["beach"])
    thumbnail: str = Field(
        description="Link to a frame, a JPEG: append it to the address of the server.",
        examples=["/api/thumbnails/7?t=30.5"],
    )
    stream: str = Field(
        description="Link to the file of the video: append it to the address of the server.",
        examples=["/api/videos/7/stream"],
    )


class StepRow(BaseModel):
    """One step of a query: the events that are to happen at the same time."""

    events: list[str]
    gap_s: float | None = Field(description="Maximum seconds after the step before; null for any.")


class InterpretationRow(BaseModel):
    """How a query is understood: steps that follow one another, and excluded terms."""

    text: str = Field(
        description="The interpretation as a sentence for the user; empty if the query is plain words.",
        examples=["looking for 1. a man enters then 2. a car leaves"],
    )
    steps: list[StepRow]
    excluded: list[str]


@with_rows_of(Hit)
class HitRow(LinkedRow):
    """A video that matches a query, with its best segment and the time of its best frame."""

    duration: float = Field(description="Duration of the video in seconds.", examples=[90.0])


@with_rows_of(Moment)
class MomentRow(LinkedRow):
    """A span of a video that matches a query."""


class VideoRow(BaseModel):
    """A video of the index."""

    id: int = Field(examples=[7])
    title: str = Field(description="Name of the file without its suffix.", examples=["beach"])
    path: str = Field(description="Path of its file.", examples=["/videos/beach.mp4"])
    copies: list[str] = Field(description="Other paths of the same content.")
    duration: float = Field(description="Duration in seconds.", examples=[90.0])
    width: int | None = Field(description="Width in pixels; null if unknown.", examples=[1920])
    height: int | None = Field(description="Height in pixels; null if unknown.", examples=[1080])
    fps: float | None = Field(description="Average frame rate; null if unknown.", examples=[25.0])
    complete: bool = Field(description="Whether the whole video is stored.")
    salvaged: str = Field(description="What could not be read of the file; empty if all was read.")
    segments: int = Field(description="Number of segments; may grow until the video is complete.")
    changed: str | None = Field(
        description="Time of the last change of the file; null if unknown.", examples=["2026-01-31T18:30:00+00:00"]
    )
    filmed: str = Field(description="Time at which it was filmed, as the file states it; empty if it does not.")
    camera: str = Field(description="Make and model of the camera; empty if unknown.", examples=["Apple iPhone 15"])
    languages: list[str] = Field(
        description="Languages heard in it, longest first, as ISO 639-1 codes; empty if unknown.", examples=[["de"]]
    )
    missing: bool = Field(description="Whether all of its files are gone.")


Row = TypeVar("Row", bound=BaseModel)


def write_row(model: type[Row], result: Any, **more: Any) -> Row:
    """Return the row of a result, with links to its video if the model has them."""
    if issubclass(model, LinkedRow):
        time_s = result.time if isinstance(result, Hit | KindOfVideo) else (result.start + result.end) / 2
        more["title"], more["stream"] = title(result.path), f"/api/videos/{result.video}/stream"
        more["thumbnail"] = f"/api/thumbnails/{result.video}?t={round(time_s, 2):g}"
    return model(**to_row(result, "http", show_path), **more)


def hit_rows(engine: Engine, hits: Sequence[Hit]) -> list[HitRow]:
    """Return the rows of hits, without videos that have been removed since the search."""
    rows = []
    for hit in hits:
        with suppress(StoreError):
            rows.append(write_row(HitRow, hit, duration=engine.video(hit.video).duration))
    return rows


def interpretation_row(engine: Engine, query: Query, sources: Sequence[Source] | None) -> InterpretationRow | None:
    """Return the interpretation of a query; None for an image, a vector or an empty query."""
    if not isinstance(query, str | EventSequence) or not query:
        return None
    interpretation = engine.interpret(query, sources=sources)
    steps = [StepRow(events=list(step.events), gap_s=step.gap_s) for step in interpretation.steps]
    return InterpretationRow(text=interpretation.describe(), steps=steps, excluded=list(interpretation.excluded))


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
        **{field: cast(Any, video.facts.get(name)) for name, field in SHOWN_FACTS.items()},
        complete=video.complete,
        salvaged=video.salvaged,
        segments=video.num_segments,
        changed=changed,
        filmed=str(video.facts.get("filmed", "")),
        camera=sanitize(str(video.facts.get("camera", ""))),
        languages=str(video.facts.get(LANGUAGES, "")).split(),
        missing=not any(is_url(path) or os.path.isfile(path) for path in video.paths),  # noqa: PTH113
    )


def title(path: str) -> str:
    """Return the name of a file without its suffix."""
    return sanitize(Path(file_name(path)).stem)
