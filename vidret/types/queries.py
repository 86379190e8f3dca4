"""What to search for, and where. The options are also those of the command line and of the HTTP API."""

import os
from dataclasses import dataclass
from typing import Annotated

from vidret.types.embeddings import Vector
from vidret.types.media import Picture, Source
from vidret.types.options import Option
from vidret.types.sequence import Sequence

CANDIDATES = 200  # nearest segments that a search reranks by default


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComposedQuery:
    """Images to look like, and how what is looked for differs from them.

    Attributes:
        images: One or more images.
        text: Words that it also matches; ``-word`` and ``-"some words"`` are negative terms. May be empty.
    """

    images: tuple[Picture, ...]
    text: str = ""


Query = str | Sequence | Picture | Vector | ComposedQuery
"""Text, in which -word and -"some words" are negative terms and @name is a taught concept; events in order; an image to
look like; images with words; or a vector of the encoder's space."""
VideoName = str | os.PathLike[str] | int  # the path of a video, a unique ending of it, or the id

AtLeastField = Annotated[
    float,
    Option(
        help="Only results that answer the query with this probability or a higher one, such as 0.5.",
        panel="Output",
        metavar="P",
        minimum=0,
        maximum=1,
    ),
]

SourcesField = Annotated[
    tuple[Source, ...] | None,
    Option(
        help="Compare the query with these only: picture, speech, screen, subtitles, generated (descriptions by a "
        "model); default: all that the index has.",
        panel="What to search",
        flag="--in",
        metavar="LIST",
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
    ),
]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which videos a search covers; None does not restrict it.

    Attributes:
        folder: A folder that has a file of the video, at any depth.
        min_seconds: Minimum duration.
        max_seconds: Maximum duration.
        after: Earliest modification time of that file, in seconds since 1970.
        before: Its modification time is earlier than this.
    """

    folder: Annotated[
        str | None,
        Option(
            help="Only videos in this folder or below this URL, at any depth.",
            panel="Filters",
            metavar="DIR|URL",
            holds="folder",
        ),
    ] = None
    min_seconds: Annotated[
        float | None,
        Option(help="Minimum duration of a video.", panel="Filters", metavar="SECONDS", minimum=0, maximum=10**9),
    ] = None
    max_seconds: Annotated[
        float | None,
        Option(help="Maximum duration of a video.", panel="Filters", metavar="SECONDS", minimum=0, maximum=10**9),
    ] = None
    after: Annotated[
        float | None,
        Option(
            help="Only files modified at this time or later, such as 2026-01-31 or 2026-01-31T18:30:00.",
            panel="Filters",
            metavar="DATE",
            holds="date",
        ),
    ] = None
    before: Annotated[
        float | None,
        Option(help="Only files modified before this time.", panel="Filters", metavar="DATE", holds="date"),
    ] = None


ALL_VIDEOS = Filters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Options of one search.

    Attributes:
        sources: What the query is compared with, in an index that has words; None for everything that it has.
        filters: Which videos the search covers.
        k: Maximum number of videos to return.
        offset: Number of best videos to skip.
        at_least: Minimum probability of a video; the others are left out, and the ranking stays the same.
        rerank: Name of the ranker; ``auto`` for the one that the index was made for, None for the best frames only.
        refine: Whether to order the best videos again by their likeness to each other (SuperGlobal).
        candidates: Number of nearest segments that are reranked.
    """

    sources: SourcesField = None
    filters: Filters = ALL_VIDEOS
    k: Annotated[
        int,
        Option(help="Maximum number of videos.", panel="Output", flag="-k", metavar="N", minimum=1, maximum=200),
    ] = 10
    offset: OffsetField = 0
    at_least: AtLeastField = 0.0
    rerank: Annotated[
        str | None,
        Option(
            help="Reranker of the candidates: ucofia or glscl (both work without training), the file of a trained "
            "aligner, none, or auto (the one that the index was prepared for).",
            panel="Model",
            metavar="NAME|FILE",
            choices=("auto", "none", "ucofia", "glscl"),  # no file: a request must not make a server open one
            http_help="Reranker of the candidates; auto is the one that the index was prepared for.",
        ),
    ] = "auto"
    refine: Annotated[
        bool,
        Option(
            help="Order the best videos again by their likeness to each other (SuperGlobal). Finds more of a kind, but "
            "single videos less surely. Compares only pictures.",
            panel="Model",
        ),
    ] = False
    candidates: Annotated[
        int, Option(help="Number of nearest segments to rerank.", panel=None, minimum=1, maximum=1000)
    ] = CANDIDATES


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateOptions:
    """Options of locating moments.

    Attributes:
        videos: Number of best videos to locate moments in, if no video is given.
        sources: As in ``SearchOptions``.
        filters: Which videos are searched.
        k: Maximum number of moments to return.
        offset: Number of best moments to skip.
        at_least: As in ``SearchOptions``, of the video that a moment is of.
        overlapping: Whether to include moments that overlap better ones.
        weak: Whether to include moments that stand out less than half as much as the best of their video.
        snap: Whether moments that are found by the curve begin and end at cuts where they can.
        refine_edges: Whether to decode a few frames more around the other edges, which makes these precise to about
            0.1 s.
    """

    videos: Annotated[
        int,
        Option(
            help="Number of best videos to look into, if no VIDEO is given.",
            panel="What to search",
            metavar="N",
            minimum=1,
            maximum=100,
            http_help="Number of best videos to look into.",
        ),
    ] = 10
    sources: SourcesField = None
    filters: Filters = ALL_VIDEOS
    k: Annotated[
        int,
        Option(help="Maximum number of moments.", panel="Output", flag="-k", metavar="N", minimum=1, maximum=200),
    ] = 5
    offset: OffsetField = 0
    at_least: AtLeastField = 0.0
    overlapping: Annotated[bool, Option(help="Include moments that overlap better ones.", panel="Output")] = False
    weak: Annotated[
        bool,
        Option(
            help="Include moments that stand out less than half as much as the best one of their video.",
            panel="Output",
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
            help="Decode and encode a few frames more around the edges of moments that lie at no cut, which makes them "
            "precise to about 0.1 s.",
            panel="Output",
        ),
    ] = False
