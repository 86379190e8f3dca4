"""SuperGlobal's refinement: equality with loops, properties, published numbers, and refined searches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import DIM, PatchEncoder, make_text
from tests.goldens import Case, check_close, find_cases
from vidret.channels.picture import reranking
from vidret.channels.picture.reranking import keep_match, refine_hits, score_refined, standardise_scores
from vidret.engine import Engine
from vidret.types import Hit

LEVELS = ("segment", "frames", "words")


def sample(num_hits: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_hits, dim)) + 0.5
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def naive_refine(vectors: np.ndarray, num_neighbours: int, beta: float) -> list[list[float]]:
    refined = []
    for row, vector in enumerate(vectors):
        similarities = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in vectors]
        others = sorted((index for index in range(len(vectors)) if index != row), key=lambda n: -similarities[n])
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


@given(num_hits=st.integers(1, 8), num_neighbours=st.integers(0, 9), beta=st.floats(0, 2), seed=st.integers(0, 999))
def test_equals_loops(num_hits: int, num_neighbours: int, beta: float, seed: int) -> None:
    vectors, query = sample(num_hits, 5, seed), sample(1, 5, seed + 1000)[0]
    refined = refine_hits(vectors, num_neighbours=num_neighbours, beta=beta)
    expected = naive_refine(vectors, num_neighbours, beta)
    np.testing.assert_allclose(refined, expected, atol=1e-12)
    scores = score_refined(query, refined, num_best=num_neighbours + 1)
    np.testing.assert_allclose(scores, naive_scores(query, expected, num_neighbours + 1), atol=1e-12)


def test_opposite_neighbours_and_longer_copies_change_nothing() -> None:
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(refine_hits(opposite), opposite)
    copies = np.array([[1.0, 0.0], [1.001, 0.0], [0.0, 1.0]])  # the nearest to each is itself
    np.testing.assert_array_equal(refine_hits(copies, num_neighbours=0), copies)


def test_standard_scores_have_no_scale_and_equal_ones_are_0() -> None:
    scores = np.array([0.2, 0.3, 0.7])
    np.testing.assert_allclose(standardise_scores(5 * scores - 3), standardise_scores(scores))
    assert standardise_scores(scores).std() == pytest.approx(1)
    assert standardise_scores(np.full(3, 0.25)).tolist() == [0.0] * 3


def rank_golden(case: Case, query: int, num_hits: int, num_neighbours: int, beta: float) -> tuple[np.ndarray, ...]:
    database, initial = case.inputs["database"].numpy(), case.outputs["ranks_initial"][:, query].numpy()
    hits = initial[:num_hits]
    refined = refine_hits(database[hits], num_neighbours=num_neighbours, beta=beta)
    scores = score_refined(case.inputs["queries"].numpy()[query], refined, num_best=num_neighbours + 1)
    order = np.argsort(-(scores[0] + scores[1]) / 2, kind="stable")
    return refined, scores[0], np.concatenate([hits[order], initial[num_hits:]])


@pytest.mark.parametrize("case", find_cases("superglobal"), ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    config, outputs = case.config, case.outputs
    defaults = config["defaults"]
    for query in range(config["queries"]):
        vectors, similarities, ranks = rank_golden(case, query, config["M"], config["K"], config["beta"])
        check_close(torch.from_numpy(vectors), outputs["refined"][query], 1e-6)
        check_close(torch.from_numpy(similarities), outputs["score_refined"][query], 1e-6)
        assert np.array_equal(ranks, outputs["ranks_final"][:, query])
        *_, all_ranks = rank_golden(case, query, defaults["M"], defaults["K"], defaults["beta"])
        assert np.array_equal(all_ranks, outputs["ranks_final_defaults"][:, query])


@pytest.fixture
def engine(index: Path) -> Engine:
    return Engine(index, PatchEncoder())


def vectors_of(engine: Engine, hits: list[Hit]) -> np.ndarray:
    store = engine._index.store
    ids = list(store.segments.find_many((hit.segment.video, hit.segment.number) for hit in hits).values())
    return store.features.read_vectors(ids).astype(np.float32)


def test_images_and_vectors_are_ordered_as_published(engine: Engine) -> None:
    query = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    plain, refined = engine.search(query), engine.search(query, refine=True)
    unit = query / np.linalg.norm(query)
    similarities, expanded = score_refined(unit, refine_hits(vectors_of(engine, plain)))
    check_refined(plain, refined, (similarities + expanded) / 2)


@given(num_hits=st.integers(1, 8), noise=st.floats(0, 3), seed=st.integers(0, 999))
def test_a_match_stays_first_if_the_query_is_nearer_to_it_than_any_hit(num_hits: int, noise: float, seed: int) -> None:
    hits = sample(num_hits, 6, seed)
    query = hits[0] + noise * sample(1, 6, seed + 1000)[0]
    query /= np.linalg.norm(query)
    hits = hits[np.argsort(-(hits @ query), kind="stable")]
    similarities, expanded = score_refined(query, refine_hits(hits))
    refined = (similarities + expanded) / 2
    kept = keep_match(refined, hits, hits @ query)
    nearest = max((sum(a * b for a, b in zip(hits[0], hit, strict=True)) for hit in hits[1:]), default=-1.0)
    is_match = hits[0] @ query > nearest
    assert kept[1:].tolist() == refined[1:].tolist()
    assert kept[0] == (refined.max() if is_match else refined[0])
    assert not is_match or np.argsort(-kept, kind="stable")[0] == 0


def test_text_keeps_half_of_its_own_scores(engine: Engine) -> None:
    plain, refined = engine.search("a dog"), engine.search("a dog", refine=True)
    scores = np.array([float(np.mean([hit.why[name] for name in LEVELS])) for hit in plain])
    sentence = make_text("a dog").sentence
    both = score_refined(sentence, refine_hits(vectors_of(engine, plain)))
    hits = (standardise_scores(both[0]) + standardise_scores(both[1])) / 2
    check_refined(plain, refined, (standardise_scores(scores) + hits) / 2)


def check_refined(plain: Sequence[Hit], refined: Sequence[Hit], expected: np.ndarray) -> None:
    """Compare refined hits with the refined scores of plain ones; their evidence is that of plain ones, in order."""
    by_path = {hit.path: score for hit, score in zip(plain, expected, strict=True)}
    assert [hit.path for hit in refined] == sorted(by_path, key=lambda path: -by_path[path])
    assert [hit.why["refined"] for hit in refined] == pytest.approx([by_path[hit.path] for hit in refined], abs=1e-5)
    assert [hit.score for hit in refined] == [hit.score for hit in plain]
    assert [hit.weak for hit in refined] == [hit.weak for hit in plain]


def test_further_hits_follow_in_their_first_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine.search("a dog")
    monkeypatch.setattr(reranking, "NUM_HITS", 1)
    refined = engine.search("a dog", refine=True)
    assert [hit.path for hit in refined] == [hit.path for hit in plain]
    refined_scores = [hit.why["refined"] for hit in refined]
    assert refined_scores == sorted(refined_scores, reverse=True)
    assert [hit.score for hit in refined] == [hit.score for hit in plain]
