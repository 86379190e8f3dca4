"""CapS-Adapter: equality with loops, properties, and published numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, check_close, find_cases
from vidret.align.capsadapter import (
    CacheAffinities,
    CacheParameters,
    compare_examples,
    scale_range,
    search_parameters,
    soften,
)

SAMPLE = CacheParameters(alpha=2.0, beta=5.5, gamma=0.3, delta=0.4)


def draw(num_items: int = 5, num_classes: int = 3, seed: int = 0) -> tuple[CacheAffinities, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 3)])
    sizes = {"vectors": num_items, "text": num_classes, "images": len(labels), "captions": len(labels)}
    rows = {name: rng.standard_normal((size, 6)) for name, size in sizes.items()}
    rows = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in rows.items()}
    drawn = rows | {"labels": labels}
    return compare(drawn), drawn


def compare(rows: dict[str, np.ndarray]) -> CacheAffinities:
    return compare_examples(
        rows["vectors"], text=rows["text"], images=rows["images"], captions=rows["captions"], labels=rows["labels"]
    )


def naive_softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value / 0.5) for value in values]
    return [power / sum(powers) for power in powers]


def naive_logits(rows: dict[str, np.ndarray], parameters: CacheParameters) -> np.ndarray:
    vectors, text, images, captions = rows["vectors"], rows["text"], rows["images"], rows["captions"]
    divergences = np.zeros((len(vectors), len(images)))
    affinities = np.zeros_like(divergences)
    for i, vector in enumerate(vectors):
        own = naive_softmax([float(vector @ each) for each in text])
        for j, image in enumerate(images):
            others = naive_softmax([float(image @ each) for each in text])
            divergences[i, j] = sum(p * math.log(p / q) for p, q in zip(own, others, strict=True))
            affinities[i, j] = (1 - parameters.delta) * vector @ image + parameters.delta * vector @ captions[j]
    low, high = divergences.min(), divergences.max()
    scaled = (divergences - low) / (high - low) * (affinities.max() - affinities.min()) + affinities.min()
    logits: np.ndarray = 100 * vectors @ text.T
    for i in range(len(vectors)):
        for j, label in enumerate(rows["labels"]):
            logits[i, label] += parameters.alpha * math.exp(-parameters.beta * (1 - affinities[i, j]))
            logits[i, label] -= parameters.gamma * scaled[i, j]
    return logits


@given(
    alpha=st.floats(0, 50),
    beta=st.floats(0, 50),
    gamma=st.floats(0, 30),
    delta=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_equals_loops(alpha: float, beta: float, gamma: float, delta: float, seed: int) -> None:
    affinities, rows = draw(seed=seed)
    parameters = CacheParameters(alpha=alpha, beta=beta, gamma=gamma, delta=delta)
    np.testing.assert_allclose(affinities.combine(parameters), naive_logits(rows, parameters), rtol=1e-9, atol=1e-9)


def test_without_cache_and_divergence_it_is_the_text() -> None:
    affinities, _ = draw()
    none = CacheParameters(alpha=0, beta=5.5, gamma=0, delta=0.5)
    np.testing.assert_array_equal(affinities.combine(none), affinities.text)


def test_an_example_raises_its_own_class_most_for_its_own_image() -> None:
    _, rows = draw()
    rows["vectors"] = rows["images"]
    affinities = compare(rows)
    cache = affinities.combine(CacheParameters(alpha=1000, beta=50, gamma=0, delta=0))
    assert cache.argmax(axis=1).tolist() == rows["labels"].tolist()


def test_the_divergence_of_a_vector_from_itself_is_0() -> None:
    _, rows = draw()
    rows["vectors"] = rows["images"]
    divergence = compare(rows).divergence
    np.testing.assert_allclose(np.diagonal(divergence), 0, atol=1e-12)
    assert (divergence >= -1e-12).all()


def test_equal_values_are_scaled_to_the_smallest() -> None:
    values, target = np.full((2, 2), 0.5), np.array([[1.0, 2.0], [3.0, 4.0]])
    assert scale_range(values, target).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert scale_range(target, target).tolist() == target.tolist()


def test_a_grid_without_values_is_refused() -> None:
    affinities, _ = draw()
    with pytest.raises(ValueError, match="there must be a value of each parameter, got none"):
        search_parameters(affinities, np.zeros(5, np.int64), alphas=(), betas=(1,), gammas=(0,), deltas=(0,))


def test_the_first_of_equal_parameters_is_chosen() -> None:
    affinities, _ = draw()
    targets = affinities.text.argmax(axis=1)
    found = search_parameters(affinities, targets, alphas=(0, 0), betas=(1, 2), gammas=(0,), deltas=(0, 1))
    assert found == CacheParameters(alpha=0, beta=1, gamma=0, delta=0)


def compare_golden(case: Case, split: str) -> CacheAffinities:
    inputs = {name: value.double().numpy() for name, value in case.inputs.items()}
    return compare_examples(
        inputs[f"{split}_features"],
        text=inputs["text"],
        images=inputs["support_image"],
        captions=inputs["support_caption"],
        labels=case.inputs["support_labels"].numpy(),
        as_published=True,
    )


@pytest.mark.parametrize("case", find_cases("capsadapter"), ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    outputs = case.outputs
    val, test = compare_golden(case, "val"), compare_golden(case, "test")
    check_close(torch.from_numpy(soften(case.inputs["support_image"].numpy())), outputs["distribution_support"], 1e-6)
    check_close(torch.from_numpy(val.divergence), outputs["kl_val"], 1e-6)
    check_close(torch.from_numpy(test.divergence), outputs["kl_test"], 1e-6)
    (scale_b, scale_a, scale_g, _), (num_b, num_a, num_g, num_d) = (
        case.config[name] for name in ("search_scale", "search_step_used")
    )
    found = search_parameters(
        val,
        case.inputs["val_labels"].numpy(),
        alphas=[0.1 + i * (scale_a - 0.1) / num_a for i in range(num_a)],
        betas=[1 + i * (scale_b - 1) / num_b for i in range(num_b)],
        gammas=[0.1 + i * (scale_g - 0.1) / num_g for i in range(num_g)],
        deltas=[i * 0.1 for i in range(num_d)],
    )
    for name in ("alpha", "beta", "gamma", "delta"):
        assert getattr(found, name) == pytest.approx(float(outputs[name]), abs=1e-5), name
    affinity = (1 - found.delta) * test.image + found.delta * test.caption
    check_close(torch.from_numpy(affinity), outputs["mixed_affinity_test"], 1e-6)
    check_close(torch.from_numpy(scale_range(test.divergence, affinity)), outputs["scaled_kl_test"], 1e-5)
    logits = test.combine(found)
    check_close(torch.from_numpy(logits), outputs["logits"], 1e-4)
    accuracy = 100 * (logits.argmax(axis=1) == case.inputs["test_labels"].numpy()).mean()
    assert accuracy == pytest.approx(float(outputs["accuracy"]), abs=1e-4)
    alpha, beta, gamma, delta = outputs["fixed_parameters"].tolist()
    fixed = CacheParameters(alpha=alpha, beta=beta, gamma=gamma, delta=delta)
    check_close(torch.from_numpy(test.combine(fixed)), outputs["fixed_logits"], 1e-4)
