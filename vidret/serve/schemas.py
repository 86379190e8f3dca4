"""What requests and answers hold. Times are seconds; dates are ISO, without a zone the server's own."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from vidret.search.queries import NEGATIVE_TERM
from vidret.store.records import StoreInfo
from vidret.types import Filters

LONGEST_QUERY = 1000  # characters
MOST_UNWANTED = 16  # words or phrases of a query that must not fit; each is encoded by itself
LARGEST_ID = 2**63 - 1
DOT = "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="  # the smallest picture there is
YEARS = (1700, 2200)  # what a clock that counts nanoseconds can tell


def check_unwanted(query: str) -> str:
    """Refuse a query that would take as long to encode as many."""
    if len(NEGATIVE_TERM.findall(query)) > MOST_UNWANTED:
        raise ValueError(f"must exclude at most {MOST_UNWANTED} words or phrases")
    return query


def check_date(date: datetime) -> datetime:
    """Refuse what no file's clock can show."""
    if not YEARS[0] <= date.year <= YEARS[1]:
        raise ValueError(f"must lie in the years {YEARS[0]} to {YEARS[1]}")
    return date


Id = Annotated[int, Field(ge=0, le=LARGEST_ID, description="The id of a video.")]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Words = Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY), AfterValidator(check_unwanted)]
Date = Annotated[datetime, AfterValidator(check_date), Field(examples=["2026-01-31", "2026-01-31T18:30:00Z"])]


class Narrowed(BaseModel):
    """Which videos a request is about; all unless something is given."""

    model_config = ConfigDict(extra="forbid")

    folder: str | None = Field(None, max_length=4096, description="A path that videos lie under, or that is one.")
    min_seconds: Seconds | None = Field(None, description="The shortest duration.")
    max_seconds: Seconds | None = Field(None, description="The longest duration.")
    after: Date | None = Field(None, description="Files changed then or later.")
    before: Date | None = Field(None, description="Files changed earlier.")

    def filters(self) -> Filters:
        """Give them as the engine takes them."""
        after, before = (None if date is None else date.timestamp() for date in (self.after, self.before))
        return Filters(self.folder, self.min_seconds, self.max_seconds, after, before)


class Pictured(BaseModel):
    """A picture in place of words."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image": DOT}]})

    image: str = Field(min_length=1, description="Base64 of a JPEG, PNG, WebP, GIF or BMP of at most 40 megapixels.")


class QueryRequest(Narrowed):
    """Text or an image, and the videos to search."""

    query: Words | None = Field(None, description='Words; -word and -"some words" must not fit, up to 16 of them.')
    image: str | None = Field(None, min_length=1, description="A picture in place of words; see its limits there.")

    @model_validator(mode="after")
    def check_one(self) -> "QueryRequest":
        """Hold to one of the two."""
        if (self.query is None) == (self.image is None):
            raise ValueError("query or image must be given, and not both")
        return self


class SearchRequest(QueryRequest):
    """A search for videos."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "a dog -beach", "k": 12, "min_seconds": 5}]})

    k: int = Field(12, ge=1, le=200, description="How many videos to give at most.")
    rerank: Literal["auto", "none", "ucofia", "glscl"] = Field(
        "auto", description="What orders the candidates; auto is what the index was made for."
    )


class LocateRequest(QueryRequest):
    """A search for moments."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "somebody opens a door", "k": 5}]})

    k: int = Field(5, ge=1, le=200, description="How many moments to give at most.")
    video: Id | None = Field(None, description="The one video to look into; all unless given.")
    videos: int = Field(10, ge=1, le=100, description="Of all videos, how many of the best are looked into.")
    overlapping: bool = Field(False, description="Return moments, too, that overlap better ones.")
    weak: bool = Field(
        False,
        description="Return moments, too, of videos in which most unrelated queries score as high, and those that "
        "stand out less than half as much as the best of their video.",
    )


class HitRow(BaseModel):
    """A video that answers a query, with its best segment and the time of its best frame."""

    video: int = Field(examples=[7])
    path: str = Field(examples=["/videos/beach.mp4"])
    title: str = Field(examples=["beach"])
    duration: float = Field(examples=[90.0])
    segment: int = Field(examples=[2])
    start: float = Field(examples=[24.0])
    end: float = Field(examples=[36.0])
    time: float = Field(examples=[30.5])
    score: float = Field(examples=[0.31])
    weak: bool = Field(description="Most unrelated queries score as high.")
    copies: list[str] = Field(description="Further paths of the same content.")
    why: Mapping[str, float] = Field(description="What the score is made of.", examples=[{"frame": 0.31}])
    thumbnail: str = Field(examples=["/api/thumbnails/7?t=30.5"])
    stream: str = Field(examples=["/api/videos/7/stream"])


class SearchAnswer(BaseModel):
    """Videos, best first; ``weak`` where all of them are."""

    query: str | None = Field(examples=["a dog -beach"])
    weak: bool
    took_ms: float = Field(examples=[21.5])
    hits: list[HitRow]


class MomentRow(BaseModel):
    """A stretch of a video that answers a query."""

    video: int = Field(examples=[7])
    path: str = Field(examples=["/videos/beach.mp4"])
    title: str = Field(examples=["beach"])
    start: float = Field(examples=[25.0])
    end: float = Field(examples=[31.5])
    score: float = Field(examples=[0.31])
    weak: bool
    by: str = Field(description="Who found it: curve or head.", examples=["curve"])
    similarity: float | None = Field(description="The mean of the curve inside; null by head.", examples=[0.27])
    thumbnail: str = Field(examples=["/api/thumbnails/7?t=28.25"])
    stream: str = Field(examples=["/api/videos/7/stream"])


class LocateAnswer(BaseModel):
    """Moments, best first; ``weak`` where all of them are."""

    query: str | None = Field(examples=["somebody opens a door"])
    weak: bool
    took_ms: float = Field(examples=[21.5])
    moments: list[MomentRow]


class CurveAnswer(BaseModel):
    """A query's score at every stored frame of one video, and the moments found in it."""

    times: list[float]
    scores: list[float]
    start: float
    end: float
    best: float = Field(description="The score of the best segment.")
    weak: bool
    typical: float | None = Field(description="What fewer than a quarter of unrelated queries reach.")
    moments: list[MomentRow]


class VideosRequest(Narrowed):
    """A part of the list of videos."""

    offset: int = Field(0, ge=0, le=LARGEST_ID)
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
    complete: bool = Field(description="All of it is stored.")
    salvaged: str = Field(description="What could not be read of it, if anything.")
    segments: int
    changed: str | None = Field(examples=["2026-01-31T18:30:00+00:00"])
    missing: bool = Field(description="Its file is gone.")


class VideosAnswer(BaseModel):
    """A part of the list of videos, in the order of their paths."""

    total: int
    videos: list[VideoRow]


class IndexRequest(BaseModel):
    """Files and folders to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"paths": ["/videos/new"]}]})

    paths: list[str] = Field(min_length=1, max_length=1000, description="Absolute paths, under the allowed roots.")
    retry_failed: bool = Field(False, description="Look again at failed files that did not change.")


class ProgressRow(BaseModel):
    """How far a run is; ``share`` of the segments to encode, ``left`` seconds."""

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
    """The index in numbers, and what is done to it."""

    info: StoreInfo
    running: bool
    progress: ProgressRow | None
    last: dict[str, Any] | None = Field(description="The report of the last run, or its error.")
    failures: list[FailureRow]
    allow_index: bool
    roots: list[str]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"]
    videos: int
    version: str


class KnnRequest(BaseModel):
    """What the ClipClient of clip-retrieval sends; what it says of models that are not here changes nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "a dog", "modality": "image", "num_images": 10, "indice_name": "index"}]
        }
    )

    text: Annotated[str, AfterValidator(check_unwanted)] | None = Field(None, max_length=LONGEST_QUERY)
    image: str | None = Field(None, description="Base64.")
    image_url: str | None = Field(None, description="Refused: nothing is fetched from elsewhere.")
    embedding_input: list[float] | None = Field(None, max_length=8192, description="A vector of the index's encoder.")
    modality: Literal["image", "text"] = "image"
    num_images: int = Field(40, ge=1, le=1000, description="How many results have a URL and a caption.")
    num_result_ids: int | None = Field(None, ge=1, le=1000, description="How many results; num_images unless given.")
    indice_name: str | None = None


class KnnRow(BaseModel):
    """A result as clip-retrieval gives it."""

    id: int = Field(examples=[7])
    similarity: float = Field(examples=[0.31])
    url: Annotated[str | None, Field(examples=["http://127.0.0.1:8000/api/videos/7/stream#t=30.5"])] = None
    caption: Annotated[str | None, Field(examples=["beach"])] = None
