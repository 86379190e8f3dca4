"""The encoder of an index that knows its taught concepts: ``@name`` in a text becomes part of the text's vector."""

import re
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float32

from vidret.encode.encoder import Encoder, has_frame_vectors
from vidret.search.concepts.composing import Composer
from vidret.search.concepts.storage import (
    TaughtConcept,
    find_direction,
    load_concept,
    unknown_concept,
)
from vidret.search.query.mentions import find_mentions, replace_mentions
from vidret.store.store import Store
from vidret.types import ComposedQuery, Frames, Query, SegmentEmbedding, TextEmbedding, Vector
from vidret.types import Sequence as EventSequence


class ConceptEncoder:
    """An encoder whose texts may mention concepts. Texts without, and frames, are encoded as before."""

    def __init__(self, encoder: Encoder, store: Store) -> None:
        self._encoder, self._store = encoder, store
        self.name, self.dim, self.fingerprint = encoder.name, encoder.dim, encoder.fingerprint
        self.resize, self.sampling = encoder.resize, encoder.sampling
        self.encodes_frames_alone = getattr(encoder, "encodes_frames_alone", False)
        self.has_frame_vectors = has_frame_vectors(encoder)
        self.composer = Composer(store, encoder)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each item as one segment."""
        return self._encoder.encode_frames(batch, tokens=tokens)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one that mentions concepts has no words of its own, like an image."""
        mentioned = [self._find_concepts(text) for text in texts]
        plain = [
            replace_mentions(text, {each.concept.name: each.concept.text for each in concepts})
            for text, concepts in zip(texts, mentioned, strict=True)
        ]
        meanings = [each.concept.text for concepts in mentioned for each in concepts]
        embeddings = self._encoder.encode_text([*plain, *meanings])
        own = iter(embeddings[len(plain) :])
        return [
            self._compose(text, embedding, [(concept, next(own).sentence) for concept in concepts])
            if concepts
            else embedding
            for text, embedding, concepts in zip(texts, embeddings, mentioned, strict=False)
        ]

    def check_mentions(self, query: Query, people: Collection[str] = ()) -> None:
        """Check that a query mentions only concepts, or persons by their handles.

        Raises:
            VidretError: It mentions something else.
        """
        texts = [query] if isinstance(query, str) else []
        if isinstance(query, EventSequence):
            texts = [text for event in query.events for text in ([event] if isinstance(event, str) else event)]
        elif isinstance(query, ComposedQuery):
            texts = [query.text]
        for name in (name for text in texts for name in find_mentions(text) if name not in people):
            if load_concept(self._store, name) is None:
                raise unknown_concept(self._store, name, people)

    def find_sounds(self, text: str) -> Float32[np.ndarray, "_example _dim"]:
        """Return the vectors of examples of all sounds that a text mentions; of shape (0, 0) for none."""
        heard = [taught.heard for taught in self._find_concepts(text) if taught.heard is not None]
        return np.concatenate(heard) if heard else np.zeros((0, 0), np.float32)

    def _find_concepts(self, text: str) -> list[TaughtConcept]:
        names = find_mentions(text) if "@" in text else ()
        return [taught for name in names if (taught := load_concept(self._store, name)) is not None]

    def _compose(
        self, text: str, embedding: TextEmbedding, concepts: Sequence[tuple[TaughtConcept, Vector]]
    ) -> TextEmbedding:
        rest = replace_mentions(text, {taught.concept.name: "" for taught, _ in concepts})
        vector, offset = self.compose_concepts(concepts, embedding.sentence if re.search(r"\w", rest) else None)
        return TextEmbedding(embedding.text, vector, vector[None], offset=offset)

    def compose_concepts(
        self, concepts: Sequence[tuple[TaughtConcept, Vector]], text: Vector | None = None
    ) -> tuple[Float32[np.ndarray, " dim"], float]:
        """Return the sum of concepts, each of its examples and the vector of its text, and of a text that says more.

        Returns:
            The vector, and what its inner products lack on average to those of texts.
        """
        sample, parts = self.composer.sample, [] if text is None else [(text, 1.0)]
        for taught, meaning in concepts:
            share = taught.concept.share
            if taught.heard is not None:  # pictures are compared with its name
                parts.append((sample.standardise(meaning), 1.0))
                continue
            shown = find_direction(taught.yes, taught.no, sample) if taught.direction is None else taught.direction
            mixed = (1 - share) * sample.standardise(meaning) + share * sample.standardise(shown)
            parts.append((mixed, 1.0))
        return self.composer.compose(parts)
