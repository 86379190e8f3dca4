"""What a person asks -> what is searched for: words, words that must not fit, or a picture."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.types import Frames, Picture, Query, TextEmbedding, Vector
from vidret.video.resize import resize_image

UNWANTED = re.compile(r'(?:(?<=\s)|^)-(?:"([^"]*)"|(?=\w)(\S+))')


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """An encoded query: what must fit, and what must not.

    What comes without words, a picture or a vector, stands in for a text as its only word.
    """

    text: TextEmbedding
    unwanted: tuple[TextEmbedding, ...] = ()
    wordless: bool = False


def encode_queries(queries: Sequence[Query], encoder: Encoder) -> list[Wanted]:
    """Encode queries, all texts at once.

    Raises:
        VidretError: A query holds no word that is wanted, or a picture or vector is none.
    """
    parsed = [parse_query(query) if isinstance(query, str) else None for query in queries]
    texts = [text for parts in parsed if parts is not None for text in parts]
    encoded = iter(encoder.encode_text(texts) if texts else [])
    wanted = []
    for query, parts in zip(queries, parsed, strict=True):
        if parts is not None:
            text, *unwanted = (next(encoded) for _ in parts)
            wanted.append(Wanted(text, tuple(unwanted)))
        elif not isinstance(query, str):
            text = take_vector(query, encoder) if query.ndim == 1 else encode_picture(query, encoder)
            wanted.append(Wanted(text, wordless=True))
    return wanted


def parse_query(query: str) -> tuple[str, ...]:
    """Split a query into what is wanted and, after it, each thing that is not.

    >>> parse_query('dog -beach on the grass -"two cats"')
    ('dog on the grass', 'beach', 'two cats')

    Raises:
        VidretError: Nothing is wanted, or something unwanted is empty.
    """
    unwanted = tuple((quoted or word).strip() for quoted, word in UNWANTED.findall(query))
    text = " ".join(UNWANTED.sub(" ", query).split()) if unwanted else query
    if not text.strip():
        raise VidretError(f"query must hold a word{' that is wanted' if unwanted else ''}, got {query!r}")
    if not all(unwanted):
        raise VidretError(f'query must hold a word between -" and ", got {query!r}')
    return text, *unwanted


def take_vector(vector: Vector, encoder: Encoder) -> TextEmbedding:
    """Take a vector of the encoder's space, at unit length.

    Raises:
        VidretError: It is of another dimension, or has no direction.
    """
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if vector.shape != (encoder.dim,) or not 0 < length < np.inf:
        raise VidretError(
            f"vector must have {encoder.dim} numbers and a finite length above 0, got {len(vector)} and {length:g}"
        )
    unit = (vector / length).astype(np.float32)
    return TextEmbedding("a vector", unit, unit[None])


def encode_picture(picture: Picture, encoder: Encoder) -> TextEmbedding:
    """Encode a picture as the frame of a video that looks like it.

    Raises:
        VidretError: It is not an RGB picture of bytes.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise VidretError(f"picture must be uint8 (height, width, 3), got {picture.dtype} {picture.shape}")
    frames = Frames(resize_image(np.ascontiguousarray(picture), encoder.resize)[None], np.zeros(1))
    vector = encoder.encode_frames([frames])[0].video
    return TextEmbedding("a picture", vector, vector[None])
