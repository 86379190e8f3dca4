"""Rankers, which score segments for reranking by levels, and pack the data that they need at indexing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int, Int64

from vidret.types import SegmentEmbedding, TextEmbedding
from vidret.types.arrays import widen_rows

TOP_FRAMES = 4
BLOCK = 64  # segments whose frames are compared together
MAX_TEXTS = 256  # that are compared with them at a time
ROUNDING = 1e-6  # similarities of equal frames differ by less: a matrix product rounds rows by their position
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
        """Return the bytes to store with a segment for scoring; empty if none are needed."""

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments, given their packed bytes and frame vectors."""


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
        sentences = np.stack([text.sentence for text in texts])
        few = (sentences[first : first + MAX_TEXTS] for first in range(0, len(texts), MAX_TEXTS))
        scores, best = zip(*(score_top_frames(some, frames) for some in few), strict=True)
        return Levels({"frames": np.concatenate(scores)}, np.concatenate(best))


def score_top_frames(
    sentences: Float[np.ndarray, "text dim"], frames: Sequence[Float[np.ndarray, "_frame dim"]]
) -> tuple[Float[np.ndarray, "text segment"], Int[np.ndarray, "text segment"]]:
    """Score segments by the mean similarity of the ``TOP_FRAMES`` frames that are most similar to each query.

    A video may show the query's content in a few frames only, and the single best frame may be accidental.

    Returns:
        The score of each segment for each query, and the index of its best frame: the first one of equal frames.
    """
    shape = len(sentences), len(frames)
    scores, best = np.empty(shape, np.float32), np.empty(shape, np.int64)
    if not frames:
        return scores, best
    blocks = (frames[first : first + BLOCK] for first in range(0, len(frames), BLOCK))
    similarities = np.concatenate([sentences @ widen_rows(np.concatenate(block)).T for block in blocks], axis=1)
    lengths = np.array([len(segment) for segment in frames])
    starts = np.cumsum(lengths) - lengths
    for length in np.unique(lengths):  # segments with equal numbers of frames together
        columns = np.flatnonzero(lengths == length)
        rows = similarities[:, starts[columns][:, None] + np.arange(length)]
        kept = np.partition(rows, -TOP_FRAMES, axis=2)[..., -TOP_FRAMES:] if length > TOP_FRAMES else rows
        scores[:, columns] = kept.mean(axis=2)
        best[:, columns] = find_first_best(rows, ROUNDING)
    return scores, best


def find_first_best(scores: Float[np.ndarray, "*any frame"], rounding: float) -> Int[np.ndarray, "*any"]:
    """Return the index of the best frame, the first one of those that are equal but for rounding."""
    return np.asarray((scores >= scores.max(axis=-1, keepdims=True) - rounding).argmax(axis=-1))
