"""The protocol of channels: the query that each one gets, and the matches that it returns."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.store.snapshots.snapshot import Selection
from vidret.types import CANDIDATES, SearchOptions, Source, TextEmbedding, TextSource

Times = Float64[np.ndarray, " span"]
AdjustSpans = Callable[
    [Int64[np.ndarray, " span"], Times, Times, Float[np.ndarray, "clause span"]], Float[np.ndarray, "clause span"]
]
WeighSegments = Callable[[Int64[np.ndarray, " segment"]], Float[np.ndarray, "clause segment"]]
# Sources that share the wording of another one.
ASKED_LIKE: Mapping[Source, Source] = {"subtitles": "speech", "generated": "picture"}
ASKED = 0.6  # mean probability, by its wording, that a clause asks for the source of its answer
TimeSpan = tuple[int, float, float]  # id of a video, start and end in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A part of a query that describes one thing.

    Attributes:
        text: The clause.
        content: The clause without words such as "someone explains how to", to be compared with texts. Empty for a
            clause that mentions a taught concept, which is compared with pictures, unless it hints at a source.
        source: The source of texts that its wording hints at; None without a hint.
        phrases: Phrases in quotes, of which a text must contain one as it is.
        persons: The persons that must be there; ``text`` says "a person" instead.
        speakers: The persons who must say the phrases; they are among ``persons``.
        is_bare: Whether it only names persons.
        shown: The clause as it is shown, with names.
        intent: Probability that its wording asks for pictures, speech and on-screen text; empty if unknown.
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
        """Return the nats that its wording adds to a source, one of those that the clause is compared with.

        It is the logarithm of the probability that the clause asks for this one of them, over ``ASKED``; 0 if that is
        unknown, or there is only one source.
        """
        compared, asked_source = {ASKED_LIKE.get(other, other) for other in compared}, ASKED_LIKE.get(source, source)
        asked = {other: share for other, share in self.intent.items() if other in compared}
        if asked_source not in asked or len(asked) == 1:
            return 0.0
        return math.log(asked[asked_source] / sum(asked.values()) / ASKED)

    @property
    def is_report(self) -> bool:
        """Whether it has words of reporting, "someone explains how to", besides what is said."""
        return self.source == "speech" and bool(self.content) and self.content != self.text

    @property
    def asks_more(self) -> bool:
        """Whether it has more words than its phrases, which must match as well."""
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
    """A match of a clause in a video, from one time to another.

    Attributes:
        video_id: Id of the video.
        source: The channel.
        start: In seconds.
        end: In seconds.
        evidence: In nats.
        text: The matching text; empty for pictures, as are the fields below.
        stems: The stems that it shares with the clause, without stop words.
        cover: Share of the information of the clause's words that the text has, in 0..1.
        misheard: The phonemes of the clause, if the text shares no word with it, but sounds like it; empty otherwise.
    """

    video_id: int
    source: Source
    start: float
    end: float
    evidence: float
    text: str = ""
    stems: frozenset[str] = frozenset()
    cover: float = 0.0
    misheard: str = ""

    @property
    def is_silent(self) -> bool:
        """Whether the match is not evidence: it shares no word, and is likelier to mean something else."""
        return self.cover == 0.0 and self.evidence < 0.0


VideoTexts = list[list[Match]]  # the texts of a video that match each clause, best first
Evidence_co = TypeVar("Evidence_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelQuery:
    """A query in the form that channels take.

    Attributes:
        clauses: Its clauses.
        encoded: The encoded query for pictures, by clause.
        vectors: The sentence vector for texts, by clause; of 0 dimensions in an index without texts.
        sources: The sources that it is compared with, of those that the index has.
        options: The options of the search.
        within: The videos that pass its filters and are not excluded.
        depth: Number of nearest pieces to consider of each clause, at least ``candidates`` of the options.
        examples: Vectors of examples of the sounds that each clause mentions; empty for a clause without.
        covered: Spans whose pieces are compared besides the nearest ones, such as those of matching texts.
        weigh: Returns the nats that each of some segments, by id, adds to each clause; None if there are none.
        adjust: Returns the evidence of each clause in spans of a video, given its id, their starts and ends in seconds,
            and the evidence without regard to persons; None for a query that names none.
    """

    clauses: Sequence[Clause]
    encoded: Sequence[EncodedQuery]
    vectors: Float32[np.ndarray, "clause dim"]
    sources: tuple[Source, ...]
    options: SearchOptions
    within: Selection
    depth: int = CANDIDATES
    examples: Sequence[Float32[np.ndarray, "_example _dim"]] = ()
    covered: Sequence[TimeSpan] = ()
    weigh: WeighSegments | None = None
    adjust: AdjustSpans | None = None


class Channel(Protocol[Evidence_co]):
    """A kind of evidence in one index. It returns nothing for queries that are not compared with it."""

    def find(self, query: ChannelQuery) -> Mapping[int, Evidence_co]:
        """Return the best pieces by video, of the selected videos."""

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> Mapping[int, Evidence_co]:
        """Return all pieces of some videos, selected or not."""
