"""The order of phrases that set two sets apart, its permutation test, and Holm's correction."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.goldens import Case, find_cases
from vidret.corpus.significance import can_be_significant, correct_holm, count_needed, measure_separation, rank_phrases
from vidret.errors import VidretError


def naive_auroc(ours: np.ndarray, theirs: np.ndarray) -> float:
    wins = sum((a > b) + 0.5 * (a == b) for a in ours for b in theirs)
    return float(wins) / (len(ours) * len(theirs))


def naive_p_value(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Count the ways to deal the labels whose AUROC is as far from one half."""
    scores = np.concatenate([ours, theirs])
    observed = abs(naive_auroc(ours, theirs) - 0.5)
    far = []
    for chosen in combinations(range(len(scores)), len(ours)):
        rest = np.setdiff1d(np.arange(len(scores)), chosen)
        far.append(abs(naive_auroc(scores[list(chosen)], scores[rest]) - 0.5) >= observed - 1e-12)
    return float(np.mean(far))


def naive_holm(p_values: list[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, (len(p_values) - position) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


@given(num_a=st.integers(1, 4), num_b=st.integers(1, 4), levels=st.integers(1, 9), seed=st.integers(0, 999))
def test_equals_loops_with_and_without_ties(num_a: int, num_b: int, levels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(levels, size=num_a + num_b).astype(np.float64)
    ours, theirs = scores[:num_a], scores[num_a:]
    aurocs, p_values = measure_separation(ours[None], theirs[None])
    assert aurocs[0] == pytest.approx(naive_auroc(ours, theirs))
    assert p_values[0] == pytest.approx(naive_p_value(ours, theirs))


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_loops(p_values: list[float]) -> None:
    assert correct_holm(np.array(p_values)).tolist() == pytest.approx(naive_holm(p_values))


@pytest.mark.parametrize(("num_a", "num_b"), [(30, 24), (90, 70)])
def test_p_values_equal_those_of_scipy(num_a: int, num_b: int) -> None:
    """Counted permutations for small sets, the normal limit with ties for large ones."""
    rng = np.random.default_rng(num_a)
    ours, theirs = rng.standard_normal((5, num_a)), rng.standard_normal((5, num_b)) + np.linspace(0, 1, 5)[:, None]
    method = "exact" if num_a + num_b <= 100 else "asymptotic"
    if method == "asymptotic":
        ours, theirs = ours.round(1), theirs.round(1)
    expected = [stats.mannwhitneyu(a, b, method=method).pvalue for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(measure_separation(ours, theirs)[1], expected, rtol=1e-9)


def test_sizes_that_can_be_significant() -> None:
    assert can_be_significant(2500, 2500, 1000)
    assert count_needed(1) == 4  # 2 / C(8, 4) is below 0.05, 2 / C(6, 3) is not
    for num_phrases in (1, 50, 1000):
        needed = count_needed(num_phrases)
        apart = np.zeros((num_phrases, needed)), np.ones((num_phrases, needed))
        apart[1][1:] = 0  # only the first phrase separates
        assert min(phrase.adjusted_p for phrase in rank_phrases(*apart)) < 0.05
        assert not can_be_significant(needed - 1, needed - 1, num_phrases)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(VidretError, match="both sets must have items to be compared, got 3 and 0"):
        rank_phrases(np.ones((2, 3)), np.ones((2, 0)))
    with pytest.raises(VidretError, match="scores must be finite, got 2 NaN or infinite"):
        rank_phrases(np.array([[np.nan, 1.0]]), np.array([[np.inf]]))


@pytest.mark.parametrize("case", find_cases("visdiff"), ids=lambda case: case.folder.name)
def test_equals_published_ranking(case: Case) -> None:
    inputs, outputs = (
        {name: value.numpy() for name, value in tensors.items()} for tensors in (case.inputs, case.outputs)
    )
    for group, name in (("group_a", "scores_a"), ("group_b", "scores_b")):
        np.testing.assert_allclose(inputs["phrases"] @ inputs[group].T, outputs[name], atol=1e-6)
    ranked = rank_phrases(outputs["scores_a"], outputs["scores_b"])
    assert [phrase.index for phrase in ranked] == outputs["order"].tolist()
    np.testing.assert_allclose([phrase.auroc for phrase in ranked], outputs["auroc"], atol=1e-12)
    np.testing.assert_allclose([phrase.mean_a for phrase in ranked], outputs["score1"], atol=1e-6)
    np.testing.assert_allclose([phrase.mean_b for phrase in ranked], outputs["score2"], atol=1e-6)
    # Welch's test of the published code and the permutation test agree on what is significant by a margin.
    clear = np.abs(np.log(outputs["p_value"] / 0.05)) > 1
    found = np.array([phrase.p_value for phrase in ranked]) < 0.05
    assert clear.any()
    assert (found == outputs["significant"].astype(bool))[clear].all()


def test_equal_scores_of_many_separate_nothing() -> None:
    equal = np.full((1, 60), 0.3)
    assert [values.tolist() for values in measure_separation(equal, equal)] == [[0.5], [1.0]]
