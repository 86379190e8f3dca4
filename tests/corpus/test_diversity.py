"""The Vendi score, and the parts of diversity that texts explain and that vectors add."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, find_cases
from vidret.corpus.diversity import (
    RIDGES,
    choose_ridge,
    compute_vendi,
    compute_vendi_of_kernel,
    measure_spread,
    split_by_direction,
    split_diversity,
)
from vidret.errors import VidretError


def naive_vendi(vectors: np.ndarray) -> float:
    """Build the kernel pair by pair."""
    unit = [vector / np.sqrt((vector**2).sum()) for vector in vectors]
    kernel = np.array([[a @ b / len(unit) for b in unit] for a in unit])
    return math.exp(-sum(value * math.log(value) for value in np.linalg.eigvalsh(kernel) if value > 1e-9))


def naive_parts(texts: np.ndarray, vectors: np.ndarray, ridge: float) -> tuple[float, float]:
    """Invert the covariance as the paper writes it."""
    num = len(texts)
    cxx = np.sum([np.outer(x, x) for x in texts], axis=0) / num
    cxy = np.sum([np.outer(x, y) for x, y in zip(texts, vectors, strict=True)], axis=0) / num
    cyy = np.sum([np.outer(y, y) for y in vectors], axis=0) / num
    explained = cxy.T @ np.linalg.inv(cxx + ridge * np.eye(len(cxx))) @ cxy
    return naive_spread(explained), naive_spread(cyy - explained)


def naive_spread(matrix: np.ndarray) -> float:
    values = [value for value in np.linalg.eigvalsh(matrix) if value > 1e-10]
    return math.exp(-sum(value * math.log(value / sum(values)) for value in values))


@given(num=st.integers(1, 7), dim=st.integers(2, 5), seed=st.integers(0, 999))
def test_vendi_equals_loops(num: int, dim: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((num, dim))
    assert compute_vendi(vectors) == pytest.approx(naive_vendi(vectors), abs=1e-6)


@given(num=st.integers(2, 30), dim=st.integers(2, 5), ridge=st.sampled_from([0.001, 0.1]), seed=st.integers(0, 999))
def test_parts_equal_loops(num: int, dim: int, ridge: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts, vectors = rng.standard_normal((num, dim)) / 3, rng.standard_normal((num, dim + 1)) / 3
    parts = split_diversity(texts, vectors, ridge)
    assert (parts.by_text, parts.by_corpus) == pytest.approx(naive_parts(texts, vectors, ridge), abs=1e-6)


@given(seed=st.integers(0, 99))
def test_what_texts_determine_is_theirs_and_noise_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = np.eye(4)[rng.integers(4, size=400)]
    copied = split_diversity(texts, texts @ rng.permutation(np.eye(4)), 1e-9)
    assert copied.by_corpus == pytest.approx(1, abs=1e-3)
    assert copied.by_text > 3.5
    noise = np.eye(4)[rng.integers(4, size=400)]
    constant = split_diversity(np.ones((400, 1)), noise, 1e-9)
    assert constant.by_corpus > copied.by_corpus + 0.5


def test_the_ridge_grows_with_noise() -> None:
    rng = np.random.default_rng(3)
    texts = rng.standard_normal((60, 40)) / 6
    clean = texts @ rng.standard_normal((40, 5))
    assert choose_ridge(texts, clean) == RIDGES[0]
    assert choose_ridge(texts, rng.standard_normal((60, 5))) > 1e-3


def test_more_dimensions_than_samples_are_warned_of_and_explain_all() -> None:
    rng = np.random.default_rng(0)
    texts, vectors = rng.standard_normal((10, 30)) / 6, rng.standard_normal((10, 30)) / 6
    parts = split_diversity(texts, vectors, 1e-12)
    assert parts.by_corpus == pytest.approx(1, abs=1e-4)
    assert parts.warning is not None
    assert "10 samples are too few for 10 dimensions" in parts.warning
    assert split_diversity(rng.standard_normal((90, 3)), rng.standard_normal((90, 3))).warning is None


def test_a_query_takes_its_own_direction_away() -> None:
    vectors = np.eye(5)
    parts = split_by_direction(vectors, np.eye(5)[:1])
    assert parts.by_text == pytest.approx(1, abs=1e-6)  # one direction has one state
    assert parts.by_corpus == pytest.approx(measure_spread(np.full(4, 0.2)), abs=1e-6)
    assert parts.warning is None
    assert "at most 4" in str(split_by_direction(vectors[:4], np.eye(5)[:1]).warning)


def test_what_has_no_diversity_is_refused() -> None:
    vectors = np.eye(3)
    with pytest.raises(VidretError, match="vectors must be finite, got NaN or infinity in 1 of 3"):
        compute_vendi(np.where(vectors == vectors[0], vectors, np.nan)[[0, 0, 1]])
    with pytest.raises(VidretError, match="must be one or more that are not 0, got 2, 1 of them 0"):
        compute_vendi(np.array([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(VidretError, match="needs at least 2 pairs of text and video, got 1"):
        split_diversity(vectors[:1], vectors[:1])


@pytest.mark.parametrize("case", find_cases("sce"), ids=lambda case: case.folder.name)
class TestPublished:
    """Numbers of the published code, whose ridge is 1e-12."""

    def test_parts_of_fourier_features(self, case: Case) -> None:
        outputs = {name: value.numpy().astype(np.float64) for name, value in case.outputs.items()}
        parts = split_diversity(outputs["rff_text"], outputs["rff_image"], case.config["pinv_epsilon"])
        assert parts.by_corpus == pytest.approx(float(outputs["sce_image_rff"]), abs=2e-4)
        assert parts.by_text == pytest.approx(float(outputs["sce_text_rff"]), abs=2e-4)
        assert measure_spread(outputs["rff_complement_eigenvalues"]) == pytest.approx(parts.by_corpus, abs=2e-4)

    def test_parts_of_scaled_dimensions(self, case: Case) -> None:
        """The published cosine kernel scales every dimension to the same length."""
        scaled = []
        for name in ("text", "image"):
            raw = case.inputs[name].numpy().astype(np.float64)
            scaled.append(raw / np.linalg.norm(raw, axis=0) * math.sqrt(len(raw) / raw.shape[1]))
        parts = split_diversity(scaled[0], scaled[1], case.config["pinv_epsilon"])
        assert parts.by_corpus == pytest.approx(float(case.outputs["sce_image_cosine"]), abs=2e-4)
        assert parts.by_text == pytest.approx(float(case.outputs["sce_text_cosine"]), abs=2e-4)

    def test_vendi_of_the_first_order(self, case: Case) -> None:
        found = compute_vendi_of_kernel(case.outputs["kernel_image"].numpy())
        assert found == pytest.approx(float(case.outputs["vendi_image"][0]), abs=0.0051)
