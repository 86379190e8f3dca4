"""Patch selection: equality with loops over draws, gradients, and invariances."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidret.align.ucofia_selection import PatchSelector, ScoreNet, hard_top_k, perturbed_top_k


def naive_weights(scores: Tensor, noise: Tensor, k: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the weights of patches, and the diagonal of their smoothed derivative, by loops over draws."""
    weights, slopes = (torch.zeros(len(scores), k, scores.shape[1], dtype=torch.float64) for _ in range(2))
    for frame in range(len(scores)):
        for draw in noise[frame].double():
            perturbed = scores[frame].double() + sigma * draw
            best = sorted(sorted(range(len(perturbed)), key=lambda patch: -float(perturbed[patch]))[:k])
            for row, patch in enumerate(best):
                weights[frame, row, patch] += 1 / noise.shape[1]
                slopes[frame, row, patch] += draw[patch] / (noise.shape[1] * sigma)
    return weights, slopes


def naive_score(net: ScoreNet, frame: Tensor) -> list[float]:
    """Return the scores of a frame's tokens, computed one by one."""
    reduced = [
        functional.gelu(net.reduce.weight @ functional.layer_norm(token, token.shape, net.norm.weight, net.norm.bias))
        for token in frame
    ]
    joined = [functional.gelu(net.join.weight @ torch.cat([token, reduced[0]])) for token in reduced]
    return [float(torch.tanh(net.out.weight @ row)) for row in joined]


@torch.no_grad()
def test_scores_equal_loops() -> None:
    net, frames = ScoreNet(12), torch.randn(3, 5, 12)
    expected = torch.tensor([naive_score(net, frame) for frame in frames])
    torch.testing.assert_close(net(frames), expected, atol=1e-6, rtol=0)


def test_weights_and_gradient_equal_loops() -> None:
    scores, noise = torch.randn(3, 7).mul(0.1).requires_grad_(), torch.randn(3, 40, 7)
    shares = perturbed_top_k(scores, noise, 3, sigma=0.2)
    expected, slopes = naive_weights(scores.detach(), noise, 3, 0.2)
    torch.testing.assert_close(shares.double(), expected, atol=1e-6, rtol=0)
    weights = torch.randn(3, 3, 7)
    (gradient,) = torch.autograd.grad((shares * weights).sum(), scores)
    torch.testing.assert_close(gradient.double(), (slopes * weights).sum(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(3, 3))


def test_without_noise_selection_is_hard_and_in_frame_order() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2], [0.5, 0.5, 0.5, 0.5, 0.5]])
    assert hard_top_k(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    shares = perturbed_top_k(scores[:1], torch.zeros(1, 4, 5), 3)
    assert torch.equal(shares, functional.one_hot(torch.tensor([[1, 2, 3]]), 5).float())
    tight = perturbed_top_k(torch.randn(4, 9), torch.randn(4, 50, 9), 3, sigma=1e-7)
    assert ((tight == 0) | (tight == 1)).all()


@torch.no_grad()
@pytest.mark.parametrize("score", [None, ScoreNet(8)])
def test_padding_is_selected_last(score: ScoreNet | None) -> None:
    selector, frames = PatchSelector(score).eval(), torch.randn(2, 7, 8)
    alone, real = selector(frames[:1, :6])
    assert real.all()
    mask = torch.tensor([[True] * 5 + [False], [True] * 2 + [False] * 4])
    for noise in (None, torch.zeros(2, 3, 6)):
        selected, kept = selector(frames, mask, noise=noise)
        torch.testing.assert_close(selected[:1], alone)
        torch.testing.assert_close(selected[1, :3], frames[1, :3])
        assert kept.tolist() == [[True, True, True], [True, True, False]]


@torch.no_grad()
def test_without_a_net_patches_most_similar_to_the_frame_are_kept() -> None:
    frames = torch.randn(1, 6, 8)
    frames[0, 2], frames[0, 4], frames[0, 5] = 3 * frames[0, 0], frames[0, 0] + 0.01, 0.5 * frames[0, 0]
    selected, _ = PatchSelector().eval()(frames)
    assert torch.equal(selected[0], frames[0, [0, 2, 4, 5]])


def test_weights_have_the_dtype_of_the_noise() -> None:
    scores, noise = torch.randn(3, 7).mul(0.1).bfloat16().requires_grad_(), torch.randn(3, 500, 7)
    shares = perturbed_top_k(scores, noise, 3)
    expected, _ = naive_weights(scores.detach(), noise, 3, 0.05)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.double(), expected, atol=1e-6, rtol=0)
    shares.square().sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("cast", [False, True])
def test_selector_supports_half_precision(cast: bool) -> None:
    selector, frames = PatchSelector(ScoreNet(12), num_draws=50).train(), torch.randn(2, 9, 12)
    if cast:
        kept, _ = selector.bfloat16()(frames.bfloat16())
        assert kept.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            kept, _ = selector(frames)
    assert kept.shape == (2, 4, 12)
    torch.testing.assert_close(kept[:, 0].float(), frames[:, 0], atol=0.02, rtol=0.01)


def test_too_few_patches_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 3 patches per frame, got 2"):
        PatchSelector()(torch.randn(1, 3, 8))


def naive_diverse(tokens: Tensor, k: int) -> list[int]:
    """Return k patches, each the least similar to the class token and the patches before it."""
    units = [token / token.norm() for token in tokens]
    selected: list[int] = []
    for _ in range(k):
        nearest = {
            patch: max(
                float(units[1 + patch] @ other) for other in [units[0], *(units[1 + chosen] for chosen in selected)]
            )
            for patch in range(len(tokens) - 1)
            if patch not in selected
        }
        selected.append(min(nearest, key=lambda patch: nearest[patch]))
    return sorted(selected)


def test_diverse_selection_equals_loops_and_selects_padding_last() -> None:
    tokens = torch.randn(5, 9, 8)
    selector = PatchSelector(apart=True)
    selected, real = selector(tokens)
    assert real.all()
    for frame in range(5):
        expected = [0, *(1 + patch for patch in naive_diverse(tokens[frame], 3))]
        assert torch.equal(selected[frame], tokens[frame, expected])
    mask = torch.ones(5, 8, dtype=torch.bool)
    mask[:, 2:6] = False
    mask[0, 1:] = False
    selected, real = selector(tokens, mask)
    assert real.sum(dim=1).tolist() == [1, 3, 3, 3, 3]
    alone, _ = selector(tokens[1:, [0, 1, 2, 7, 8]])
    assert torch.equal(selected[1:], alone)
    assert torch.equal(selector.train()(tokens)[0], PatchSelector(apart=True).eval()(tokens)[0])
