"""Gaussian discriminant analysis: equality with loops, properties, and published numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, find_cases
from vidret.align.gda import TEXT_SCALE, choose_alpha, estimate_precision, fit_gaussians


def sample(num_classes: int, shots: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), shots)
    rows = rng.standard_normal((num_classes, dim))[labels] + 0.7 * rng.standard_normal((len(labels), dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def naive_logits(vectors: np.ndarray, labels: np.ndarray, item: np.ndarray) -> list[float]:
    """Return log densities of an item up to a constant that all classes share, by loops."""
    num, dim = vectors.shape
    classes = range(int(labels.max()) + 1)
    means = [vectors[labels == each].mean(axis=0) for each in classes]
    scatter = np.zeros((dim, dim))
    for vector, label in zip(vectors, labels, strict=True):
        for i in range(dim):
            for j in range(dim):
                scatter[i, j] += (vector[i] - means[label][i]) * (vector[j] - means[label][j])
    trace = sum(scatter[i, i] for i in range(dim)) / (num - 1)
    shrunk = scatter / dim + trace / dim * np.eye(dim)
    densities = [-0.5 * (item - mean) @ np.linalg.solve(shrunk, item - mean) for mean in means]
    own = 0.5 * item @ np.linalg.solve(shrunk, item)
    return [float(density + own - np.log(len(means))) for density in densities]


@given(num_classes=st.integers(1, 4), shots=st.integers(2, 4), dim=st.integers(1, 5), seed=st.integers(0, 999))
def test_equals_loops(num_classes: int, shots: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), shots)
    vectors = rng.standard_normal((len(labels), dim))
    classifier = fit_gaussians(vectors, labels)
    for item in rng.standard_normal((3, dim)):
        np.testing.assert_allclose(
            classifier.classify(item[None])[0], naive_logits(vectors, labels, item), rtol=1e-6, atol=1e-6
        )


@given(seed=st.integers(0, 99))
def test_a_shift_of_all_vectors_changes_no_difference_of_classes(seed: int) -> None:
    vectors, labels = sample(3, 4, 6, seed)
    shift = np.random.default_rng(seed).standard_normal(6)
    found, shifted = fit_gaussians(vectors, labels), fit_gaussians(vectors + shift, labels)
    differences, moved = (np.diff(logits) for logits in (found.classify(vectors), shifted.classify(vectors + shift)))
    np.testing.assert_allclose(moved, differences, atol=1e-8)


def test_precision_is_the_inverse_of_the_shrunk_covariance() -> None:
    deviations = np.random.default_rng(0).standard_normal((4, 7))  # fewer vectors than dimensions
    covariance = deviations.T @ deviations / 3
    shrunk = (3 * covariance + np.trace(covariance) * np.eye(7)) / 7
    np.testing.assert_allclose(estimate_precision(deviations) @ shrunk, np.eye(7), atol=1e-10)


def test_every_class_has_the_same_prior() -> None:
    vectors, labels = sample(2, 6, 4)
    few = np.concatenate([np.arange(6), [6, 7, 8]])
    assert fit_gaussians(vectors[few], labels[few]).bias.shape == (2,)
    twice = fit_gaussians(np.concatenate([vectors, vectors]), np.concatenate([labels, labels]))
    np.testing.assert_allclose(twice.means, fit_gaussians(vectors, labels).means, atol=1e-12)


def test_the_first_of_equal_alphas_is_chosen() -> None:
    text, gaussian = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 5.0], [0.0, -5.0]])
    alpha, accuracies = choose_alpha(text, gaussian, np.array([1, 0]))
    assert accuracies.tolist() == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert alpha == 1.0


def test_what_cannot_be_fitted_is_refused() -> None:
    vectors = np.eye(3)
    with pytest.raises(ValueError, match=r"each class must have an example, got \[1, 0, 2\]"):
        fit_gaussians(vectors, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="must be two or more that differ, got 3 with the variance 0"):
        fit_gaussians(np.ones((3, 2)), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="must be two or more that differ, got 1 with"):
        estimate_precision(vectors[:1])


@pytest.mark.parametrize("case", find_cases("gda"), ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    inputs, outputs = ({name: value.numpy() for name, value in each.items()} for each in (case.inputs, case.outputs))
    classifier = fit_gaussians(inputs["train_features"], inputs["train_labels"])
    for name in ("means", "precision", "weight", "bias"):
        check_relative(getattr(classifier, name), outputs[name])
    test, val = inputs["test_features"], inputs["val_features"]
    gaussian = classifier.classify(test)
    check_relative(gaussian, outputs["gda_logits_test"])
    alpha, accuracies = choose_alpha(
        TEXT_SCALE * val @ inputs["text"].T,
        classifier.classify(val),
        inputs["val_labels"],
        alphas=case.config["alphas"],
    )
    assert alpha == pytest.approx(float(outputs["alpha"]))
    np.testing.assert_allclose(100 * accuracies, outputs["val_acc_by_alpha"], atol=1e-4)
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
