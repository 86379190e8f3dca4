"""Rankers: score segments for reranking, by levels, and pack at indexing what that needs of a segment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from vidret.align.similarity import score_top_frames
from vidret.types import Segment, SegmentEmbedding, TextEmbedding

NONE = "none"
MEAN = "mean"
AUTO = "auto"
UCOFIA_WEIGHTS: Mapping[str, float] = {"segment": 1 / 3, "frames": 1 / 3, "words": 1 / 3}
UNTRAINED_TEMPERATURE = 0.05  # measured: cosines spread wider than trained logits

Ids = Int64[np.ndarray, " _id"]
Packed = Sequence[bytes | memoryview]
FrameRows = Sequence[Float[np.ndarray, "_frame dim"]]


class Levels(NamedTuple):
    """Scores of texts against segments by level, coarse to fine, and the index of each text's best frame in each."""

    scores: dict[str, Float[np.ndarray, "text segment"]]
    best: Int[np.ndarray, "text segment"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SegmentFeatures:
    """What is stored of some segments.

    Attributes:
        ids: Ids, ascending.
        segments: The segments.
        packed: What the ranker packed.
        frames: Frame vectors.
        times: Times of the frames in seconds.
    """

    ids: Ids
    segments: Sequence[Segment]
    packed: Packed
    frames: Sequence[Float32[np.ndarray, "_frame dim"]]
    times: Sequence[Float64[np.ndarray, " _frame"]]


class Ranker(Protocol):
    """Scores segments for texts.

    Attributes:
        name: Argument of ``load_ranker`` that loads it again.
        fingerprint: Hash of the model that packs segments; empty if nothing is packed.
        weights: Mixing weights of the levels.
        temperature: Temperature of SK-norm, in the unit of the levels, about that of cosines.
        wants_tokens: Whether ``pack`` needs the tokens of a segment.
    """

    name: str
    fingerprint: str
    weights: Mapping[str, float]
    temperature: float
    wants_tokens: bool

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return what is stored with a segment for scoring; empty if nothing is."""
        ...

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments, given what was packed and their frame vectors."""
        ...


class FrameRanker:
    """The mean of the best frames. Stores nothing, training-free."""

    name, fingerprint = NONE, ""
    weights: Mapping[str, float] = {"frames": 1.0}
    temperature = 0.05
    wants_tokens = False

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return nothing to store."""
        return b""

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against the best frames of each segment."""
        scores, best = zip(*(score_top_frames(text.sentence, frames) for text in texts), strict=True)
        return Levels({"frames": np.stack(scores)}, np.array(best))
