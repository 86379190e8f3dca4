"""Vectors of an index's videos, and of phrases, which are encoded only once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Int64

from vidret.encode.text_cache import IdentifiedEncoder, TextEncoder, encode_once
from vidret.errors import StoreError, VidretError
from vidret.store.store import Store
from vidret.text import format_count
from vidret.types import TextEmbedding


class _Sentences:
    """A text encoder whose texts have the sentence as their only word, so that they take little space."""

    def __init__(self, encoder: IdentifiedEncoder) -> None:
        self._encoder, self.fingerprint = encoder, f"sentences of {encoder.fingerprint}"

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [
            TextEmbedding(text.text, text.sentence, text.sentence[None]) for text in self._encoder.encode_text(texts)
        ]


class KeptSentences:
    """A text encoder whose sentence vectors this machine keeps; see ``encode_once``."""

    def __init__(self, encoder: IdentifiedEncoder) -> None:
        self._sentences = _Sentences(encoder)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Return texts with the sentence as their only word, from the cache if they were encoded before."""
        return encode_once(self._sentences, texts)


def encode_phrases(encoder: TextEncoder, phrases: Sequence[str]) -> Float32[np.ndarray, "phrase dim"]:
    """Return the unit vectors of phrases.

    Phrases of similar length are encoded together, since a batch is padded to its longest text. Raise VidretError if
    there is no phrase, or a vector is not finite.
    """
    if not phrases:
        raise VidretError("phrases must not be empty, got none")
    order = sorted(range(len(phrases)), key=lambda index: len(phrases[index]))
    embeddings = encoder.encode_text([phrases[index] for index in order])
    vectors = np.empty((len(phrases), len(embeddings[0].sentence)), np.float32)
    vectors[order] = np.stack([embedding.sentence for embedding in embeddings])
    if wrong := [phrase for phrase, row in zip(phrases, vectors, strict=True) if not np.isfinite(row).all()]:
        raise VidretError(f"vectors of phrases must be finite, got NaN or infinity for {wrong[0]!r}")
    return vectors


@dataclass(frozen=True, slots=True, eq=False)
class IndexVectors:
    """The unit vectors of an index's searchable segments, their video ids, and the mean vector of each video.

    Ids ascend. Segments of one video are alike, so statistics about videos count each video once.
    """

    segment_ids: Int64[np.ndarray, " segment"]
    owners: Int64[np.ndarray, " segment"]
    segments: Float16[np.ndarray, "segment dim"]
    video_ids: Int64[np.ndarray, " video"]
    means: Float32[np.ndarray, "video dim"]


def read_index_vectors(store: Store) -> IndexVectors:
    """Read the vectors of an index; raise StoreError if it is empty, or VidretError if a vector is not finite.

    Damaged vectors are left out, with a warning.
    """
    segment_ids, segments = store.features.intact_vectors(store.searchable())
    owners = store.owners(segment_ids)
    exists = owners >= 0  # the others have just been deleted
    segment_ids, segments, owners = segment_ids[exists], segments[exists], owners[exists]
    if not len(segment_ids):
        raise StoreError(f"{store.path}: there must be a segment to describe, got an empty index")
    order = np.argsort(owners, kind="stable")
    video_ids, starts = np.unique(owners[order], return_index=True)
    counts = np.diff(np.append(starts, len(owners)))
    ordered = segments[order].astype(np.float32)
    if num_wrong := int(np.count_nonzero(~np.isfinite(ordered).all(axis=1))):
        raise VidretError(
            f"{store.path}: vectors must be finite, got NaN or infinity in {format_count(num_wrong, 'segment')}"
        )
    means = np.add.reduceat(ordered, starts, axis=0) / counts[:, None].astype(np.float32)
    return IndexVectors(segment_ids, owners, segments, video_ids, means)
