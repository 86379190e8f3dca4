"""Request and response bodies. Times are in seconds. Dates are ISO 8601; without a time zone, the server's applies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidret.serve.fields import MAX_PATH_LENGTH, Id, QueryText, with_options, with_rows_of
from vidret.store.records import StoreInfo
from vidret.store.texts.store import TextCounts
from vidret.types import (
    MAX_EVENTS,
    Curve,
    EventSpan,
    Evidence,
    Filters,
    Hit,
    LocateOptions,
    Moment,
    SearchOptions,
    SharedFootage,
    Shot,
    TimedText,
)

TINY_IMAGE = "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="  # a GIF of one pixel


MAX_IMAGES = 8  # in one query
EncodedImage = Annotated[
    str, Field(min_length=1, description="Base64 of a JPEG, PNG, WebP, GIF or BMP with at most 40 megapixels.")
]


class ImageRequest(BaseModel):
    """An image in place of text."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image": TINY_IMAGE}]})

    image: EncodedImage


class QueryRequest(BaseModel):
    """Text, events in order, images, or images with text."""

    model_config = ConfigDict(extra="forbid")

    query: QueryText | None = Field(
        None, description='Text; -word and -"some words" are excluded, up to 16 of them; @name is a taught concept.'
    )
    events: list[QueryText | list[QueryText]] | None = Field(
        None,
        min_length=1,
        max_length=MAX_EVENTS,
        description="Events that follow one another, in place of text; a list in it is of events at the same time.",
    )
    gap: float | None = Field(None, ge=0, le=1e9, description="Maximum seconds between two events.")
    image: EncodedImage | Annotated[list[EncodedImage], Field(min_length=1, max_length=MAX_IMAGES)] | None = Field(
        None,
        description=f"An image, or up to {MAX_IMAGES}, to look like; with text that the videos also match.",
    )

    @model_validator(mode="after")
    def check_one(self) -> "QueryRequest":
        """Refuse a request without a query, or with two; text may come with images."""
        if (self.events is None) == (self.query is None and self.image is None):
            raise ValueError("query, image, both, or only events must be given")
        if self.gap is not None and self.events is None:
            raise ValueError("gap must come with events")
        return self


@with_options(SearchOptions)
class SearchRequest(QueryRequest):
    """A search for videos."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "a dog -beach", "k": 12, "min_seconds": 5}]})


@with_options(LocateOptions)
class LocateRequest(QueryRequest):
    """A search for moments."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "somebody opens a door", "k": 5}]})

    video: Id | None = Field(None, description="Video to locate moments in; default: all of them.")


@with_options(Filters)
class FootageRequest(BaseModel):
    """A stretch of a video whose footage to find."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"video": 1, "start": 3, "end": 8}]})

    video: Id
    start: float | None = Field(None, ge=0, le=1e9, description="In seconds; default: its beginning.")
    end: float | None = Field(None, ge=0, le=1e9, description="In seconds; default: its end.")
    k: int = Field(10, ge=1, le=50, description="Maximum number of finds.")
    within: Id | None = Field(None, description="Only video to look in; default: all of them.")
    repeated: bool = Field(False, description="Find all stretches of each video, rather than the best.")


class LinkedRow(BaseModel):
    """What rows about a video have besides: its name, a frame of it, and the file."""

    title: str = Field(description="Name of the file without its suffix.", examples=["beach"])
    thumbnail: str = Field(examples=["/api/thumbnails/7?t=30.5"])
    stream: str = Field(examples=["/api/videos/7/stream"])


@with_rows_of(SharedFootage)
class FootageRow(LinkedRow):
    """A stretch of a video that shows the same footage."""


class FootageAnswer(BaseModel):
    """Stretches that show the same footage, best first."""

    took_ms: float = Field(examples=[850.5])
    found: list[FootageRow]


@with_rows_of(Evidence)
class EvidenceRow(BaseModel):
    """What of a video matches a query."""


@with_rows_of(EventSpan)
class EventRow(BaseModel):
    """Where one event of a query was found."""


class StepRow(BaseModel):
    """Events that are looked for at the same time, at most ``gap_s`` seconds after those before."""

    events: list[str]
    gap_s: float | None


class InterpretationRow(BaseModel):
    """How a query is understood: steps that follow one another, and what is excluded."""

    text: str = Field(
        description="A sentence for people; empty for plain words.",
        examples=["looking for 1. a man enters then 2. a car leaves"],
    )
    steps: list[StepRow]
    excluded: list[str]


@with_rows_of(Hit)
class HitRow(LinkedRow):
    """A video that matches a query, with its best segment and the time of its best frame."""

    duration: float = Field(description="Of the video, in seconds.", examples=[90.0])


class FoundAnswer(BaseModel):
    """What answers of searches have besides the results. ``weak`` is true if nothing matches well: all are weak."""

    query: str | None = Field(examples=["a dog -beach"])
    interpretation: InterpretationRow | None = Field(description="null for an image.")
    next_offset: int | None = Field(description="Offset of the next page; null after the last one.")
    weak: bool
    took_ms: float = Field(examples=[21.5])


class SearchAnswer(FoundAnswer):
    """Videos, best first."""

    hits: list[HitRow]


@with_rows_of(Moment)
class MomentRow(LinkedRow):
    """A span of a video that matches a query."""


class LocateAnswer(FoundAnswer):
    """Moments, best first."""

    moments: list[MomentRow]


@with_rows_of(Curve)
class CurveAnswer(BaseModel):
    """The score of a query at every stored frame of a video, and its moments."""

    weak: bool = Field(description="It is unlikely that the video answers the query.")
    moments: list[MomentRow]


@with_options(Filters)
class VideosRequest(BaseModel):
    """A page of the list of videos."""

    model_config = ConfigDict(extra="forbid")

    cursor: str = Field("", max_length=2 * MAX_PATH_LENGTH, description="Default: the first page.")
    limit: int = Field(100, ge=1, le=1000)


class VideoRow(BaseModel):
    """A video of the index."""

    id: int = Field(examples=[7])
    title: str = Field(examples=["beach"])
    path: str = Field(examples=["/videos/beach.mp4"])
    copies: list[str]
    duration: float = Field(examples=[90.0])
    width: int | None = Field(examples=[1920])
    height: int | None = Field(examples=[1080])
    fps: float | None = Field(examples=[25.0])
    complete: bool = Field(description="The whole video is stored.")
    salvaged: str = Field(description="What could not be read of the file, if anything.")
    segments: int
    changed: str | None = Field(examples=["2026-01-31T18:30:00+00:00"])
    missing: bool = Field(description="The file is gone.")


class VideosAnswer(BaseModel):
    """A page of the list of videos, in the order of their paths."""

    total: int
    videos: list[VideoRow]
    next: str | None = Field(None, description="The cursor of the next page; null after the last.")


@with_rows_of(TimedText)
class TextRow(BaseModel):
    """Words that are said or shown in a video."""


class TranscriptAnswer(BaseModel):
    """The words of a video, by time."""

    texts: list[TextRow]


@with_rows_of(Shot)
class ShotRow(BaseModel):
    """A stretch of a video between two changes of shot; gradual changes belong to neither shot."""


class ShotsAnswer(BaseModel):
    """The shots of a video, by time."""

    shots: list[ShotRow]


class IndexRequest(BaseModel):
    """Files and folders to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"paths": ["/videos/new"]}]})

    paths: list[str] = Field(min_length=1, max_length=1000, description="Absolute paths, under the allowed roots.")
    retry_failed: bool = Field(False, description="Try failed files again, even unchanged ones.")


class ProgressRow(BaseModel):
    """Progress of a run: ``share`` of the segments that are encoded, ``elapsed`` and ``left`` in seconds."""

    share: float
    done: int
    files: int
    failed: int
    elapsed: float
    left: float | None


class FailureRow(BaseModel):
    """A file that could not be indexed."""

    path: str
    reason: str


class IndexAnswer(BaseModel):
    """Facts about the index, and the state of indexing."""

    info: StoreInfo
    words: list[TextCounts] = Field(description="Counts by source; empty in an index without words.")
    examples: list[str] = Field(description="Phrases that videos say or show, to try as queries.")
    running: bool
    progress: ProgressRow | None
    last: dict[str, Any] | None = Field(description="Report of the last run, or its error.")
    failures: list[FailureRow]
    asks: bool = Field(description="Whether the server answers questions, at /api/ask.")
    allow_index: bool
    roots: list[str]


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok"]
    version: str
