"""Tests of Muon against singular value decompositions and AdamW."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tests.train.small import make_module, sample
from vidret.errors import VidretError
from vidret.train.muon import COEFFICIENTS, MATRIX, MOMENTUM, NUM_REPEATS, Muon, muon_optimizer, orthogonalize
from vidret.train.optim import parameter_groups

BETAS, EPS = (0.9, 0.98), 1e-6


def naive_orthogonalize(matrix: Tensor) -> Tensor:
    """Apply the polynomial to each singular value."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    carried = []
    for value in (values / matrix.norm()).tolist():
        for _ in range(NUM_REPEATS):
            value = sum(factor * value**power for factor, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
        carried.append(value)
    out: Tensor = left @ torch.diag(torch.tensor(carried, dtype=matrix.dtype)) @ right
    return out


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonal_matrices_equal_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    matrices = sample(3, *shape)
    found = orthogonalize(matrices)
    for matrix, other in zip(found, matrices, strict=True):
        torch.testing.assert_close(matrix, naive_orthogonalize(other))
    small, large = (
        f(torch.linalg.svdvals(orthogonalize(sample(20, *shape, seed=1)))) for f in (torch.amin, torch.amax)
    )
    assert small > 0.2
    assert large < 1.3


def make(weights: list[nn.Parameter], lr: float = 0.1, **group: Any) -> Muon:
    return Muon(
        [{"params": weights, "lr": lr, "weight_decay": 0.2, **group}], betas=BETAS, eps=EPS, matrix_dtype=torch.float64
    )


def run(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], grads: Tensor) -> None:
    for step in grads:
        for weight, grad in zip(weights, step, strict=True):
            weight.grad = grad.clone()
        optimizer.step()
        assert all(torch.equal(w.grad, grad) for w, grad in zip(weights, step, strict=True) if w.grad is not None)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_matrices_step_along_their_orthogonalized_momentum(shape: tuple[int, int]) -> None:
    weights, grads = [nn.Parameter(sample(*shape, seed=seed)) for seed in (1, 2)], sample(3, 2, *shape)
    expected = [weight.detach().clone() for weight in weights]
    for index, matrix in enumerate(expected):
        momentum = torch.zeros(shape, dtype=torch.float64)
        for grad in grads[:, index]:
            momentum = MOMENTUM * momentum + grad
            size = 0.1 * math.sqrt(max(1.0, shape[0] / shape[1]))
            matrix.copy_(matrix - 0.1 * 0.2 * matrix - size * naive_orthogonalize(grad + MOMENTUM * momentum))
    run(make(weights, matrix_parts=1), weights, grads)
    for weight, matrix in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), matrix)


def test_packed_matrices_step_like_single_ones() -> None:
    packed, grads = [nn.Parameter(sample(9, 3))], sample(3, 1, 9, 3, seed=1)
    single = [nn.Parameter(matrix.detach().clone()) for matrix in packed[0].chunk(3)]
    run(make(packed, matrix_parts=3), packed, grads)
    run(make(single, matrix_parts=1), single, torch.stack(grads.chunk(3, dim=2), dim=1).squeeze(2))
    torch.testing.assert_close(packed[0].detach(), torch.cat([matrix.detach() for matrix in single]))


def test_other_weights_step_like_adamw() -> None:
    ours, theirs = ([nn.Parameter(sample(4, 3, seed=seed)) for seed in (1, 2)] for _ in range(2))
    matrix, grads = nn.Parameter(sample(4, 3, seed=3)), sample(4, 2, 4, 3)
    optimizer = make(ours)
    optimizer.add_param_group({"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "matrix_parts": 1})
    matrix.grad = sample(4, 3, seed=4)
    run(optimizer, ours, grads)
    run(AdamW(theirs, lr=0.1, betas=BETAS, eps=EPS, weight_decay=0.2), theirs, grads)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert set(optimizer.state[matrix]) == {"momentum"}


def test_matrices_are_those_of_the_towers_blocks() -> None:
    model = make_module("joint").model
    matrices = {name: weight for name, weight in model.named_parameters() if MATRIX.match(name)}
    assert {weight.ndim for weight in matrices.values()} == {2}
    assert len(matrices) == 4 * (2 + 1), "four in each block of both towers"


def test_a_recipe_with_muon_trains_matrices_at_their_own_rate_and_all_others_as_before() -> None:
    module, plain = make_module("joint", matrix_lr=0.02, lr=1e-3), make_module("joint", lr=1e-3)
    rates, before = (
        {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
        for groups in (parameter_groups(one.model, one._recipe.rule) for one in (module, plain))
    )
    matrices = {name for name in rates if MATRIX.match(name)}
    assert {rates[name] for name in matrices} == {(0.02, 0.05)}
    assert rates.keys() == before.keys()
    assert all(rates[name] == before[name] for name in rates.keys() - matrices)
    optimizer, _ = muon_optimizer(module.model, module._recipe.rule, num_steps=10)
    parts = {name: group["matrix_parts"] for group in optimizer.param_groups for name in group["names"]}
    assert {name.rpartition(".")[2]: parts[name] for name in matrices} == {"in_proj_weight": 3, "weight": 1}
    assert not any(parts[name] for name in parts.keys() - matrices)


def test_half_precision_and_muon_without_training_everything_are_refused() -> None:
    module = make_module("joint", matrix_lr=0.02).half()
    with pytest.raises(VidretError, match=r"weights must be float32 or float64, got torch\.float16"):
        muon_optimizer(module.model, module._recipe.rule, num_steps=10)
    with pytest.raises(VidretError, match=r"cool_down needs matrix_lr, got 0\.3 without"):
        make_module("joint", cool_down=0.3)
    with pytest.raises(VidretError, match=r"matrix_lr needs train_all, got 0\.02 without"):
        make_module("joint", matrix_lr=0.02, train_all=False)


def test_rates_fall_at_the_end_as_asked() -> None:
    module = make_module("joint", matrix_lr=0.02, cool_down=0.5)
    optimizer, schedule = module._recipe.optimizer(module.model, module._recipe.rule, num_steps=4, warm_up=0.25)
    rates = []
    for _ in range(4):
        rates.append({group["lr"] / group["initial_lr"] for group in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    assert rates == [{0.0}, {1.0}, {1.0}, {0.5}]
