"""The encoder of an index with its taught concepts: ``@name`` in a text becomes part of the text's vector.

Texts, images and concepts are added up to one vector with equal weights. Similarities of texts and of images with the
same videos differ in level and spread, so vectors are first standardised over a sample of the index.
"""

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.align.gda import invert_shrunk
from vidret.channels.picture.query_bank import UNRELATED
from vidret.encode.encoder import Encoder, has_frame_vectors
from vidret.errors import StoreError
from vidret.search.concepts.storage import TaughtConcept, load_concept
from vidret.search.query.marks import find_mentions, replace_mentions
from vidret.store.lookup import spread_evenly
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding, TextEmbedding, Vector

SAMPLE_SIZE = 4096  # segments
SHRINKAGE = 10.0  # added to the variances of segments, in units of their mean; measured with measure_clips.py
DRIFT = 1.25  # change of the index in size from which it is sampled again

Rows = Float[np.ndarray, "segment dim"]
Examples = Float[np.ndarray, "example dim"]
Counterexamples = Float[np.ndarray, "counterexample dim"]


class VectorSample:
    """Vectors of a sample of an index's segments, and the spread of scores over them."""

    def __init__(self, vectors: Rows, owners: Int64[np.ndarray, " segment"]) -> None:
        """Set the vectors, and the ids of their videos."""
        self.vectors = vectors.astype(np.float64)
        self.owners = owners
        dim = self.vectors.shape[1]
        self.mean: Vector = self.vectors.mean(axis=0) if len(self.vectors) else np.zeros(dim)

    @cached_property
    def precision(self) -> Float[np.ndarray, "dim dim"]:
        """Return the inverse of the covariance, shrunk to ``SHRINKAGE``; the identity where nothing varies."""
        deviations = self.vectors - self.mean
        dim = self.vectors.shape[1]
        covariance = deviations.T @ deviations / max(len(deviations), 1)
        if not np.trace(covariance) > 0:
            return np.eye(dim)
        return invert_shrunk(covariance, 1 + dim / SHRINKAGE)

    def measure_spread(self, direction: Vector) -> float:
        """Return the standard deviation of the inner products with a vector."""
        return float((self.vectors @ direction).std()) if len(self.vectors) else 0.0

    def standardise(self, direction: Vector) -> Vector:
        """Scale a vector so that its inner products have the standard deviation 1; else to unit length."""
        exact = direction.astype(np.float64)
        scale = self.measure_spread(exact) or float(np.linalg.norm(exact)) or 1.0
        return exact / scale


class Composer:
    """Composes query vectors for one index."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self._store, self._encoder = store, encoder
        self._sample: VectorSample | None = None
        self._measured: tuple[VectorSample, tuple[float, float]] | None = None
        self._checked, self._size = -1, 0  # the generation and the size of the index that the sample was checked for

    @property
    def sample(self) -> VectorSample:
        """A sample of the index, read again when the index has changed in size."""
        generation = self._store.generation
        if self._sample is None or generation != self._checked:
            size = len(self._store)
            if self._sample is None or not self._size / DRIFT <= size <= self._size * DRIFT:
                ids = self._store.searchable()
                intact_ids, vectors = self._store.features.intact_vectors(ids[spread_evenly(len(ids), SAMPLE_SIZE)])
                self._sample = VectorSample(vectors.reshape(-1, self._store.dim), self._store.owners(intact_ids))
                self._size = size
            self._checked = generation
        return self._sample

    @cached_property
    def _texts(self) -> Float32[np.ndarray, "query dim"]:
        return np.stack([text.sentence for text in self._encoder.encode_text(UNRELATED)])

    def _measure_texts(self, sample: VectorSample) -> tuple[float, float]:
        """Return the mean standard deviation and the mean of the scores of texts, measured once for each sample."""
        measured = self._measured
        if measured is None or measured[0] is not sample:
            scores = self._texts.astype(np.float64) @ sample.vectors.T
            self._measured = measured = sample, (float(scores.std(axis=1).mean()), float(scores.mean()))
        return measured[1]

    def compose(self, parts: Sequence[tuple[Vector, float]]) -> tuple[Float32[np.ndarray, " dim"], float]:
        """Return the weighted sum of standardised vectors, and the offset of its inner products to those of texts.

        There must be a vector. The result is scaled to the spread of texts, not to unit length, since searches fuse
        pictures with words.
        """
        sample = self.sample
        total: Vector = np.sum([weight * sample.standardise(vector) for vector, weight in parts], axis=0)
        if not len(sample.vectors):
            return sample.standardise(total).astype(np.float32), 0.0
        spread, mean = self._measure_texts(sample)
        scaled = sample.standardise(total) * spread
        return scaled.astype(np.float32), float(mean - scaled @ sample.mean)


def find_direction(yes: Examples, no: Counterexamples, sample: VectorSample) -> Vector:
    """Return the vector whose inner products are the log odds of a concept against the index, up to a constant.

    It is Gaussian discriminant analysis with the index as the other class and a shrunk covariance (Wang et al. 2024,
    "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation"). With counterexamples, the mean of that class is
    in the middle between theirs and that of the index.
    """
    other = sample.mean if not len(no) else (sample.mean + no.mean(axis=0)) / 2
    direction: Vector = sample.precision @ (yes.mean(axis=0) - other)
    return direction


class ConceptEncoder:
    """An encoder whose texts may mention concepts. Other texts, and frames, are encoded by the original encoder."""

    def __init__(self, encoder: Encoder, store: Store) -> None:
        self._encoder, self.store = encoder, store
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
        if not any(mentioned):
            return self._encoder.encode_text(texts)
        plain = [
            replace_mentions(text, {taught.concept.name: taught.concept.text for taught in concepts})
            for text, concepts in zip(texts, mentioned, strict=True)
        ]
        meanings = [taught.concept.text for concepts in mentioned for taught in concepts]
        embeddings = self._encoder.encode_text([*plain, *meanings])
        meaning_embeddings = iter(embeddings[len(plain) :])
        return [
            self._compose(text, embedding, [(concept, next(meaning_embeddings).sentence) for concept in concepts])
            if concepts
            else embedding
            for text, embedding, concepts in zip(texts, embeddings, mentioned, strict=False)
        ]

    def find_sounds(self, text: str) -> Float32[np.ndarray, "_example _dim"]:
        """Return the vectors of examples of all sounds that a text mentions; of shape (0, 0) for none."""
        heard = [taught.heard for taught in self._find_concepts(text) if taught.heard is not None]
        return np.concatenate(heard) if heard else np.zeros((0, 0), np.float32)

    def _find_concepts(self, text: str) -> list[TaughtConcept]:
        found = [taught for name in find_mentions(text) if (taught := load_concept(self.store, name)) is not None]
        for taught in found:
            if (dim := taught.yes.shape[1]) != self.dim:
                rule = f"must have examples of dimension {self.dim}, that of the encoder"
                raise StoreError(f"@{taught.concept.name} {rule}, got {dim}; teach it again (--replace)")
        return found

    def _compose(
        self, text: str, embedding: TextEmbedding, concepts: Sequence[tuple[TaughtConcept, Vector]]
    ) -> TextEmbedding:
        rest = replace_mentions(text, {taught.concept.name: "" for taught, _ in concepts})
        vector, offset = self.compose_concepts(concepts, embedding.sentence if re.search(r"\w", rest) else None)
        return TextEmbedding(embedding.text, vector, vector[None], offset=offset)

    def compose_concepts(
        self, concepts: Sequence[tuple[TaughtConcept, Vector]], text: Vector | None = None
    ) -> tuple[Float32[np.ndarray, " dim"], float]:
        """Return the sum of concepts, each a mix of its examples and its text, and of the rest of a text, if any.

        Returns:
            The vector, and the mean offset of its inner products to those of texts.
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
