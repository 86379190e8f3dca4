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
MAX_OFFSET = 10_000  # of a page of results
MAX_QUERY_LENGTH = 1000  # characters; text encoders read 77 to 256 tokens


@dataclass(frozen=True, slots=True)
class Sequence:
    """Events that follow one another in a video, in this order.

    >>> Sequence(["a man enters", ["a car leaves", "rain"]], gap=5).events
    ('a man enters', ('a car leaves', 'rain'))

    Attributes:
        events: Texts. An inner list of texts stands for events that happen at the same time.
        gap: Maximum time in seconds from the end of an event to the start of the next; None for any.
        verbatim: Whether the encoder reads the texts exactly as written, as papers encode the sentences of a benchmark.
            Otherwise quotes mark words that must be said or shown, and repeated spaces are removed.
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
        help="Minimum probability that a result answers the query, from 0 to 1, such as 0.5.",
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
        help="Sources to search: picture, speech, screen (text in the picture), subtitles, sound, generated "
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
        help="Person who is seen or heard, as with @NAME in the query; several separated by commas.",
        panel="What to search",
        metavar="NAME",
    ),
]

CopiesField = Annotated[
    str,
    Option(
        help="Results that show the same footage: fold them into one, or show each.",
        panel="Output",
        metavar="fold|show",
        choices=("fold", "show"),
    ),
]

OffsetField = Annotated[
    int,
    Option(
        help="Number of best results to skip, as for the next page.",
        panel="Output",
        metavar="N",
        minimum=0,
        maximum=MAX_OFFSET,
        mcp=True,
    ),
]


def _filter(text: str, metavar: str, **settings: Any) -> Option:
    return Option(help=text, panel="Filters", metavar=metavar, **settings)


@dataclass(frozen=True, slots=True)
class Filters:
    """The videos that a search covers; a filter of None does not restrict them. Dates are in seconds since 1970.

    ``folder``, ``name``, ``after`` and ``before`` are about the same one of a video's files.
    """

    folder: Annotated[
        str | None, _filter("Only videos in this folder or below this URL, at any depth.", "DIR|URL", holds="folder")
    ] = None
    name: Annotated[
        str | None, _filter("Only files whose path contains each of these words, such as birthday or .mov.", "WORDS")
    ] = None
    min_seconds: Annotated[
        float | None, _filter("Minimum duration of a video in seconds.", "SECONDS", minimum=0, maximum=10**9)
    ] = None
    max_seconds: Annotated[
        float | None, _filter("Maximum duration of a video in seconds.", "SECONDS", minimum=0, maximum=10**9)
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
            "Only videos filmed at this time or later; the modification time counts if a file states no other.",
            "DATE",
            holds="date",
        ),
    ] = None
    filmed_before: Annotated[float | None, _filter("Only videos filmed before this time.", "DATE", holds="date")] = None
    camera: Annotated[str | None, _filter("Only videos of this camera, by part of its make and model.", "NAME")] = None
    near: Annotated[
        str | None,
        _filter(
            "Only videos filmed within 10 km of this latitude and longitude in degrees, such as 48.1,11.6; a third "
            "number sets another radius in km.",
            "LAT,LON[,KM]",
        ),
    ] = None
    min_height: Annotated[
        int | None, _filter("Minimum height of a video in pixels.", "PIXELS", minimum=0, maximum=10**6)
    ] = None
    min_fps: Annotated[float | None, _filter("Minimum frame rate of a video.", "FPS", minimum=0, maximum=10**6)] = None
    sound: Annotated[bool | None, _filter("Only videos with (on) or without (off) sound.", "on|off")] = None
    hdr: Annotated[bool | None, _filter("Only videos with (on) or without (off) high dynamic range.", "on|off")] = None
    orientation: Annotated[
        str | None,
        _filter("Only videos of this shape.", "landscape|portrait|square", choices=("landscape", "portrait", "square")),
    ] = None
    language: Annotated[
        str | None,
        _filter(
            "Only videos in which this language is heard, as ISO 639-1 code, such as de; needs a multilingual speech "
            "model.",
            "CODE",
        ),
    ] = None
    heard: Annotated[
        str | None,
        _filter(
            "Only videos in which this sound is heard, such as music; a sound model that tags knows more, such as "
            "applause.",
            "NAME",
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
            help="Rerank the best videos by their similarity to each other (SuperGlobal). Finds more videos of a kind, "
            "but a single video by text less reliably. Compares only pictures.",
            panel="Model",
        ),
    ] = False
    candidates: Annotated[
        int, Option(help="Number of nearest segments to rerank.", panel=None, minimum=1, maximum=1000)
    ] = CANDIDATES
    like: Annotated[
        tuple[TimePoint, ...],
        Option(
            help="A result that resembles what you look for, as file and time: a.mp4@1:30. Repeatable; QUERY may be "
            "left out.",
            panel="What to search",
            metavar="FILE@TIME",
            holds="times",
            http_help="Results that resemble what is looked for, as pairs [video id, seconds].",
            mcp=True,
        ),
    ] = ()
    unlike: Annotated[
        tuple[TimePoint, ...],
        Option(
            help="A result that does not resemble what you look for, as file and time. Repeatable.",
            panel="What to search",
            metavar="FILE@TIME",
            holds="times",
            http_help="Results that do not resemble what is looked for, as pairs [video id, seconds].",
            mcp=True,
        ),
    ] = ()
    seen: Annotated[
        tuple[TimePoint, ...] | None,
        Option(
            help="Results that were shown and are not what is looked for, as pairs [video id, seconds]; default: the "
            "first 20 results without feedback.",
            panel=None,
            holds="times",
        ),
    ] = None
    display: Annotated[
        str,
        Option(
            help="Results to show: the best, or the best one of each kind, for exploring.",
            panel="Output",
            metavar="best|diverse",
            choices=("best", "diverse"),
        ),
    ] = "best"
    sort_by: Annotated[
        str | None,
        Option(
            help="Sort matching results by an attribute, the strongest first: a word such as crowded, two opposites "
            "such as snowy/green, or a taught concept such as @festive.",
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
            help="Number of best videos to locate moments in, if no VIDEO is given.",
            panel="What to search",
            metavar="N",
            minimum=1,
            maximum=MAX_LOCATED,
            http_help="Number of best videos to locate moments in, if no video is given.",
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
            help="Move the ends of moments to nearby cuts (on), or leave them midway between two frames (off).",
            panel="Output",
            metavar="on|off",
        ),
    ] = True
    refine_edges: Annotated[
        bool,
        Option(
            help="Decode and encode a few more frames around the ends of moments that are at no cut, which makes these "
            "precise to about 0.1 s.",
            panel="Output",
        ),
    ] = False
    copies: CopiesField = "fold"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptExample:
    """An image, or a span of an indexed video, that shows a concept or does not.

    Attributes:
        path: Path of the image or the video; a name if the image itself was given.
        start: Start of the span in seconds; None for an image, and for a whole video.
        end: End of the span in seconds; None for an image, and for a whole video.
        image: The image, uint8 (height, width, 3), if it is not read from ``path``. It is not stored.
    """

    path: Annotated[str, Shown(holds="path", example="/videos/beach.mp4")]
    start: Annotated[float | None, Shown(example=24.0)] = None
    end: Annotated[float | None, Shown(example=36.0)] = None
    image: Annotated[Any, Shown(everywhere=False)] = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A taught concept of an index; ``@name`` stands for it in queries.

    Attributes:
        name: Name of the concept, without the @.
        text: Text that the encoder reads in place of ``@name``.
        share: Weight of the examples, from 0 to 1; the rest is the weight of the text.
        yes: Examples that show the concept.
        no: Examples that do not show it; may be empty.
    """

    name: Annotated[str, Shown(example="mascot")]
    text: Annotated[str, Shown(example="mascot")]
    share: Annotated[float, Shown(example=0.5)]
    yes: tuple[ConceptExample, ...]
    no: tuple[ConceptExample, ...] = ()
