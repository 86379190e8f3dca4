"""Gaussian discriminant analysis: equality with loops, properties, and published numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, find_cases
from vidret.align.gda import ALPHAS, ROUNDS, UNLABELLED, UNTUNED, cross_validate, fit_gaussians, fit_with_unlabelled

TEXT_SCALE = 100.0  # of cosines of text, as published


def one_hot(labels: np.ndarray) -> np.ndarray:
    hot: np.ndarray = np.eye(int(labels.max()) + 1)[labels]
    return hot


def sample(num_classes: int, shots: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), shots)
    rows = rng.standard_normal((num_classes, dim))[labels] + 0.7 * rng.standard_normal((len(labels), dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def naive_logits(vectors: np.ndarray, labels: np.ndarray, item: np.ndarray) -> list[float]:
    """Return log densities of an item up to a constant that all classes share, by loops."""
    num, dim = vectors.shape
    classes = range(int(labels.max()) + 1)
    means = [vectors[labels == label].mean(axis=0) for label in classes]
    scatter = np.zeros((dim, dim))
    for vector, label in zip(vectors, labels, strict=True):
        for i in range(dim):
            for j in range(dim):
                scatter[i, j] += (vector[i] - means[label][i]) * (vector[j] - means[label][j])
    trace = sum(scatter[i, i] for i in range(dim)) / (num - 1)
    shrunk = scatter / dim + trace / dim * np.eye(dim)
    densities = [-0.5 * (item - mean) @ np.linalg.solve(shrunk, item - mean) for mean in means]
    item_term = 0.5 * item @ np.linalg.solve(shrunk, item)
    return [float(density + item_term - np.log(len(means))) for density in densities]


@given(num_classes=st.integers(1, 4), shots=st.integers(2, 4), dim=st.integers(1, 5), seed=st.integers(0, 999))
def test_equals_loops(num_classes: int, shots: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), shots)
    vectors = rng.standard_normal((len(labels), dim))
    classifier = fit_gaussians(vectors, one_hot(labels))
    for item in rng.standard_normal((3, dim)):
        np.testing.assert_allclose(
            classifier.classify(item[None])[0], naive_logits(vectors, labels, item), rtol=1e-6, atol=1e-6
        )


def test_what_cannot_be_fitted_is_refused() -> None:
    vectors = np.eye(3)
    with pytest.raises(ValueError, match=r"each class must have an example, got \[1.0, 0.0, 2.0\]"):
        fit_gaussians(vectors, one_hot(np.array([0, 2, 2])))
    with pytest.raises(ValueError, match="must be two or more that differ within a class, got 3"):
        fit_gaussians(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="must be two or more that differ within a class, got 1"):
        fit_gaussians(vectors[:1], np.ones((1, 1)))


def naive_expectation(
    vectors: np.ndarray, labels: np.ndarray, text: np.ndarray, alpha: float, share: float
) -> np.ndarray:
    """Return the logits of all vectors after expectation maximisation, by loops and densities."""
    dim, num_classes = vectors.shape[1], text.shape[1]
    logits = text
    for _ in range(ROUNDS):
        belongs = np.zeros_like(text)
        for row, label in enumerate(labels):
            powers = np.exp(logits[row] - logits[row].max())
            belongs[row] = share * powers / powers.sum() if label == UNLABELLED else np.eye(num_classes)[label]
        means = [sum(belongs[:, c][:, None] * vectors) / belongs[:, c].sum() for c in range(num_classes)]
        scatter, num = np.zeros((dim, dim)), belongs.sum()
        for row, vector in enumerate(vectors):
            for c in range(num_classes):
                scatter += belongs[row, c] * np.outer(vector - means[c], vector - means[c])
        precision = np.linalg.inv((scatter + np.trace(scatter) / (num - 1) * np.eye(dim)) / (num - 1))
        logits = text.copy()
        for row, vector in enumerate(vectors):
            for c in range(num_classes):
                logits[row, c] += alpha * (-0.5 * (vector - means[c]) @ precision @ (vector - means[c]))
                logits[row, c] += alpha * 0.5 * vector @ precision @ vector  # the same for all classes
    return logits


@given(seed=st.integers(0, 99), alpha=st.floats(0.1, 3), num_unlabelled=st.integers(0, 30))
def test_expectation_maximisation_equals_loops(seed: int, alpha: float, num_unlabelled: int) -> None:
    vectors, labels = sample(2, 2, 3, seed)
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([vectors, rng.standard_normal((num_unlabelled, 3))])
    labels = np.concatenate([labels, np.full(num_unlabelled, UNLABELLED)])
    text = rng.standard_normal((len(vectors), 2))
    classifier = fit_with_unlabelled(vectors, labels, text, alpha=alpha)
    density = alpha * (4 + min(num_unlabelled, 16) - 1) / 3
    logits = text + classifier.classify(vectors) + alpha * np.log(2) * density / alpha  # less the prior
    expected = naive_expectation(vectors, labels, text, alpha, min(1.0, 16 / max(1, num_unlabelled)))
    np.testing.assert_allclose(np.diff(logits), np.diff(expected), rtol=1e-5, atol=1e-6)


def test_cross_validation_looks_at_held_out_examples_only() -> None:
    vectors, labels = sample(3, 5, 6)
    noise = np.random.default_rng(1).standard_normal((20, 6))
    vectors, labels = np.concatenate([vectors, noise]), np.concatenate([labels, np.full(20, UNLABELLED)])
    text = np.zeros((35, 3))
    alpha, temperature = cross_validate(vectors, labels, text)
    assert alpha in ALPHAS
    shuffled = labels.copy()
    shuffled[:15] = np.random.default_rng(2).permutation(labels[:15])
    assert cross_validate(vectors, shuffled, text)[1] > temperature, "labels without a reason are less sure"
    assert cross_validate(vectors, np.where(np.arange(35) % 5 == 0, labels, UNLABELLED), text) == UNTUNED


@pytest.mark.parametrize("case", find_cases("gda"), ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    inputs, outputs = (
        {name: value.numpy() for name, value in tensors.items()} for tensors in (case.inputs, case.outputs)
    )
    classifier = fit_gaussians(inputs["train_features"], one_hot(inputs["train_labels"]))
    for name in ("means", "precision", "weight", "bias"):
        check_relative(getattr(classifier, name), outputs[name])
    test = inputs["test_features"]
    gaussian = classifier.classify(test)
    check_relative(gaussian, outputs["gda_logits_test"])
    alpha = float(outputs["alpha"])
    logits = TEXT_SCALE * test @ inputs["text"].T + alpha * gaussian
    check_relative(logits, outputs["test_logits"])
    assert 100 * (logits.argmax(axis=1) == inputs["test_labels"]).mean() == pytest.approx(float(outputs["test_acc"]))


def check_relative(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare within 1e-5 of the largest value, since both single precision and pinv err in proportion to it."""
    torch.testing.assert_close(
        torch.from_numpy(found).float(),
        torch.from_numpy(expected),
        rtol=1e-5,
        atol=1e-5 * float(np.abs(expected).max()),
    )
