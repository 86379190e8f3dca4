"""What a query asks of each channel, and what a channel answers."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.types import CANDIDATES, SearchOptions, Source, TextEmbedding, TextSource

Times = Float64[np.ndarray, " span"]
AdjustSpans = Callable[
    [Int64[np.ndarray, " span"], Times, Times, Float[np.ndarray, "clause span"]], Float[np.ndarray, "clause span"]
]
WeighSegments = Callable[[Int64[np.ndarray, " segment"]], Float[np.ndarray, "clause segment"]]
# Sources that wording asks for as it does for another.
ASKED_LIKE: Mapping[Source, Source] = {"subtitles": "speech", "generated": "picture"}
ASKED = 0.6  # how likely a clause asks for the source of its answer, by its wording, on average
TimeSpan = tuple[int, float, float]  # id of a video, start and end in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A part of a query that describes one thing.

    Attributes:
        text: The clause.
        content: The clause without words such as "someone explains how to", which is compared with words. A clause that
            mentions a taught concept is compared with pictures: its content is empty, unless it hints at a source.
        source: The source of words that it hints at; None without a hint.
        phrases: Words in quotes, of which a text must say or show one as it is.
        persons: The persons that must be there; ``text`` says "a person" instead.
        speakers: The persons who must say the phrases; they are among ``persons``.
        is_bare: Whether it says nothing but who must be there.
        shown: The clause as it is shown, with names.
        intent: How likely its wording asks for pictures, speech and on-screen text; empty if it does not tell.
    """

    text: str
    content: str
    source: TextSource | None = None
    phrases: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    is_bare: bool = False
    shown: str = ""
    intent: Mapping[Source, float] = field(default_factory=dict)

    def weigh(self, source: Source, compared: Collection[Source]) -> float:
        """Return what its wording adds to a source, one of those that it is compared with, in nats.

        It is the logarithm of the probability that the clause asks for this one of them, over ``ASKED``; 0 if its
        wording does not tell, or there is nothing to tell apart.
        """
        compared, asked_source = {ASKED_LIKE.get(other, other) for other in compared}, ASKED_LIKE.get(source, source)
        asked = {other: share for other, share in self.intent.items() if other in compared}
        if asked_source not in asked or len(asked) == 1:
            return 0.0
        return math.log(asked[asked_source] / sum(asked.values()) / ASKED)

    @property
    def is_report(self) -> bool:
        """Whether it says who speaks, "someone explains how to", besides what is said."""
        return self.source == "speech" and bool(self.content) and self.content != self.text

    @property
    def asks_more(self) -> bool:
        """Whether it describes more than its phrases say, which must be there besides."""
        num_quoted = sum(len(phrase.split()) for phrase in self.phrases)
        return num_quoted > 0 and len((self.content or self.text).split()) > num_quoted


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedQuery:
    """An encoded query.

    Attributes:
        positive: What to look for. An image or a vector is encoded as a text with that one word.
        negatives: Terms that lower the score of a segment.
        is_text: Whether the query is text without taught concepts, not images or a vector.
    """

    positive: TextEmbedding
    negatives: tuple[TextEmbedding, ...] = ()
    is_text: bool = True


class Match(NamedTuple):
    """Something in a video, from one time to another, that speaks for a clause.

    Attributes:
        video_id: Id of the video.
        source: The channel.
        start: In seconds.
        end: In seconds.
        evidence: In nats.
        text: What is said or shown; empty for pictures, as are the others.
        stems: The stems that it shares with the clause, but for stop words.
        cover: Share of what the words of the clause tell that it holds, in 0..1.
    """

    video_id: int
    source: Source
    start: float
    end: float
    evidence: float
    text: str = ""
    stems: frozenset[str] = frozenset()
    cover: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing about the clause: it shares no word, and is likelier to mean something else."""
        return self.cover == 0.0 and self.evidence < 0.0


VideoTexts = list[list[Match]]  # the texts of a video that match each clause, best first
Evidence_co = TypeVar("Evidence_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelQuery:
    """A query as channels are asked it.

    Attributes:
        clauses: Its clauses.
        encoded: What pictures are compared with, by clause.
        vectors: What texts are compared with, by clause; of 0 dimensions in an index without texts.
        sources: What it is compared with, of what the index has.
        options: The options of the search.
        excluded: Videos to leave out.
        depth: Number of nearest pieces to consider of each clause, at least ``candidates`` of the options.
        examples: Vectors of what the sounds are like that each clause mentions; empty for a clause without.
        covered: What is compared besides the nearest, such as what is seen while a text is said.
        weigh: Returns what each of some segments, by id, adds to the evidence of each clause; None if nothing does.
        adjust: Returns the evidence of each clause in spans of a video, given its id, their starts and ends in seconds,
            and what it is without regard to persons; None for a query that names none.
    """

    clauses: Sequence[Clause]
    encoded: Sequence[EncodedQuery]
    vectors: Float32[np.ndarray, "clause dim"]
    sources: tuple[Source, ...]
    options: SearchOptions
    excluded: frozenset[int] = frozenset()
    depth: int = CANDIDATES
    examples: Sequence[Float32[np.ndarray, "_example _dim"]] = ()
    covered: Sequence[TimeSpan] = ()
    weigh: WeighSegments | None = None
    adjust: AdjustSpans | None = None


class Channel(Protocol[Evidence_co]):
    """A kind of evidence of one index. It finds nothing for a query that is not compared with it."""

    def find(self, query: ChannelQuery) -> Mapping[int, Evidence_co]:
        """Return the best pieces, by video, of the videos that the filters allow and that are not excluded."""

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> Mapping[int, Evidence_co]:
        """Return all pieces of some videos, whatever the filters are."""
