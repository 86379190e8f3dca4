"""Whitening of frame vectors: what most videos of a corpus have in common no longer makes two of them alike.

The mean is subtracted, and the directions of most variance are scaled to equal variance. So frames of two look-alike
scenes are hardly closer than frames of any two videos, and copies stand out.
Reference: Jégou and Chum 2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
whitening", section 3.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int64

MAX_DIM = 128  # of 155 pairs of copies of realistic kinds, all but 1 % are among the three nearest videos
FRAMES_PER_DIM = 8  # so that directions are estimated, not memorised
SHRINKAGE = 1e-3  # of the mean variance, added to each
UNRELATED_SHARE = 0.02  # of frames of different videos, that are more alike than the level of unrelated ones
FEW_VIDEOS = 40  # up to which a corpus does not tell what unrelated videos have in common: most may be copies
FEW_VIDEOS_LEVEL = 0.5  # of unrelated frames then, at most


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """A projection that is fitted to a corpus, and how much alike unrelated frames are after it.

    Attributes:
        mean: Mean vector.
        projection: Directions scaled by their inverse standard deviations, in columns.
        level: Similarity that only ``UNRELATED_SHARE`` of the frames of different videos exceed.
    """

    mean: Float32[np.ndarray, " dim"]
    projection: Float32[np.ndarray, "dim small"]
    level: float = 0.0

    def apply(self, vectors: Float[np.ndarray, "frame dim"]) -> Float32[np.ndarray, "frame small"]:
        """Return whitened vectors of unit length."""
        projected = (vectors.astype(np.float32) - self.mean) @ self.projection
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        unit: Float32[np.ndarray, "frame small"] = (projected / np.maximum(lengths, 1e-9)).astype(np.float32)
        return unit


def fit_whitening(vectors: Float[np.ndarray, "frame dim"], owners: Int64[np.ndarray, " frame"]) -> Whitening:
    """Fit a whitening to frames of a corpus, given the video of each; few videos are left as they are.

    Raises:
        ValueError: There are fewer than two frames.
    """
    if len(vectors) < 2:
        raise ValueError(f"vectors must be at least 2, got {len(vectors)}")
    if len(np.unique(owners)) <= FEW_VIDEOS:
        dim = vectors.shape[1]
        plain = Whitening(np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32))
        return replace(plain, level=min(unrelated_level(plain.apply(vectors), owners), FEW_VIDEOS_LEVEL))
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    centred = exact - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    dim = int(np.clip(len(vectors) // FRAMES_PER_DIM, 2, min(MAX_DIM, vectors.shape[1])))
    kept = slice(-1, -dim - 1, -1)
    spread = np.sqrt(variances[kept].clip(0) + SHRINKAGE * max(variances.mean(), 1e-12))
    projection = (directions[:, kept] / spread).astype(np.float32)
    whitening = Whitening(mean.astype(np.float32), projection)
    return replace(whitening, level=unrelated_level(whitening.apply(vectors), owners))


def unrelated_level(vectors: Float[np.ndarray, "frame dim"], owners: Int64[np.ndarray, " frame"]) -> float:
    """Return the similarity that only ``UNRELATED_SHARE`` of the frames of different videos exceed; 0 without any."""
    chosen = np.random.default_rng(0).permutation(len(vectors))[:2000]
    similarities = vectors[chosen] @ vectors[chosen].T
    differ = owners[chosen][:, None] != owners[chosen][None, :]
    return float(np.quantile(similarities[differ], 1 - UNRELATED_SHARE)) if differ.any() else 0.0
