"""Sinkhorn: equality with scaling by loops, invariances, limits, and a published example."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tests.goldens import check_close, find_cases
from vidret.align.sinkhorn import Transport, sinkhorn


def naive_sinkhorn(
    scores: Tensor, temperature: float, num_iterations: int
) -> tuple[list[list[float]], list[float], list[float]]:
    """Return the plan, computed without logarithms, and the row and column potentials."""
    kernel = [[math.exp(value / temperature) for value in row] for row in scores.tolist()]
    rows, columns = (range(count) for count in scores.shape)
    a = [1.0 for _ in rows]
    b = [1 / len(columns) / sum(kernel[i][j] * a[i] for i in rows) for j in columns]
    for _ in range(num_iterations):
        a = [1 / len(rows) / sum(kernel[i][j] * b[j] for j in columns) for i in rows]
        b = [1 / len(columns) / sum(kernel[i][j] * a[i] for i in rows) for j in columns]
    plan = [[kernel[i][j] * a[i] * b[j] for j in columns] for i in rows]
    return plan, [temperature * math.log(x) for x in a], [temperature * math.log(x) for x in b]


def sample(rows: int, columns: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def check_same(found: Transport, expected: Transport, atol: float = 1e-12) -> None:
    for name in ("log_plan", "row_potentials", "column_potentials"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=atol, rtol=1e-12)
    assert found.error == pytest.approx(expected.error, abs=1e-12)
    assert found.num_iterations == expected.num_iterations


@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    temperature=st.floats(0.3, 5),
    num_iterations=st.integers(0, 30),
    seed=st.integers(0, 999),
)
def test_equals_naive_sinkhorn(rows: int, columns: int, temperature: float, num_iterations: int, seed: int) -> None:
    scores = sample(rows, columns, seed=seed)
    plan, row_potentials, column_potentials = naive_sinkhorn(scores, temperature, num_iterations)
    found = sinkhorn(scores, temperature=temperature, num_iterations=num_iterations)
    torch.testing.assert_close(found.plan, torch.tensor(plan, dtype=torch.float64), atol=1e-12, rtol=1e-9)
    if found.num_iterations == num_iterations:
        assert found.row_potentials.tolist() == pytest.approx(row_potentials, abs=1e-10)
        assert found.column_potentials.tolist() == pytest.approx(column_potentials, abs=1e-10)
    else:
        assert found.error == 0.0
    violation = sum(abs(sum(plan[i]) - 1 / rows) for i in range(rows))
    assert found.error == pytest.approx(violation, abs=1e-12)


def test_limit_is_doubly_stochastic() -> None:
    found = sinkhorn(sample(9, 9), num_iterations=5000, tolerance=1e-12)
    assert found.num_iterations < 5000
    assert found.error <= 1e-12
    ones = torch.ones(9, dtype=torch.float64)
    torch.testing.assert_close(9 * found.plan.sum(1), ones, atol=1e-10, rtol=0)
    torch.testing.assert_close(9 * found.plan.sum(0), ones, atol=1e-10, rtol=0)


def test_columns_are_exact_and_rows_converge() -> None:
    scores = sample(8, 5)
    errors = []
    for num_iterations in range(6):
        found = sinkhorn(scores, num_iterations=num_iterations)
        torch.testing.assert_close(found.plan.sum(0), torch.full((5,), 0.2, dtype=torch.float64), atol=1e-12, rtol=0)
        assert found.error == pytest.approx(float((found.plan.sum(1) - 1 / 8).abs().sum()), abs=1e-12)
        errors.append(found.error)
    assert errors == sorted(errors, reverse=True)


def test_stops_at_the_tolerance() -> None:
    scores = sample(6, 6)
    found = sinkhorn(scores, num_iterations=1000, tolerance=1e-3)
    assert 0 < found.num_iterations < 1000
    assert found.error <= 1e-3 < sinkhorn(scores, num_iterations=found.num_iterations - 1).error
    check_same(found, sinkhorn(scores, num_iterations=found.num_iterations))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_plan_follows_from_scores_and_potentials(temperature: float) -> None:
    scores = sample(5, 7)
    found = sinkhorn(scores, temperature=temperature)
    moved = (scores + found.row_potentials[:, None] + found.column_potentials) / temperature
    torch.testing.assert_close(found.log_plan, moved, atol=1e-12, rtol=1e-12)


def test_shifts_of_rows_and_columns_do_not_change_the_plan() -> None:
    scores = sample(6, 4)
    found = sinkhorn(scores, num_iterations=3)
    shifted = sinkhorn(scores + 123.0, num_iterations=3)
    torch.testing.assert_close(shifted.log_plan, found.log_plan, atol=1e-10, rtol=0)
    torch.testing.assert_close(shifted.row_potentials, found.row_potentials, atol=1e-10, rtol=0)
    columns = sinkhorn(scores + sample(1, 4, seed=5), num_iterations=3)
    torch.testing.assert_close(columns.log_plan, found.log_plan, atol=1e-10, rtol=0)
    long, rows = (sinkhorn(moved, num_iterations=9999, tolerance=1e-13) for moved in (scores, scores + sample(6, 1)))
    torch.testing.assert_close(rows.plan, long.plan, atol=1e-10, rtol=0)  # for rows in the limit only


def test_scores_and_temperature_scale_together() -> None:
    scores = sample(5, 5)
    found, scaled = sinkhorn(scores), sinkhorn(scores / 100, temperature=0.01)
    torch.testing.assert_close(scaled.plan, found.plan)
    torch.testing.assert_close(100 * scaled.column_potentials, found.column_potentials)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])  # their best assignments are clear: few iterations find them
def test_low_temperature_gives_the_optimal_assignment(seed: int) -> None:
    scores = sample(10, 10, seed=seed, scale=1.0)
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    best = float(scores[rows, columns].sum())
    gaps = []
    for temperature in (1.0, 0.1, 0.01, 0.002):
        found = sinkhorn(scores, temperature=temperature, num_iterations=4000, tolerance=1e-5)
        gaps.append(best - 10 * float((found.plan * scores).sum()))
    assert gaps[0] > gaps[1] > gaps[2] - 1e-3  # within the tolerance
    assert gaps[-1] == pytest.approx(0, abs=1e-3)
    assert found.plan.argmax(1).tolist() == columns.tolist()
    assert float(found.plan[rows, columns].sum()) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_a_thousand_do_not_overflow(dtype: torch.dtype) -> None:
    signs = sample(12, 8).sign()
    for scores in (1000 * signs, 1000 - 2000 * torch.eye(8), -1000 * torch.ones(3, 5), 1000 * torch.ones(3, 5)):
        found = sinkhorn(scores.to(dtype), num_iterations=50)
        assert found.plan.dtype == dtype
        for values in (found.log_plan, found.row_potentials, found.column_potentials):
            assert values.isfinite().all()
        uniform = torch.full((scores.shape[1],), 1 / scores.shape[1], dtype=dtype)
        torch.testing.assert_close(found.plan.sum(0), uniform, atol=1e-3 if dtype == torch.float32 else 1e-9, rtol=0)


def test_single_precision_is_accurate() -> None:
    scores = sample(30, 20, scale=20.0)
    exact, short = sinkhorn(scores), sinkhorn(scores.float())
    torch.testing.assert_close(short.column_potentials.double(), exact.column_potentials, atol=1e-4, rtol=0)


def test_order_of_rows_and_columns_is_preserved() -> None:
    scores = sample(6, 5)
    rows, columns = torch.randperm(6), torch.randperm(5)
    expected = sinkhorn(scores)
    found = sinkhorn(scores[rows][:, columns])
    torch.testing.assert_close(found.log_plan, expected.log_plan[rows][:, columns])
    torch.testing.assert_close(found.row_potentials, expected.row_potentials[rows])
    torch.testing.assert_close(found.column_potentials, expected.column_potentials[columns])


def test_gradients_are_correct_and_finite() -> None:
    scores = sample(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x).log_plan, scores)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x).plan, scores)
    far = (1000 * sample(4, 3).sign()).requires_grad_()
    sinkhorn(far).plan.square().sum().backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None
    assert far.grad.isfinite().all()


@pytest.mark.wrong_shapes
def test_invalid_arguments_are_rejected() -> None:
    scores = sample(2, 3)
    holed = scores.clone()
    holed[1, 2] = math.nan
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: sinkhorn(scores[0]), r"scores must be a float32 or float64 matrix .*, got torch.float64 \(3,\)"),
        (lambda: sinkhorn(scores.half()), r"scores must be a float32 or float64 matrix .*, got torch.float16 \(2, 3\)"),
        (lambda: sinkhorn(holed), r"scores must be finite, got nan at \[1, 2\]"),
        (lambda: sinkhorn(scores, temperature=0), "temperature must be positive and finite, got 0"),
        (lambda: sinkhorn(scores, temperature=math.nan), "temperature must be positive and finite, got nan"),
        (lambda: sinkhorn(scores, num_iterations=-1), "must be at least 0, got -1 and 0.0"),
        (lambda: sinkhorn(scores, tolerance=math.nan), "must be at least 0, got 4 and nan"),
        (lambda: sinkhorn(scores[:0]), "with a row and a column"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_equals_published_code() -> None:
    outputs = [load_file(case.folder / "outputs_testtime.safetensors") for case in find_cases("ucofia")]
    demos = [each for each in outputs if "sk_demo.input" in each]
    assert demos
    for demo in demos:
        found = sinkhorn(demo["sk_demo.input"], num_iterations=4)
        check_close(found.row_potentials.log_softmax(0), demo["sk_demo.row_bias"])
        check_close(found.column_potentials.log_softmax(0), demo["sk_demo.col_bias"])
