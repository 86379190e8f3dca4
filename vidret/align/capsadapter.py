"""CapS-Adapter: classify vectors by their similarity to a few examples, each with an image and a caption.

Trained on nothing: text logits, plus a cache of the examples, minus their divergence from the vector.

Reference: Wang et al. 2024, "CapS-Adapter: Caption-based MultiModal Adapter in Zero-Shot Classification".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int64

from vidret.align.gda import TEXT_SCALE

TEMPERATURE = 0.5
KL_BLOCK = 10  # rows that the published code compares at a time; it leaves those of the last, smaller block at 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheParameters:
    """How the parts of the logits are weighted.

    Attributes:
        alpha: Weight of the cache.
        beta: Sharpness of the cache: an example of affinity a counts exp(beta (a - 1)).
        gamma: Weight of the divergence.
        delta: Share of the captions in the affinity, 0..1.
    """

    alpha: float
    beta: float
    gamma: float
    delta: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CacheAffinities:
    """How similar vectors are to the classes and to the examples.

    Attributes:
        text: Logits of the classes' texts.
        image: Cosines with the examples' images.
        caption: Cosines with the examples' captions.
        divergence: Kullback-Leibler divergence of each vector from each example.
        labels: Class of each example.
    """

    text: Float[np.ndarray, "vector class_"]
    image: Float[np.ndarray, "vector example"]
    caption: Float[np.ndarray, "vector example"]
    divergence: Float[np.ndarray, "vector example"]
    labels: Int64[np.ndarray, " example"]

    def combine(self, parameters: CacheParameters) -> Float[np.ndarray, "vector class_"]:
        """Return the logits of all classes. The divergences are scaled over all vectors, so each depends on the others.

        The cache sums over the examples of a class: classes with more examples get higher logits.
        """
        one_hot = np.eye(self.text.shape[1])[self.labels]
        affinity = (1 - parameters.delta) * self.image + parameters.delta * self.caption
        cache = np.exp(parameters.beta * (affinity - 1)) @ one_hot
        closeness = -scale_range(self.divergence, affinity) @ one_hot
        logits: Float[np.ndarray, "vector class_"] = self.text + parameters.gamma * closeness + parameters.alpha * cache
        return logits


def compare_examples(
    vectors: Float[np.ndarray, "vector dim"],
    *,
    text: Float[np.ndarray, "class_ dim"],
    images: Float[np.ndarray, "example dim"],
    captions: Float[np.ndarray, "example dim"],
    labels: Int64[np.ndarray, " example"],
    as_published: bool = False,
) -> CacheAffinities:
    """Compare vectors with the texts of classes and with examples; all rows are of unit length.

    ``as_published`` takes the released code's distributions, a softmax over the values of the vectors themselves, and
    leaves the rows behind the last full block of ``KL_BLOCK`` at 0. Otherwise they are over classes, as the paper says.
    """
    if as_published:
        own, others = soften(vectors), soften(images)
    else:
        own, others = soften(vectors @ text.T), soften(images @ text.T)
    divergence = (own * np.log(own)).sum(axis=1, keepdims=True) - own @ np.log(others).T
    if as_published:
        divergence[len(vectors) - len(vectors) % KL_BLOCK :] = 0
    return CacheAffinities(
        text=TEXT_SCALE * vectors @ text.T,
        image=vectors @ images.T,
        caption=vectors @ captions.T,
        divergence=divergence,
        labels=labels,
    )


def search_parameters(
    affinities: CacheAffinities,
    targets: Int64[np.ndarray, " vector"],
    *,
    alphas: Sequence[float],
    betas: Sequence[float],
    gammas: Sequence[float],
    deltas: Sequence[float],
) -> CacheParameters:
    """Choose parameters by the accuracy on held-out vectors; of equal ones, the first in the order of the loops.

    Alpha is the outermost loop, then beta, delta and gamma, as published.
    """
    best, chosen = -1.0, None
    for alpha, beta, delta, gamma in product(alphas, betas, deltas, gammas):
        parameters = CacheParameters(alpha=alpha, beta=beta, gamma=gamma, delta=delta)
        accuracy = float((affinities.combine(parameters).argmax(axis=1) == targets).mean())
        if accuracy > best:
            best, chosen = accuracy, parameters
    if chosen is None:
        raise ValueError("there must be a value of each parameter, got none")
    return chosen


def soften(values: Float[np.ndarray, "row value"]) -> Float[np.ndarray, "row value"]:
    """Return the softmax of each row at ``TEMPERATURE``."""
    powers = np.exp((values - values.max(axis=1, keepdims=True)) / TEMPERATURE)
    shares: Float[np.ndarray, "row value"] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def scale_range(
    values: Float[np.ndarray, "row column"], target: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, "row column"]:
    """Scale values linearly so that their smallest and largest become those of ``target``; equal ones, the smallest."""
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    scaled: Float[np.ndarray, "row column"] = share * (target.max() - target.min()) + target.min()
    return scaled
