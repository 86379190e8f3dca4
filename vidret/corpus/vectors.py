"""Vectors of an index's videos, and of phrases, which the index keeps so that each is encoded only once."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float16, Float32, Int64

from vidret.disk import replacing
from vidret.encode.text_cache import IdentifiedEncoder, TextEncoder
from vidret.errors import StoreError, VidretError
from vidret.store.store import Store
from vidret.types import TextEmbedding

FOLDER = "phrases"  # of an index
MAX_KEPT = 20_000  # phrases of an encoder; beyond it only those of the last run are kept


class RememberedTexts:
    """A text encoder that caches the sentence vectors of texts in a file of a folder.

    The file belongs to the encoder's fingerprint. Texts that cannot be read or written are encoded again.
    """

    def __init__(self, encoder: IdentifiedEncoder, folder: Path, *, on_new: Callable[[int], None]) -> None:
        """Read this encoder's file in the folder; ``on_new`` is called with the number of texts to be encoded."""
        self._encoder, self._on_new = encoder, on_new
        digest = hashlib.blake2b(encoder.fingerprint.encode(), digest_size=16).hexdigest()
        self._path = folder / f"{digest}.npz"
        self._known = read_phrases(self._path)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode the texts that are new, and return all, each with the sentence as its only word."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._on_new(len(new))
            new_vectors = {
                text: embedding.sentence for text, embedding in zip(new, self._encoder.encode_text(new), strict=True)
            }
            self._known |= new_vectors
            if np.isfinite(np.stack(list(new_vectors.values()))).all():
                write_phrases(self._path, self._known if len(self._known) <= MAX_KEPT else new_vectors)
        return [TextEmbedding(text, self._known[text], self._known[text][None]) for text in texts]


def read_phrases(path: Path) -> dict[str, Float32[np.ndarray, " dim"]]:
    """Return the vectors of a file by phrase; none if it does not exist or is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(zip(stored["phrases"].tolist(), stored["vectors"].astype(np.float32), strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}


def write_phrases(path: Path, vectors: dict[str, Float32[np.ndarray, " dim"]]) -> None:
    """Write vectors by phrase in place of a file, if the folder can be written."""
    with contextlib.suppress(StoreError), replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, phrases=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))


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
        raise VidretError(f"{store.path}: vectors must be finite, got NaN or infinity in {num_wrong} segments")
    means = np.add.reduceat(ordered, starts, axis=0) / counts[:, None].astype(np.float32)
    return IndexVectors(segment_ids, owners, segments, video_ids, means)
