"""Gaussian discriminant analysis: a linear classifier of vectors from a few examples, in closed form.

Each class is a Gaussian around the mean of its examples. All share one covariance, which is shrunk so much that fewer
examples than dimensions suffice. Its logits are added to those of text. Unlabelled vectors help: they get the class
probabilities of the classifier, which is then fitted again with them (expectation maximisation).

Reference: Wang et al. 2024, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation".
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64

UNLABELLED = -1  # in place of a class
ALPHAS = (0.7, 1.0, 1.4)  # weights of the log densities that are tried
TEMPERATURES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # by which logits are divided, to be probabilities
UNTUNED = (1.0, 6.0)  # the weight and the temperature without held-out vectors
ROUNDS = 3  # of expectation maximisation
MAX_FOLDS = 5
MAX_UNLABELLED = 4.0  # unlabelled vectors per example; more are weighted down to this


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GaussianClassifier:
    """Gaussians with one covariance, one per class, as a linear classifier.

    Attributes:
        means: Mean of each class.
        precision: Inverse of the shrunk covariance, up to a factor.
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

    def scale(self, factor: float) -> "GaussianClassifier":
        """Return the classifier with its logits multiplied by a factor."""
        scaled = {name: factor * getattr(self, name) for name in ("precision", "weight", "bias")}
        return replace(self, **scaled)


def fit_gaussians(
    vectors: Float[np.ndarray, "vector dim"], memberships: Float[np.ndarray, "vector class_"]
) -> GaussianClassifier:
    """Fit a Gaussian to each class, with equal priors however many vectors each has.

    The scale of the precision falls with the number of vectors, as in the published code. A membership is the share of
    a vector that belongs to a class, 1 or 0 for an example.

    Raises:
        ValueError: A class has no vector, there are fewer than two, or those of each class are equal.
    """
    counts = memberships.sum(axis=0)
    if not counts.size or not (counts > 0).all():
        raise ValueError(f"each class must have an example, got {counts.tolist()}")
    exact = vectors.astype(np.float64)
    means = memberships.T @ exact / counts[:, None]
    num_vectors = float(counts.sum())
    scatter = exact.T @ (memberships.sum(axis=1, keepdims=True) * exact) - means.T @ (counts[:, None] * means)
    if num_vectors < 2 or np.trace(scatter) < 1e-12 * np.square(exact).sum():
        raise ValueError(f"vectors must be two or more that differ within a class, got {num_vectors:g}")
    precision = invert_shrunk(scatter / (num_vectors - 1), num_vectors)
    projected = means @ precision
    bias = -np.log(len(counts)) - (projected * means).sum(axis=1) / 2
    return GaussianClassifier(means=means, precision=precision, weight=projected.T, bias=bias)


def invert_shrunk(covariance: Float[np.ndarray, "dim dim"], num_vectors: float) -> Float[np.ndarray, "dim dim"]:
    """Return the inverse of the covariance of vectors, shrunk towards a sphere: dim ((n - 1) S + trace(S) I)^-1.

    Reference:
        Kubokawa and Srivastava 2008, "Estimation of the precision matrix of a singular Wishart distribution".
    """
    dim = len(covariance)
    shrunk = (num_vectors - 1) * covariance + np.trace(covariance) * np.eye(dim)
    return dim * np.linalg.inv(shrunk)


def fit_with_unlabelled(
    vectors: Float[np.ndarray, "vector dim"],
    labels: Int64[np.ndarray, " vector"],
    text_logits: Float[np.ndarray, "vector class_"],
    *,
    alpha: float,
) -> GaussianClassifier:
    """Fit Gaussians to labelled and unlabelled vectors, so that their logits can be added to those of text.

    The text classifies the unlabelled vectors first, then text and Gaussians together do. Each class has an example;
    ``alpha`` is the weight of the log densities.

    Raises:
        ValueError: The vectors of each class are equal.
    """
    is_labelled = labels != UNLABELLED
    share = min(1.0, MAX_UNLABELLED * is_labelled.sum() / max(1, (~is_labelled).sum()))
    logits = text_logits
    for _ in range(ROUNDS):
        memberships = share * soften(logits)
        memberships[is_labelled] = np.eye(text_logits.shape[1])[labels[is_labelled]]
        density = (memberships.sum() - 1) / vectors.shape[1]  # scales the precision to that of a density
        classifier = fit_gaussians(vectors, memberships).scale(alpha * density)
        logits = text_logits + classifier.classify(vectors)
    return classifier


def cross_validate(
    vectors: Float[np.ndarray, "vector dim"],
    labels: Int64[np.ndarray, " vector"],
    text_logits: Float[np.ndarray, "vector class_"],
) -> tuple[float, float]:
    """Choose the weight of the log densities, and the temperature of the logits, on held-out labelled vectors.

    Vectors are less independent than Gaussians assume, so undivided logits are overconfident.

    Returns:
        The one of ``ALPHAS`` with the highest mean average precision of the classes, and then the one of
        ``TEMPERATURES`` with the lowest log loss; the first of equal ones. If a class has only one vector, ``UNTUNED``.
    """
    num_classes = text_logits.shape[1]
    members = [np.flatnonzero(labels == label) for label in range(num_classes)]
    num_folds = min(MAX_FOLDS, *map(len, members))
    if num_folds < 2:
        return UNTUNED
    labelled_rows = np.concatenate(members)
    targets = labels[labelled_rows]
    folds = np.full(len(labels), -1)
    for rows in members:
        folds[rows] = np.arange(len(rows)) % num_folds
    best, chosen, held_out_logits = -1.0, ALPHAS[0], text_logits[labelled_rows]
    for alpha in ALPHAS:
        logits = text_logits.copy()
        for fold in range(num_folds):
            held_out = folds == fold
            shown = np.where(held_out, UNLABELLED, labels)
            classifier = fit_with_unlabelled(vectors, shown, text_logits, alpha=alpha)
            logits[held_out] += classifier.classify(vectors[held_out])
        precision = np.mean(
            [ranking_precision(logits[labelled_rows, label], targets == label) for label in range(num_classes)]
        )
        if precision > best:
            best, chosen, held_out_logits = float(precision), alpha, logits[labelled_rows]
    losses = [
        -np.log(soften(held_out_logits / temperature)[np.arange(len(labelled_rows)), targets] + 1e-12).mean()
        for temperature in TEMPERATURES
    ]
    return chosen, TEMPERATURES[int(np.argmin(losses))]


def ranking_precision(scores: Float[np.ndarray, " row"], relevant: np.ndarray) -> float:
    """Return the average precision of a ranking, 0..1; equal scores keep their order."""
    ranks = np.flatnonzero(relevant[np.argsort(-scores, kind="stable")]) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def soften(logits: Float[np.ndarray, "vector class_"]) -> Float[np.ndarray, "vector class_"]:
    """Return the probabilities of classes."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float[np.ndarray, "vector class_"] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
