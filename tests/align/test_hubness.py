"""Hubness correction: equality with naive versions, and results of the published code."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from tests.metrics.published import Golden, find_goldens
from vidret.align.hubness import balance_columns, dual_softmax, qb_norm, sk_norm


def naive_sinkhorn(bank: Tensor, num_iterations: int = 4) -> tuple[list[float], list[float], float]:
    """Return the potentials of videos, which sum to 1, and of queries, and the error, without logarithms, by loops."""
    kernel = [[math.exp(value) for value in row] for row in bank.tolist()]
    queries, videos = range(bank.shape[0]), range(bank.shape[1])
    a = [1.0 for _ in queries]
    b = [1 / len(videos) / sum(kernel[i][j] for i in queries) for j in videos]
    for _ in range(num_iterations):
        a = [1 / len(queries) / sum(kernel[i][j] * b[j] for j in videos) for i in queries]
        b = [1 / len(videos) / sum(kernel[i][j] * a[i] for i in queries) for j in videos]
    shares = [sum(kernel[i][j] * a[i] * b[j] for j in videos) for i in queries]
    error = sum(abs(share - 1 / len(queries)) for share in shares)
    return [math.log(factor / sum(b)) for factor in b], [math.log(factor) for factor in a], error


def naive_qb_norm(scores: Tensor, bank: Tensor, beta: float, k: int) -> tuple[list[list[float]], list[bool]]:
    """Return the published QB-norm scores, and which rows were corrected."""
    active = set()
    for row in bank.tolist():
        active |= set(sorted(range(len(row)), key=lambda video: -row[video])[:k])
    rows, replaced = [], []
    for row in scores.tolist():
        replaced.append(row.index(max(row)) in active)
        if replaced[-1]:
            sums = [sum(math.exp(beta * value) for value in column) for column in bank.T.tolist()]
            row = [math.exp(beta * value) / total for value, total in zip(row, sums, strict=True)]
        rows.append(row)
    return rows, replaced


def naive_dual_softmax(scores: Tensor) -> list[list[float]]:
    """Multiply each score by the softmax of its column."""
    columns = scores.T.tolist()
    sums = [sum(math.exp(value) for value in column) for column in columns]
    return [
        [value * math.exp(value) / column_sum for value, column_sum in zip(row, sums, strict=True)]
        for row in scores.tolist()
    ]


def sample(queries: int, videos: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(queries, videos, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_values(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=1e-10)


SEEDS = st.integers(0, 999)


@given(st.integers(1, 9), st.integers(1, 9), SEEDS, st.sampled_from([1.0, 0.5]))
def test_sk_norm_equals_naive_version(queries: int, videos: int, seed: int, temperature: float) -> None:
    bank, scores = sample(queries, videos, seed=seed), sample(3, videos, seed=seed + 1)
    correction = sk_norm(temperature * bank, temperature=temperature)
    check_values(dual_softmax(bank), naive_dual_softmax(bank))
    potentials, query_potentials, error = naive_sinkhorn(bank)
    check_values(correction.potentials / temperature, potentials)
    assert correction.query_potentials is not None
    check_values(correction.query_potentials / temperature, query_potentials)
    assert correction.error == pytest.approx(error, abs=1e-12)
    balanced = balance_columns(temperature * bank, correction.query_potentials, temperature=temperature) / temperature
    check_values((balanced - balanced.logsumexp(0)), potentials)
    assert torch.equal(correction.correct(scores), scores + correction.potentials)
    assert correction.active is None


@given(queries=st.integers(1, 30), videos=st.integers(3, 9), beta=st.floats(0.5, 20), k=st.integers(1, 3), seed=SEEDS)
def test_qb_norm_equals_naive_version(queries: int, videos: int, beta: float, k: int, seed: int) -> None:
    bank, scores = sample(queries, videos, seed=seed, scale=0.3), sample(20, videos, seed=seed + 1, scale=0.3)
    expected, replaced = naive_qb_norm(scores, bank, beta, k)
    corrected = qb_norm(bank, beta=beta, k=k).correct(scores)
    rows = torch.tensor(replaced)
    published = torch.where(rows[:, None], (beta * corrected).exp(), corrected)
    check_values(published, expected)
    assert torch.equal(corrected[~rows], scores[~rows])


@pytest.mark.parametrize("calibrate", [sk_norm, qb_norm])
def test_queries_are_corrected_independently(calibrate: Any) -> None:
    correction, scores = calibrate(sample(6, 5)), sample(2 * 4, 5, seed=1)
    together = correction.correct(scores)
    assert together.shape == scores.shape
    for query, expected in zip(scores, together, strict=True):
        assert torch.equal(correction.correct(query), expected)
    assert torch.equal(correction.correct(scores.view(2, 4, 5)), together.view(2, 4, 5))


def test_tied_videos_are_all_active() -> None:
    bank = torch.tensor([[1.0, 1.0, 0.0, -1.0]])
    for k, active in [(1, [1, 1, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0]), (4, [1, 1, 1, 1])]:
        mask = qb_norm(bank, k=k).active
        assert mask is not None
        assert mask.int().tolist() == active
    tied = torch.tensor([0.0, 0.5, 0.0, 0.5])
    assert not torch.equal(qb_norm(bank).correct(tied), tied)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_a_thousand_do_not_overflow(dtype: torch.dtype) -> None:
    bank, scores = (1000 * sample(12, 8, seed=seed).sign().to(dtype) for seed in (0, 1))
    for correction in (sk_norm(bank), sk_norm(bank, temperature=0.01), qb_norm(bank)):
        corrected = correction.correct(scores)
        assert corrected.dtype == dtype
        assert corrected.isfinite().all()
    assert dual_softmax(scores).isfinite().all()


@pytest.mark.wrong_shapes
def test_invalid_arguments_are_rejected() -> None:
    bank = sample(2, 3)
    holed = bank.clone()
    holed[1, 0] = math.inf
    correction = sk_norm(bank)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: sk_norm(holed), r"bank must be finite, got inf at \[1, 0\]"),
        (lambda: qb_norm(holed), r"bank must be finite, got inf at \[1, 0\]"),
        (lambda: dual_softmax(holed), r"scores must be finite, got inf at \[1, 0\]"),
        (lambda: correction.correct(-holed[1]), r"scores must be finite, got -inf at \[0\]"),
        (lambda: sk_norm(bank[:0]), r"bank must be a float32 or float64 matrix .* got torch.float64 \(0, 3\)"),
        (lambda: qb_norm(bank[0]), r"bank must be a float32 or float64 matrix .* got torch.float64 \(3,\)"),
        (lambda: dual_softmax(bank.half()), r"scores must be a float32 .* got torch.float16 \(2, 3\)"),
        (lambda: correction.correct(bank[:, :2]), r"scores must have 3 videos, .*got shape \(2, 2\)"),
        (lambda: correction.correct(bank[0, 0]), r"scores must have 3 videos, .*got shape \(\)"),
        (lambda: sk_norm(bank, temperature=-1), "temperature must be positive and finite, got -1"),
        (lambda: sk_norm(bank, temperature=math.nan), "temperature must be positive and finite, got nan"),
        (lambda: qb_norm(bank, beta=0), "beta must be positive and finite, got 0"),
        (lambda: qb_norm(bank, k=0), r"k must be in 1..3, the number of videos, got 0"),
        (lambda: qb_norm(bank, k=4), r"k must be in 1..3, the number of videos, got 4"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


CASES = find_cases("ucofia")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.folder))
def test_biases_and_final_scores_equal_published_code(case: Case) -> None:
    golden = load_file(case.folder / "outputs_testtime.safetensors")
    # float32 as published: with scores of up to 100, biases agree to 1e-4.
    videos, texts = [], []
    for level in ("video_sentence", "frame_sentence", "patch_word"):
        scores = golden[f"test.{level}"]
        by_video = sk_norm(golden[f"bank_text_vs_test_video.{level}"])
        by_text = sk_norm(golden[f"test_text_vs_bank_video.{level}"].T)
        check_close(by_video.potentials, golden[f"t2v.video_bias.{level}"], atol=1e-4)
        check_close(by_text.potentials, golden[f"v2t.text_bias.{level}"], atol=1e-4)
        videos.append(by_video.correct(scores))
        texts.append(by_text.correct(scores.T).T)
        check_close(videos[-1], golden[f"t2v.adjusted.{level}"], atol=1e-4)
        check_close(texts[-1], golden[f"v2t.adjusted.{level}"].reshape(texts[-1].shape), atol=1e-4)
    check_close(torch.stack(videos).mean(0), golden["t2v.final"], atol=1e-4)
    check_close(torch.stack(texts).mean(0), golden["v2t.final"], atol=1e-4)


def test_sinkhorn_equals_published_code() -> None:
    outputs = [load_file(case.folder / "outputs_testtime.safetensors") for case in CASES]
    demos = [output for output in outputs if "sk_demo.input" in output]
    assert demos
    for demo in demos:
        found = sk_norm(demo["sk_demo.input"])
        assert found.query_potentials is not None
        check_close(found.query_potentials.log_softmax(0), demo["sk_demo.row_bias"])
        check_close(found.potentials, demo["sk_demo.col_bias"])


@pytest.fixture(scope="module", params=find_goldens(), ids=str)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_qb_norm_equals_published_code(golden: Golden) -> None:
    scores, bank = map(torch.from_numpy, golden.corrected)
    corrected = qb_norm(bank).correct(scores)
    rows = (corrected != scores).any(1)
    values = torch.where(rows[:, None], (20.0 * corrected).exp(), corrected)  # the published form
    expected = torch.from_numpy(np.load(golden.folder / "qbnorm_k1_beta20_rows0_50.npz")["rows"])
    torch.testing.assert_close(values[: len(expected)], expected, rtol=1e-11, atol=0)
    assert 0 < int((~rows).sum()) < 100


def test_active_videos_are_as_many_as_in_published_code(golden: Golden) -> None:
    """How many rows are corrected then, and their ranks, is checked where they are evaluated."""
    _, bank = map(torch.from_numpy, golden.corrected)
    results = {name: result for name, result in golden.metrics["qbnorm"]["results"].items() if name != "base"}
    for k, expected in {int(name[1:].split("_")[0]): result for name, result in results.items()}.items():
        active = qb_norm(bank, k=k).active
        assert active is not None
        assert int(active.sum()) == expected["n_active_videos"]


def test_a_video_is_active_if_enough_queries_rank_it_first() -> None:
    bank = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 5)))
    firsts = [int(row.argmax()) for row in bank]
    for min_queries in (1, 3, 5):
        active = qb_norm(bank, beta=70.0, min_queries=min_queries).active
        assert active is not None
        assert active.tolist() == [firsts.count(video) >= min_queries for video in range(5)]
