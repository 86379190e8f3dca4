"""What to search for, and where."""

from dataclasses import dataclass

from vidret.types.embeddings import Vector
from vidret.types.media import Picture, Source

CANDIDATES = 200  # nearest segments that a search reranks by default
# Text, in which -word and -"some words" are negative terms; an image to look like; or a vector of the encoder's space.
Query = str | Picture | Vector


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

    folder: str | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    after: float | None = None
    before: float | None = None


ALL_VIDEOS = Filters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Options of one search.

    Attributes:
        k: Maximum number of videos to return.
        rerank: Name of the ranker; ``auto`` for the one that the index was made for, None for the best frames alone.
        filters: Which videos the search covers.
        candidates: Number of nearest segments that are reranked.
        sources: What the query is compared with, in an index that has words; None for everything that it has.
    """

    k: int = 10
    rerank: str | None = "auto"
    filters: Filters = ALL_VIDEOS
    candidates: int = CANDIDATES
    sources: tuple[Source, ...] | None = None
