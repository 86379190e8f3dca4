"""SuperGlobal's refinement: equality with loops, properties, and published numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, check_close, find_cases
from vidret.align.refine import RefinedHits, refine_hits, score_refined, standardise_scores

CASES = find_cases("superglobal")


def sample(num_hits: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_hits, dim)) + 0.5
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def naive_refine(vectors: np.ndarray, num_neighbours: int, beta: float) -> list[list[float]]:
    refined = []
    for own, vector in enumerate(vectors):
        similarities = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in vectors]
        others = sorted((index for index in range(len(vectors)) if index != own), key=lambda n: -similarities[n])
        total, weight_sum = [float(value) for value in vector], 1.0
        for index in others[:num_neighbours]:
            weight = beta * max(0.0, similarities[index])
            total = [a + weight * b for a, b in zip(total, vectors[index], strict=True)]
            weight_sum += weight
        refined.append([value / weight_sum for value in total])
    return refined


def naive_scores(query: np.ndarray, refined: list[list[float]], num_best: int) -> tuple[list[float], list[float]]:
    similarities = [sum(a * b for a, b in zip(query, row, strict=True)) for row in refined]
    best = sorted(range(len(refined)), key=lambda n: -similarities[n])[:num_best]
    expanded = [max(refined[n][axis] for n in best) for axis in range(len(query))]
    return similarities, [sum(a * b for a, b in zip(expanded, row, strict=True)) for row in refined]


@given(
    num_hits=st.integers(1, 8),
    num_neighbours=st.integers(0, 9),
    beta=st.floats(0, 2),
    seed=st.integers(0, 999),
)
def test_equals_loops(num_hits: int, num_neighbours: int, beta: float, seed: int) -> None:
    vectors, query = sample(num_hits, 5, seed), sample(1, 5, seed + 1000)[0]
    refined = refine_hits(vectors, num_neighbours=num_neighbours, beta=beta)
    expected = naive_refine(vectors, num_neighbours, beta)
    np.testing.assert_allclose(refined.vectors, expected, atol=1e-12)
    scores = score_refined(query, refined.vectors, num_best=num_neighbours + 1)
    similarities, expanded = naive_scores(query, expected, num_neighbours + 1)
    np.testing.assert_allclose(scores.similarities, similarities, atol=1e-12)
    np.testing.assert_allclose(scores.expanded, expanded, atol=1e-12)
    np.testing.assert_allclose(scores.published, np.add(similarities, expanded) / 2, atol=1e-12)


@given(num_hits=st.integers(2, 8), seed=st.integers(0, 999))
def test_order_of_hits_does_not_matter(num_hits: int, seed: int) -> None:
    vectors = sample(num_hits, 6, seed)
    order = np.random.default_rng(seed).permutation(num_hits)
    np.testing.assert_allclose(refine_hits(vectors[order]).vectors, refine_hits(vectors).vectors[order], atol=1e-12)


def test_vectors_stay_inside_their_hull_and_equal_ones_stay_equal() -> None:
    vectors = sample(7, 4)
    refined = refine_hits(vectors, beta=10.0).vectors
    assert (refined.max(axis=0) <= vectors.max(axis=0) + 1e-12).all()
    assert (refined.min(axis=0) >= vectors.min(axis=0) - 1e-12).all()
    copies = np.repeat(vectors[:1], 4, axis=0)
    np.testing.assert_allclose(refine_hits(copies).vectors, copies)


def test_a_beta_of_0_and_no_neighbours_change_nothing() -> None:
    vectors = sample(6, 4)
    for refined in (refine_hits(vectors, beta=0.0), refine_hits(vectors, num_neighbours=0), refine_hits(vectors[:1])):
        np.testing.assert_allclose(refined.vectors, vectors[: len(refined.vectors)])


def test_opposite_neighbours_count_nothing() -> None:
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]])
    refined = refine_hits(vectors)
    np.testing.assert_array_equal(refined.vectors, vectors)
    assert refined.weights.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_a_longer_copy_is_not_taken_for_the_vector_itself() -> None:
    vectors = np.array([[1.0, 0.0], [1.001, 0.0], [0.0, 1.0]])
    assert refine_hits(vectors).neighbours[:, 0].tolist() == [0, 1, 2]


def test_standard_scores_have_no_scale_and_equal_ones_are_0() -> None:
    scores = np.array([0.2, 0.3, 0.7])
    np.testing.assert_allclose(standardise_scores(5 * scores - 3), standardise_scores(scores))
    assert standardise_scores(scores).std() == pytest.approx(1)
    assert standardise_scores(np.full(3, 0.25)).tolist() == [0.0] * 3


def test_a_narrow_spread_of_text_counts_as_much_as_a_wide_one_of_videos() -> None:
    vectors = sample(6, 5)
    refined = refine_hits(vectors).vectors
    query = sample(1, 5, 7)[0]
    narrow, wide = score_refined(0.01 * query, refined), score_refined(query, refined)
    np.testing.assert_allclose(narrow.standardised, wide.standardised)
    assert not np.allclose(narrow.published, wide.published)


def test_invalid_settings_are_refused() -> None:
    for num_neighbours, beta in ((-1, 0.15), (9, -0.1), (9, math.nan), (9, math.inf)):
        with pytest.raises(ValueError, match="must be at least 0 and finite, got"):
            refine_hits(sample(3, 4), num_neighbours=num_neighbours, beta=beta)


def refine_golden(case: Case, query: int, num_hits: int, num_neighbours: int, beta: float) -> tuple[np.ndarray, ...]:
    database = case.inputs["database"].numpy()
    initial = case.outputs["ranks_initial"][:, query].numpy()
    hits = initial[:num_hits]
    refined: RefinedHits = refine_hits(database[hits], num_neighbours=num_neighbours, beta=beta)
    scores = score_refined(case.inputs["queries"].numpy()[query], refined.vectors, num_best=num_neighbours + 1)
    order = np.argsort(-scores.published, kind="stable")
    ranks = np.concatenate([hits[order], initial[num_hits:]])
    return refined.vectors, refined.neighbours, refined.weights, scores.query, scores.similarities, ranks


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    config, outputs = case.config, case.outputs
    defaults = config["defaults"]
    for query in range(config["queries"]):
        found = refine_golden(case, query, config["M"], config["K"], config["beta"])
        vectors, neighbours, weights, expanded_query, similarities, ranks = found
        assert np.array_equal(neighbours, outputs["neighbours"][query])
        check_close(torch.from_numpy(weights), outputs["neighbour_weights"][query], 1e-6)
        check_close(torch.from_numpy(vectors), outputs["refined"][query], 1e-6)
        check_close(torch.from_numpy(similarities), outputs["score_refined"][query], 1e-6)
        check_close(torch.from_numpy(expanded_query), outputs["query_refined"][query], 1e-6)
        assert np.array_equal(ranks, outputs["ranks_final"][:, query])
        *_, all_ranks = refine_golden(case, query, defaults["M"], defaults["K"], defaults["beta"])
        assert np.array_equal(all_ranks, outputs["ranks_final_defaults"][:, query])
