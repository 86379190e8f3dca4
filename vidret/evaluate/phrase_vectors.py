"""Vectors of phrases, of which a text encoder sees each once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from vidret.errors import VidretError
from vidret.types import TextEmbedding


class TextEncoder(Protocol):
    """The part of an encoder that phrases need."""

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text."""
        ...


class RememberedTexts:
    """A text encoder that remembers the texts of several steps, most of which are the same."""

    def __init__(self, encoder: TextEncoder) -> None:
        """Remember nothing yet."""
        self._encoder = encoder
        self._known: dict[str, TextEmbedding] = {}

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode the texts that are new, and return all."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode_text(new), strict=True))
        return [self._known[text] for text in texts]


def encode_phrases(encoder: TextEncoder, phrases: Sequence[str]) -> Float32[np.ndarray, "phrase dim"]:
    """Return the unit vectors of phrases.

    Phrases of similar length are encoded together, since a batch is padded to its longest text.

    Raises:
        VidretError: There is no phrase, or a vector is not finite.
    """
    if not phrases:
        raise VidretError("phrases must not be empty, got none")
    order = sorted(range(len(phrases)), key=lambda index: len(phrases[index]))
    embeddings = encoder.encode_text([phrases[index] for index in order])
    vectors = np.empty((len(phrases), len(embeddings[0].sentence)), np.float32)
    vectors[order] = np.stack([each.sentence for each in embeddings])
    if wrong := [phrase for phrase, row in zip(phrases, vectors, strict=True) if not np.isfinite(row).all()]:
        raise VidretError(f"vectors of phrases must be finite, got NaN or infinity for {wrong[0]!r}")
    return vectors
