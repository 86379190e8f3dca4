"""Composition of query vectors: texts, images and concepts become one vector, in which each counts alike.

Similarities of a text and of an image with the same videos differ in level and spread. So each vector is standardised
over a sample of the index before they are added. The sum is scaled so that it spreads over the index as a text does,
and an offset makes up for the difference of their means: searches of pictures and words compare it with words.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.align.baseline import UNRELATED
from vidret.align.gda import invert_shrunk
from vidret.encode.encoder import Encoder
from vidret.store.store import Store
from vidret.types import Vector

SAMPLE_SIZE = 4096  # segments
SHRINKAGE = 10.0  # what is added to the variances of segments, in their mean; measured with measure_concepts.py
DRIFT = 1.25  # change of the index in size from which it is sampled again

Rows = Float[np.ndarray, "segment dim"]


class VectorSample:
    """Vectors of some segments of an index, and how scores spread over them."""

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
        scaled: Vector = exact / scale
        return scaled


class Composer:
    """Composes query vectors for one index."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self._store, self._encoder = store, encoder
        self._sample: VectorSample | None = None
        self._checked, self._size = -1, 0  # the generation for which the sample holds, and the size of the index then

    @property
    def sample(self) -> VectorSample:
        """A sample of the index, read again when the index has changed in size."""
        generation = self._store.generation
        if self._sample is None or generation != self._checked:
            size = len(self._store)
            if self._sample is None or not self._size / DRIFT <= size <= self._size * DRIFT:
                self._sample, self._size = self._read_sample(), size
            self._checked = generation
        return self._sample

    def _read_sample(self) -> VectorSample:
        ids = self._store.searchable()
        if len(ids) > SAMPLE_SIZE:
            ids = ids[np.linspace(0, len(ids) - 1, SAMPLE_SIZE).astype(np.int64)]
        known, vectors = self._store.features.intact_vectors(ids)
        owners = self._store.owners(known)
        return VectorSample(
            vectors.reshape(-1, self._store.dim), np.array([owners.get(key, -1) for key in known.tolist()], np.int64)
        )

    @cached_property
    def _texts(self) -> Float32[np.ndarray, "query dim"]:
        return np.stack([text.sentence for text in self._encoder.encode_text(UNRELATED)])

    def compose(self, parts: Sequence[tuple[Vector, float]]) -> tuple[Float32[np.ndarray, " dim"], float]:
        """Return the weighted sum of vectors, each standardised, and what its inner products lack to those of texts.

        There must be a vector. The result is scaled to the spread of texts, not to unit length.
        """
        sample = self.sample
        total: Vector = np.sum([weight * sample.standardise(vector) for vector, weight in parts], axis=0)
        scores = self._texts.astype(np.float64) @ sample.vectors.T
        if not scores.size:
            return sample.standardise(total).astype(np.float32), 0.0
        scaled = sample.standardise(total) * float(scores.std(axis=1).mean())
        return scaled.astype(np.float32), float(scores.mean() - scaled @ sample.mean)
