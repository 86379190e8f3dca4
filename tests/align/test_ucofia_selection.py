"""Patch selection: loops over draws, the smoothed gradient against differences, and what must not matter."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidret.align.ucofia_selection import PatchSelector, ScoreNet, hard_top_k, perturbed_top_k


def naive_shares(scores: Tensor, noise: Tensor, k: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Walk over frames and draws: the shares of each place, and the diagonal of their smoothed derivative."""
    shares, slopes = (torch.zeros(len(scores), k, scores.shape[1], dtype=torch.float64) for _ in range(2))
    for frame in range(len(scores)):
        for draw in noise[frame].double():
            perturbed = scores[frame].double() + sigma * draw
            best = sorted(sorted(range(len(perturbed)), key=lambda place: -float(perturbed[place]))[:k])
            for number, place in enumerate(best):
                shares[frame, number, place] += 1 / noise.shape[1]
                slopes[frame, number, place] += draw[place] / (noise.shape[1] * sigma)
    return shares, slopes


def naive_score(net: ScoreNet, frame: Tensor) -> list[float]:
    """Score the tokens of a frame one by one."""
    reduced = [
        functional.gelu(net.reduce.weight @ functional.layer_norm(token, token.shape, net.norm.weight, net.norm.bias))
        for token in frame
    ]
    joined = [functional.gelu(net.join.weight @ torch.cat([own, reduced[0]])) for own in reduced]
    return [float(torch.tanh(net.out.weight @ each)) for each in joined]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def test_scores_are_those_of_single_tokens() -> None:
    net, frames = ScoreNet(12), torch.randn(3, 5, 12)
    expected = torch.tensor([naive_score(net, frame) for frame in frames])
    torch.testing.assert_close(net(frames), expected, atol=1e-6, rtol=0)


def test_shares_and_gradient_are_those_of_loops() -> None:
    scores, noise = torch.randn(3, 7).mul(0.1).requires_grad_(), torch.randn(3, 40, 7)
    shares = perturbed_top_k(scores, noise, 3, sigma=0.2)
    expected, slopes = naive_shares(scores.detach(), noise, 3, 0.2)
    torch.testing.assert_close(shares.double(), expected, atol=1e-6, rtol=0)
    weights = torch.randn(3, 3, 7)
    (gradient,) = torch.autograd.grad((shares * weights).sum(), scores)
    torch.testing.assert_close(gradient.double(), (slopes * weights).sum(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(3, 3))


def test_the_gradient_is_the_smoothed_objectives() -> None:
    """Move one score at a time, with the same draws, and see what its own shares do."""
    scores, noise, sigma, step = torch.tensor([[0.3, 0.1, 0.0, -0.2, 0.25]]), torch.randn(1, 200_000, 5), 0.3, 0.05
    weights = torch.randn(1, 2, 5)
    leaf = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad((perturbed_top_k(leaf, noise, 2, sigma=sigma) * weights).sum(), leaf)
    for place in range(5):
        moved = torch.zeros_like(scores)
        moved[0, place] = step
        ahead, behind = (perturbed_top_k(scores + sign * moved, noise, 2, sigma=sigma) for sign in (1, -1))
        slope = ((ahead - behind) * weights)[0, :, place].sum() / (2 * step)
        assert found[0, place] == pytest.approx(float(slope), abs=0.05)


def test_without_noise_the_choice_is_hard_and_in_the_order_of_the_frame() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2], [0.5, 0.5, 0.5, 0.5, 0.5]])
    assert hard_top_k(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    shares = perturbed_top_k(scores[:1], torch.zeros(1, 4, 5), 3)
    assert torch.equal(shares, functional.one_hot(torch.tensor([[1, 2, 3]]), 5).float())
    tight = perturbed_top_k(torch.randn(4, 9), torch.randn(4, 50, 9), 3, sigma=1e-7)
    assert ((tight == 0) | (tight == 1)).all()


@torch.no_grad()
@pytest.mark.parametrize("score", [None, ScoreNet(8)])
def test_padding_is_chosen_only_when_nothing_real_is_left(score: ScoreNet | None) -> None:
    selector, frames = PatchSelector(score).eval(), torch.randn(2, 7, 8)
    alone, real = selector(frames[:1, :6])
    assert real.all()
    mask = torch.tensor([[True] * 5 + [False], [True] * 2 + [False] * 4])
    for noise in (None, torch.zeros(2, 3, 6)):
        chosen, kept = selector(frames, mask, noise=noise)
        torch.testing.assert_close(chosen[:1], alone)
        torch.testing.assert_close(chosen[1, :3], frames[1, :3])
        assert kept.tolist() == [[True, True, True], [True, True, False]]


@torch.no_grad()
def test_in_use_it_is_the_same_each_time_and_in_training_it_is_not() -> None:
    selector, frames = PatchSelector(ScoreNet(8)), torch.randn(2, 7, 8)
    selector.eval()
    assert torch.equal(selector(frames)[0], selector(frames)[0])
    selector.train()
    assert not torch.equal(selector(frames)[0], selector(frames)[0])


@torch.no_grad()
def test_without_a_net_the_patches_most_like_their_frame_are_kept() -> None:
    frames = torch.randn(1, 6, 8)
    frames[0, 2], frames[0, 4], frames[0, 5] = 3 * frames[0, 0], frames[0, 0] + 0.01, 0.5 * frames[0, 0]
    chosen, _ = PatchSelector().eval()(frames)
    assert torch.equal(chosen[0], frames[0, [0, 2, 4, 5]])


def test_gradients_reach_every_weight_of_the_net() -> None:
    selector = PatchSelector(ScoreNet(8))
    chosen, _ = selector(torch.randn(6, 9, 8))
    chosen.square().sum().backward()
    for name, weight in selector.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


def test_half_precision_is_counted_in_the_noises_precision() -> None:
    scores, noise = torch.randn(3, 7).mul(0.1).bfloat16().requires_grad_(), torch.randn(3, 500, 7)
    shares = perturbed_top_k(scores, noise, 3)
    expected, _ = naive_shares(scores.detach(), noise, 3, 0.05)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.double(), expected, atol=1e-6, rtol=0)
    shares.square().sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("true", [False, True])
def test_a_selector_chooses_in_half_precision(true: bool) -> None:
    selector, frames = PatchSelector(ScoreNet(12), num_draws=50).train(), torch.randn(2, 9, 12)
    if true:
        kept, _ = selector.bfloat16()(frames.bfloat16())
        assert kept.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            kept, _ = selector(frames)
    assert kept.shape == (2, 4, 12)
    torch.testing.assert_close(kept[:, 0].float(), frames[:, 0], atol=0.02, rtol=0.01)


def test_too_few_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 patches per frame, got 2"):
        PatchSelector()(torch.randn(1, 3, 8))


def naive_apart(tokens: Tensor, k: int) -> list[int]:
    """Take, k times, the patch whose nearest among the class token and those taken is the furthest."""
    units = [token / token.norm() for token in tokens]
    taken: list[int] = []
    for _ in range(k):
        nearest = {
            place: max(float(units[1 + place] @ other) for other in [units[0], *(units[1 + each] for each in taken)])
            for place in range(len(tokens) - 1)
            if place not in taken
        }
        taken.append(min(nearest, key=lambda place: nearest[place]))
    return sorted(taken)


def test_patches_apart_are_those_of_loops_and_padding_comes_last() -> None:
    tokens = torch.randn(5, 9, 8)
    selector = PatchSelector(apart=True)
    chosen, real = selector(tokens)
    assert real.all()
    for frame in range(5):
        expected = [0, *(1 + place for place in naive_apart(tokens[frame], 3))]
        assert torch.equal(chosen[frame], tokens[frame, expected])
    mask = torch.ones(5, 8, dtype=torch.bool)
    mask[:, 2:6] = False
    mask[0, 1:] = False
    chosen, real = selector(tokens, mask)
    assert real.sum(dim=1).tolist() == [1, 3, 3, 3, 3]
    alone, _ = selector(tokens[1:, [0, 1, 2, 7, 8]])
    assert torch.equal(chosen[1:], alone)
    assert torch.equal(selector.train()(tokens)[0], PatchSelector(apart=True).eval()(tokens)[0])
