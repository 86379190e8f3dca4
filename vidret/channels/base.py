"""What a query asks of each channel, and what a channel answers."""

from dataclasses import dataclass

from vidret.types import TextEmbedding, TextSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A part of a query that describes one thing.

    Attributes:
        text: The clause.
        content: The clause without words such as "someone explains how to", which is compared with words. A clause that
            mentions a taught concept is compared with pictures: its content is empty, unless it hints at a source.
        source: The source of words that it hints at; None without a hint.
        phrases: Words in quotes, of which a text must say or show one as it is.
    """

    text: str
    content: str
    source: TextSource | None = None
    phrases: tuple[str, ...] = ()

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

    @property
    def texts(self) -> list[TextEmbedding]:
        """The positive part, then the negative terms."""
        return [self.positive, *self.negatives]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Something in a video, from one time to another, that speaks for a clause.

    Attributes:
        video_id: Id of the video.
        source: The channel.
        start: In seconds.
        end: In seconds.
        evidence: In nats.
        text: What is said or shown.
        stems: The stems that it shares with the clause, but for stop words.
        cover: Share of what the words of the clause tell that it holds, in 0..1.
    """

    video_id: int
    source: TextSource
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
