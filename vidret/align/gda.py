"""Gaussian discriminant analysis: a linear classifier of vectors from a few examples, in closed form.

Each class is a Gaussian around the mean of its examples. All share one covariance, which is shrunk so much that fewer
examples than dimensions suffice. Its logits are added to those of text.

Reference: Wang et al. 2024, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

TEXT_SCALE = 100.0  # of cosines of text, as published
ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # weights of the Gaussians' logits that are tried


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GaussianClassifier:
    """Gaussians with one covariance, one per class, as a linear classifier.

    Attributes:
        means: Mean of each class.
        precision: Inverse of the shrunk covariance, up to a factor that depends on the number of examples.
        weight: Weights of the logits.
        bias: Biases of the logits.
    """

    means: Float[np.ndarray, "class_ dim"]
    precision: Float[np.ndarray, "dim dim"]
    weight: Float[np.ndarray, "dim class_"]
    bias: Float[np.ndarray, " class_"]

    def classify(self, vectors: Float[np.ndarray, "vector dim"]) -> Float[np.ndarray, "vector class_"]:
        """Return the logits of vectors."""
        logits: Float[np.ndarray, "vector class_"] = vectors @ self.weight + self.bias
        return logits


def fit_gaussians(vectors: Float[np.ndarray, "vector dim"], labels: Int64[np.ndarray, " vector"]) -> GaussianClassifier:
    """Fit a Gaussian to each class, with equal priors however many examples each has.

    Args:
        vectors: Examples.
        labels: Class of each example: 0 and so on, without a gap.

    Raises:
        ValueError: A class has no example, or all examples of each class are equal.
    """
    counts = np.bincount(labels)
    if not counts.size or not counts.all():
        raise ValueError(f"each class must have an example, got {counts.tolist()}")
    exact = vectors.astype(np.float64)
    means = np.stack([exact[labels == label].mean(axis=0) for label in range(len(counts))])
    precision = estimate_precision(exact - means[labels])
    projected = means @ precision
    bias = -np.log(len(counts)) - (projected * means).sum(axis=1) / 2
    return GaussianClassifier(means=means, precision=precision, weight=projected.T, bias=bias)


def estimate_precision(deviations: Float[np.ndarray, "vector dim"]) -> Float[np.ndarray, "dim dim"]:
    """Return the inverse of the covariance of vectors, shrunk towards a sphere: dim ((n - 1) S + trace(S) I)^-1.

    Its scale falls with the number of vectors n, as in the published code; the weight of the logits makes up for it.

    Args:
        deviations: Vectors minus the mean of their class.

    Raises:
        ValueError: There are fewer than two vectors, or all are 0.

    Reference:
        Kubokawa and Srivastava 2008, "Estimation of the precision matrix of a singular Wishart distribution".
    """
    num_vectors = len(deviations)
    covariance = deviations.T @ deviations / max(num_vectors - 1, 1)
    if num_vectors < 2 or not np.trace(covariance) > 0:
        got = f"{num_vectors} with the variance {np.trace(covariance):g}"
        raise ValueError(f"vectors must be two or more that differ, got {got}")
    return invert_shrunk(covariance, num_vectors)


def invert_shrunk(covariance: Float[np.ndarray, "dim dim"], num_vectors: float) -> Float[np.ndarray, "dim dim"]:
    """Return the inverse of a covariance, shrunk as much as that of ``num_vectors`` vectors; see above."""
    dim = len(covariance)
    shrunk = (num_vectors - 1) * covariance + np.trace(covariance) * np.eye(dim)
    precision: Float[np.ndarray, "dim dim"] = dim * np.linalg.inv(shrunk)
    return precision


def choose_alpha(
    text_logits: Float[np.ndarray, "vector class_"],
    gaussian_logits: Float[np.ndarray, "vector class_"],
    labels: Int64[np.ndarray, " vector"],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[float, Float[np.ndarray, " alpha"]]:
    """Choose the weight of the Gaussians' logits by the accuracy on held-out vectors; the first of equal ones.

    Returns:
        The weight, and the accuracy with each, 0..1.
    """
    predicted = [(text_logits + alpha * gaussian_logits).argmax(axis=1) for alpha in alphas]
    accuracies = np.array([float((labelled == labels).mean()) for labelled in predicted])
    return alphas[int(accuracies.argmax())], accuracies
