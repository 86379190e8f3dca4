"""Parsing and encoding of queries: text with negative terms, an image, or a vector."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.search.grammar import split_exclusions
from vidret.types import Frames, Picture, Query, TextEmbedding, Vector
from vidret.types import Sequence as EventSequence
from vidret.video.resize import resize_image


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedQuery:
    """An encoded query.

    Attributes:
        positive: What to look for. An image or a vector is encoded as a text with that one word.
        negatives: Terms that lower the score of a segment.
        is_text: Whether the query is text, not an image or a vector.
    """

    positive: TextEmbedding
    negatives: tuple[TextEmbedding, ...] = ()
    is_text: bool = True

    @property
    def texts(self) -> list[TextEmbedding]:
        """The positive part, then the negative terms."""
        return [self.positive, *self.negatives]


def encode_queries(queries: Sequence[Query], encoder: Encoder) -> list[EncodedQuery]:
    """Encode queries, all texts in one batch.

    Raises:
        VidretError: A query has no positive term or several events, or an image or vector is invalid.
    """
    for query in queries:
        if isinstance(query, EventSequence):
            raise VidretError(f"query must be text, an image or a vector here, got {len(query.events)} events")
    parsed = [parse_query(query) if isinstance(query, str) else None for query in queries]
    texts = [text for parts in parsed if parts is not None for text in (parts[0], *parts[1])]
    embeddings = iter(encoder.encode_text(texts) if texts else [])
    encoded = []
    for query, parts in zip(queries, parsed, strict=True):
        if parts is not None:
            positive, negatives = next(embeddings), tuple(next(embeddings) for _ in parts[1])
            encoded.append(EncodedQuery(positive=positive, negatives=negatives))
        elif not isinstance(query, str | EventSequence):
            embedding = embed_vector(query, encoder) if query.ndim == 1 else encode_image(query, encoder)
            encoded.append(EncodedQuery(positive=embedding, is_text=False))
    return encoded


def parse_query(query: str) -> tuple[str, tuple[str, ...]]:
    """Return the positive part of a text query and its negative terms.

    >>> parse_query('dog -beach on the grass -"two cats", no people')
    ('dog on the grass', ('beach', 'two cats', 'people'))

    Raises:
        VidretError: There is no positive term, or a negative term is empty.
    """
    text, negatives = split_exclusions(query)
    positive = text if negatives else query
    if not positive.strip():
        raise VidretError(f"query must contain a {'positive ' if negatives else ''}word, got {query!r}")
    if not all(negatives):
        raise VidretError(f'query must contain a word between -" and ", got {query!r}')
    return positive, negatives


def embed_vector(vector: Vector, encoder: Encoder) -> TextEmbedding:
    """Return a vector of the encoder's space, scaled to unit length, as an embedding.

    Raises:
        VidretError: The vector has the wrong dimension, or its length is 0 or not finite.
    """
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if vector.shape != (encoder.dim,) or not 0 < length < np.inf:
        raise VidretError(
            f"vector must have {encoder.dim} numbers and a finite length above 0, got {len(vector)} and {length:g}"
        )
    unit = (vector / length).astype(np.float32)
    return TextEmbedding("a vector", unit, unit[None])


def encode_image(image: Picture, encoder: Encoder) -> TextEmbedding:
    """Encode an image like a frame of a video.

    Raises:
        VidretError: The image is not RGB with 8 bits per channel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise VidretError(f"image must be uint8 (height, width, 3), got {image.dtype} {image.shape}")
    frames = Frames(resize_image(np.ascontiguousarray(image), encoder.resize)[None], np.zeros(1))
    vector = encoder.encode_frames([frames])[0].video
    return TextEmbedding("an image", vector, vector[None])
