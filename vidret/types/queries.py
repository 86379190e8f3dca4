"""Queries, filters and search options. The command line and the HTTP API derive their options from these."""

import os
from collections.abc import Iterable
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from vidret.types.media import Source
from vidret.types.options import Option
from vidret.types.rows import Shown

CANDIDATES = 200  # nearest segments that a search reranks by default
RERANKERS = ("none", "mean", "ucofia", "glscl")  # rerankers without training
MAX_EVENTS = 8  # in one query
MAX_LOCATED = 100  # videos per request to a server
MAX_QUERY_LENGTH = 1000  # characters; text encoders read 77 to 256 tokens


@dataclass(frozen=True, slots=True)
class Sequence:
    """Events that follow one another in a video, in this order.

    >>> Sequence(["a man enters", ["a car leaves", "rain"]], gap=5).events
    ('a man enters', ('a car leaves', 'rain'))

    Attributes:
        events: Texts. A list of texts in place of one stands for events that happen at the same time.
        gap: Maximum time in seconds between the end of an event and the start of the next; None for any.
        verbatim: Whether pictures are compared with the texts as they are written, as papers encode the sentences of a
            benchmark; else without quotes, which mark words that must be said or shown, and repeated spaces.
    """

    events: AnySequence[str | AnySequence[str]]
    gap: float | None = None
    verbatim: bool = False

    def __post_init__(self) -> None:
        """Convert the events to tuples; a search checks them."""
        if isinstance(self.events, Iterable) and not isinstance(self.events, str):
            steps = tuple(tuple(event) if isinstance(event, list | tuple) else event for event in self.events)
            object.__setattr__(self, "events", steps)


VideoName = str | os.PathLike[str] | int  # the path of a video, a unique ending of the path, or the id
TimePoint = tuple[VideoName, float]  # a time of a video, in seconds


AtLeastField = Annotated[
    float,
    Option(
        help="Only results that answer the query with this probability or a higher one, such as 0.5.",
        panel="Output",
        metavar="P",
        minimum=0,
        maximum=1,
        mcp=True,
    ),
]

SourcesField = Annotated[
    tuple[Source, ...] | None,
    Option(
        help="Compare the query with these only: picture, speech, screen, subtitles, sound, generated "
        "(descriptions by a model); default: all that the index has.",
        panel="What to search",
        flag="--in",
        metavar="LIST",
        mcp=True,
    ),
]

PersonField = Annotated[
    str | None,
    Option(
        help="Only where this person is seen or heard, as with @NAME in the query; several separated by commas.",
        panel="What to search",
        metavar="NAME",
    ),
]

CopiesField = Annotated[
    str,
    Option(
        help="Whether results that show the same footage are one, or each is a result of its own.",
        panel="Output",
        metavar="fold|show",
        choices=("fold", "show"),
    ),
]

OffsetField = Annotated[
    int,
    Option(
        help="Number of best results to skip: the next page of a search that showed them.",
        panel="Output",
        metavar="N",
        minimum=0,
        maximum=10_000,
        mcp=True,
    ),
]


def _filter(text: str, metavar: str, **settings: Any) -> Option:
    return Option(help=text, panel="Filters", metavar=metavar, **settings)


@dataclass(frozen=True, slots=True)
class Filters:
    """The videos that a search covers; a filter of None does not restrict them.

    Attributes:
        folder: A folder that has a file of the video, at any depth.
        min_seconds: Minimum duration.
        max_seconds: Maximum duration.
        after: Earliest modification time of that file, in seconds since 1970.
        before: Its modification time is earlier than this.
        filmed_after: Earliest time at which the video was filmed, in seconds since 1970, as the file states it; the
            modification time stands for it if the file does not.
        filmed_before: It was filmed earlier than this.
        camera: A part of the camera's make and model.
        near: Where it was filmed: ``LAT,LON`` in degrees, or ``LAT,LON,KM``; 10 km around by default.
        min_height: Minimum height in pixels.
        min_fps: Minimum frame rate.
        sound: Whether it has sound.
        hdr: Whether it has a high dynamic range.
        orientation: ``landscape``, ``portrait`` or ``square``.
        language: A language that is heard, by its ISO 639-1 code, where the model that read the speech tells languages
            apart.
        heard: The name of a sound that is heard, where sounds were read.
    """

    folder: Annotated[
        str | None, _filter("Only videos in this folder or below this URL, at any depth.", "DIR|URL", holds="folder")
    ] = None
    min_seconds: Annotated[
        float | None, _filter("Minimum duration of a video.", "SECONDS", minimum=0, maximum=10**9)
    ] = None
    max_seconds: Annotated[
        float | None, _filter("Maximum duration of a video.", "SECONDS", minimum=0, maximum=10**9)
    ] = None
    after: Annotated[
        float | None,
        _filter(
            "Only files modified at this time or later, such as 2026-01-31 or 2026-01-31T18:30:00.",
            "DATE",
            holds="date",
        ),
    ] = None
    before: Annotated[float | None, _filter("Only files modified before this time.", "DATE", holds="date")] = None
    filmed_after: Annotated[
        float | None,
        _filter(
            "Only videos filmed at this time or later, as their files say; if they do not, modified.",
            "DATE",
            holds="date",
        ),
    ] = None
    filmed_before: Annotated[float | None, _filter("Only videos filmed before this time.", "DATE", holds="date")] = None
    camera: Annotated[str | None, _filter("Only videos of this camera: a part of its make and model.", "NAME")] = None
    near: Annotated[
        str | None,
        _filter(
            "Only videos filmed within 10 km, or a third number, of this place in degrees, such as 48.1,11.6.",
            "LAT,LON[,KM]",
        ),
    ] = None
    min_height: Annotated[int | None, _filter("Minimum height in pixels.", "PIXELS", minimum=0, maximum=10**6)] = None
    min_fps: Annotated[float | None, _filter("Minimum frame rate.", "FPS", minimum=0, maximum=10**6)] = None
    sound: Annotated[bool | None, _filter("Only videos with (on) or without (off) sound.", "on|off")] = None
    hdr: Annotated[bool | None, _filter("Only videos with (on) or without (off) high dynamic range.", "on|off")] = None
    orientation: Annotated[
        str | None,
        _filter("Only videos of this shape.", "landscape|portrait|square", choices=("landscape", "portrait", "square")),
    ] = None
    language: Annotated[
        str | None,
        _filter(
            "Only videos in which this language is heard, such as de, by a speech model of many languages.", "CODE"
        ),
    ] = None
    heard: Annotated[
        str | None,
        _filter(
            "Only videos in which this sound is heard, such as music, or applause by a sound model that tags.", "NAME"
        ),
    ] = None


ALL_VIDEOS = Filters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of a search, which are arguments of ``Engine.search``."""

    sources: SourcesField = None
    person: PersonField = None
    filters: Filters = ALL_VIDEOS
    k: Annotated[
        int,
        Option(
            help="Maximum number of videos.", panel="Output", flag="-k", metavar="N", minimum=1, maximum=200, mcp=True
        ),
    ] = 10
    offset: OffsetField = 0
    at_least: AtLeastField = 0.0
    rerank: Annotated[
        str | None,
        Option(
            help="Reranker of the candidates: mean, ucofia or glscl (all work without training), the file of a trained "
            "aligner, none, or auto (the one that the index was prepared for).",
            panel="Model",
            metavar="NAME|FILE",
            choices=("auto", *RERANKERS),  # no file: a request must not make the server open one
            http_help="Reranker of the candidates; auto is the one that the index was prepared for.",
        ),
    ] = "auto"
    refine: Annotated[
        bool,
        Option(
            help="Order the best videos again by their likeness to each other (SuperGlobal). Finds more of a kind, but "
            "by text single videos less surely. Compares only pictures.",
            panel="Model",
        ),
    ] = False
    candidates: Annotated[
        int, Option(help="Number of nearest segments to rerank.", panel=None, minimum=1, maximum=1000)
    ] = CANDIDATES
    like: Annotated[
        tuple[TimePoint, ...],
        Option(
            help="A result that resembles what you look for, by its file and time: a.mp4@1:30. Repeatable; works "
            "without QUERY too.",
            panel="What to search",
            metavar="FILE@TIME",
            holds="times",
            http_help="Times of videos that resemble what is looked for, as [id, seconds].",
            mcp=True,
        ),
    ] = ()
    unlike: Annotated[
        tuple[TimePoint, ...],
        Option(
            help="A result that differs from what you look for. Repeatable.",
            panel="What to search",
            metavar="FILE@TIME",
            holds="times",
            http_help="Times of videos that differ from what is looked for, as [id, seconds].",
            mcp=True,
        ),
    ] = ()
    seen: Annotated[
        tuple[TimePoint, ...] | None,
        Option(
            help="Times of videos that were shown and are not what is looked for, as [id, seconds]; default: likes are "
            "compared with the first 20 without feedback.",
            panel=None,
            holds="times",
        ),
    ] = None
    display: Annotated[
        str,
        Option(
            help="What to show: the best results, or the best one of each kind, for exploring.",
            panel="Output",
            metavar="best|diverse",
            choices=("best", "diverse"),
        ),
    ] = "best"
    sort_by: Annotated[
        str | None,
        Option(
            help="Sort what matches by how much it has of an attribute: a word such as crowded, two opposites such as "
            "snowy/green, or a taught concept such as @festive.",
            panel="Output",
            metavar="WORD|A/B|@NAME",
            mcp=True,
        ),
    ] = None
    copies: CopiesField = "fold"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateOptions:
    """The options of locating moments, which are arguments of ``Engine.locate``."""

    videos: Annotated[
        int,
        Option(
            help="Number of best videos to look into, if no VIDEO is given.",
            panel="What to search",
            metavar="N",
            minimum=1,
            maximum=MAX_LOCATED,
            http_help="Number of best videos to look into.",
        ),
    ] = 10
    sources: SourcesField = None
    person: PersonField = None
    filters: Filters = ALL_VIDEOS
    k: Annotated[
        int,
        Option(
            help="Maximum number of moments.", panel="Output", flag="-k", metavar="N", minimum=1, maximum=200, mcp=True
        ),
    ] = 5
    offset: OffsetField = 0
    at_least: AtLeastField = 0.0
    overlapping: Annotated[bool, Option(help="Include moments that overlap better ones.", panel="Output")] = False
    weak: Annotated[
        bool,
        Option(
            help="Include moments that stand out less than half as much as the best one of their video.",
            panel="Output",
            mcp=True,
        ),
    ] = False
    snap: Annotated[
        bool,
        Option(
            help="Whether moments begin and end at cuts where they can, or always midway between two frames.",
            panel="Output",
            metavar="on|off",
        ),
    ] = True
    refine_edges: Annotated[
        bool,
        Option(
            help="Decode and encode a few frames more around the edges of moments that are at no cut, which makes them "
            "precise to about 0.1 s.",
            panel="Output",
        ),
    ] = False
    copies: CopiesField = "fold"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptExample:
    """An image, or a stretch of an indexed video, that shows a concept or does not.

    Attributes:
        path: Path of the image or the video; a name for an image that is given.
        start: Start of the stretch in seconds; None for an image, and for a whole video.
        end: End of the stretch in seconds.
        image: The image, uint8 (height, width, 3), where it is not read from ``path``. It is not kept.
    """

    path: Annotated[str, Shown(holds="path", example="/videos/beach.mp4")]
    start: Annotated[float | None, Shown(example=24.0)] = None
    end: Annotated[float | None, Shown(example=36.0)] = None
    image: Annotated[Any, Shown(everywhere=False)] = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A taught concept of an index; ``@name`` stands for it in queries.

    Attributes:
        name: Its name.
        text: What the encoder reads for it.
        share: Weight of the examples, 0..1; the rest is that of the text.
        yes: Examples that show it.
        no: Examples that do not.
    """

    name: Annotated[str, Shown(example="mascot")]
    text: Annotated[str, Shown(example="mascot")]
    share: Annotated[float, Shown(example=0.5)]
    yes: tuple[ConceptExample, ...]
    no: tuple[ConceptExample, ...] = ()
