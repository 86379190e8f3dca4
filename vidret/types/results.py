"""What a search returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from vidret.types.media import Segment, Source
from vidret.types.sequence import EventSpan

Likelihood = Literal["likely", "possible", "unlikely"]
LIKELY, UNLIKELY = 0.7, 0.28  # probabilities: of at least the first, and of less than the second


def rate_probability(probability: float | None) -> Likelihood | None:
    """Return the word for a probability; None if there is none.

    >>> rate_probability(0.9), rate_probability(0.5), rate_probability(0.1)
    ('likely', 'possible', 'unlikely')
    """
    if probability is None:
        return None
    return "likely" if probability >= LIKELY else "unlikely" if probability < UNLIKELY else "possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What of a video matches a query.

    Attributes:
        source: Where it was found.
        start: In seconds.
        end: In seconds.
        share: Its share of the score, in 0..1.
        text: The words; empty for a picture.
        matches: Start and end of the matching words in ``text``, in characters.
    """

    source: Source
    start: float
    end: float
    share: float
    text: str = ""
    matches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        segment: Its best segment.
        time: Time of the best frame in seconds.
        score: Evidence in nats, the logarithm of a likelihood ratio; higher is better.
        weak: Whether it is unlikely that an answer scores no higher, in an index of this size.
        copies: Further paths of the same content.
        why: Evidence of each source, and, where pictures are compared with nothing else, the levels of the ranker.
        evidence: What matches, best first; empty in an index without words.
        events: Where each event of a query of several was found; empty for all others.
        probability: How likely the video answers the query, in 0..1; None for images and vectors.
    """

    video: int
    path: str
    segment: Segment
    time: float
    score: float
    weak: bool = False
    copies: tuple[str, ...] = field(default=())
    why: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    events: tuple[EventSpan, ...] = ()
    probability: float | None = None

    @property
    def likelihood(self) -> Likelihood | None:
        """Its probability as a word."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: In seconds; less than ``end``.
        end: In seconds.
        score: Higher is better. In an index with words, evidence in nats. Otherwise a probability for ``head``; for
            ``curve`` the similarity of the best moment of the video, less what this one stands out less.
        weak: Whether the video is unlikely to answer the query.
        by: ``curve`` (training-free), ``head`` (a trained grounding head) or ``words``.
        similarity: Mean of the curve inside the span; None for ``head``, and for text in an index with words.
        evidence: What matches, best first; empty in an index without words.
        events: As in ``Hit``.
        probability: How likely the video answers the query; in a video that was named, by itself.
    """

    video: int
    path: str
    start: float
    end: float
    score: float
    weak: bool = False
    by: str = "curve"
    similarity: float | None = None
    evidence: tuple[Evidence, ...] = ()
    events: tuple[EventSpan, ...] = ()
    probability: float | None = None

    @property
    def likelihood(self) -> Likelihood | None:
        """Its probability as a word."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Similarity of a query and every stored frame of one video.

    Attributes:
        scores: Similarities.
        times: Times of the frames in seconds.
        start: Start of the stored part in seconds.
        end: End of the stored part in seconds.
        best: Score of the best segment, as in a search.
        typical: Score that few unrelated queries reach in a segment; None for queries that are not text.
        gaps: Start and end in seconds of stretches without a new frame, too long to be covered by a segment.
        cuts: Times in seconds at which a new shot begins, rising; empty if shots are not known.
    """

    scores: Float[np.ndarray, " frame"]
    times: Float[np.ndarray, " frame"]
    start: float
    end: float
    best: float
    typical: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    cuts: tuple[float, ...] = ()
