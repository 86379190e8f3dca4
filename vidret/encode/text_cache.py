"""A cache in files for the vectors of fixed texts, such as a model's bank of queries, encoded once per machine.

A file is named after the encoder and the texts, begins with a digest of the rest, and is used only if the encoder still
returns the same vectors for the first text. Missing, damaged or unwritable files only cost time.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vidret.disk import drop_oldest, find_user_folder, replacing
from vidret.errors import StoreError
from vidret.types import TextEmbedding

logger = logging.getLogger(__name__)

MAX_BYTES, MAX_FILES = 64 << 20, 32
TOLERANCE = 1e-4  # of a vector's values, which differ by 1e-5 between batches
_DIGEST_BYTES = 32


class TextEncoder(Protocol):
    """The part of an encoder that encodes texts."""

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text."""


class IdentifiedEncoder(TextEncoder, Protocol):
    """A text encoder with a fingerprint; equal fingerprints mean equal vectors."""

    @property
    def fingerprint(self) -> str:
        """The identity of its weights and their use."""


def encode_once(encoder: IdentifiedEncoder, texts: Sequence[str]) -> list[TextEmbedding]:
    """Return the embeddings of texts, from the cache if this encoder has encoded them before.

    Texts with @, which may mention the concepts of an index, are always encoded.
    """
    if not texts or any("@" in text for text in texts):
        return encoder.encode_text(texts)
    key = repr((encoder.fingerprint, tuple(texts))).encode("utf-8", "surrogatepass")
    path = locate_folder() / hashlib.blake2b(key, digest_size=16).hexdigest()
    known = _read(path, texts)
    if known and _are_close(known[0], encoder.encode_text(texts[:1])[0]):
        return known
    embeddings = encoder.encode_text(texts)
    _write(path, embeddings)
    return embeddings


def locate_folder() -> Path:
    """Return the folder of the files, in the user's cache."""
    return find_user_folder("XDG_CACHE_HOME", "~/.cache") / "vidret" / "texts"


def _read(path: Path, texts: Sequence[str]) -> list[TextEmbedding]:
    """Return the embeddings in a file; empty if it is missing or damaged."""
    try:
        content = path.read_bytes()
        if content[:_DIGEST_BYTES] != _digest(content[_DIGEST_BYTES:]):
            return []
        os.utime(path)  # the most recently used files are kept
        tensors = load(content[_DIGEST_BYTES:])
    except (OSError, SafetensorError):
        return []

    def split(name: str) -> Sequence[Any]:
        """Return the rows of each text in a tensor; None for each if the encoder has no such tensor."""
        if name not in tensors:
            return [None] * len(texts)
        return np.split(tensors[name], np.cumsum(tensors[f"num_{name}"])[:-1])

    parts = zip(texts, tensors["sentences"], split("words"), split("states"), strict=True)
    return [TextEmbedding(text, sentence, words, states) for text, sentence, words, states in parts]


def _write(path: Path, embeddings: Sequence[TextEmbedding]) -> None:
    tensors = {"sentences": np.stack([embedding.sentence for embedding in embeddings])}
    for name in ("words", "states"):
        values = [getattr(embedding, name) for embedding in embeddings]
        if values[0] is not None:
            tensors[name] = np.concatenate(values)
            tensors[f"num_{name}"] = np.array([len(rows) for rows in values])
    content = save(tensors)
    if len(content) > MAX_BYTES:
        return
    try:
        with replacing(path) as draft:
            draft.write_bytes(_digest(content) + content)
        drop_oldest(path.parent, "*", MAX_FILES)
    except (StoreError, OSError) as error:
        logger.info("texts will be encoded again: %s", error)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _are_close(one: TextEmbedding, other: TextEmbedding) -> bool:
    """Return whether two embeddings of a text are equal up to rounding, as from the same model and code."""
    if (one.states is None) != (other.states is None):
        return False
    parts = ((one.sentence, other.sentence), (one.words, other.words))
    return all(a.shape == b.shape and np.allclose(a, b, atol=TOLERANCE) for a, b in parts)
