"""Tests of mixing on the sphere, by the geometry of arcs, and of the drawn mixing weights."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidret.train.losses import NEAR, draw_mixing_weights, mix, slerp_factor


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(vectors: Tensor, angle: float, seed: int = 9) -> Tensor:
    """Return unit vectors at an angle from the given ones, each in a random direction."""
    units, other = functional.normalize(vectors, dim=-1), sample(*vectors.shape, seed=seed)
    across = functional.normalize(other - (other * units).sum(dim=-1, keepdim=True) * units, dim=-1)
    return math.cos(angle) * units + math.sin(angle) * across


def find_angles(one: Tensor, other: Tensor) -> Tensor:
    """Return the angles between unit vectors, exact near 0 and near pi."""
    return 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))


MIXING_WEIGHTS = torch.tensor([0.0, 0.1, 0.37, 0.5, 0.8, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("angle", [1e-7, 1e-4, 0.0141, 0.0142, 0.1, 1.0, math.pi / 2, 2.5, 3.1])
def test_mixtures_divide_the_angle_by_their_weight(angle: float) -> None:
    texts = functional.normalize(sample(6, 5), dim=-1)
    videos = turn(texts, angle)
    mixtures = mix(texts, 3 * videos, MIXING_WEIGHTS)
    torch.testing.assert_close(mixtures.norm(dim=-1), torch.ones(6).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(find_angles(mixtures, videos), MIXING_WEIGHTS * angle, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(find_angles(mixtures, texts), (1 - MIXING_WEIGHTS) * angle, atol=1e-7, rtol=1e-7)


def test_series_and_sines_agree_at_the_threshold() -> None:
    mixing_weights = torch.full((2,), 0.3, dtype=torch.float64)
    cosines = torch.tensor([1 - NEAR * (1 - 1e-9), 1 - NEAR * (1 + 1e-9)], dtype=torch.float64, requires_grad=True)
    below, above = found = slerp_factor(mixing_weights, cosines)
    assert below.item() == pytest.approx(above.item(), abs=1e-9)
    (slopes,) = torch.autograd.grad(found.sum(), cosines)
    assert slopes[0].item() == pytest.approx(slopes[1].item(), abs=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 0.3, 3.0, math.pi - 1e-7, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(dtype: torch.dtype, angle: float) -> None:
    texts = sample(6, 5).to(dtype).requires_grad_()
    videos = turn(texts.detach().double(), angle).to(dtype).requires_grad_()
    mixtures = mix(texts, videos, MIXING_WEIGHTS.to(dtype))
    assert mixtures.dtype == dtype
    assert mixtures.isfinite().all()
    for gradient in torch.autograd.grad(mixtures.sum(), (texts, videos)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.014, 0.0143, 0.5, 2.0])
def test_single_precision_is_accurate(angle: float) -> None:
    texts = functional.normalize(sample(6, 5), dim=-1)
    videos = turn(texts, angle)
    found = mix(texts.float(), videos.float(), MIXING_WEIGHTS.float())
    torch.testing.assert_close(found.double(), mix(texts, videos, MIXING_WEIGHTS), atol=1e-6, rtol=0)


def test_mixing_weights_are_beta_distributed() -> None:
    generator, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    drawn = draw_mixing_weights(20000, generator)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, draw_mixing_weights(20000, again))
    assert not torch.equal(drawn, draw_mixing_weights(20000, again))
    mixing_weights = drawn.double()
    assert mixing_weights.min() >= 0
    assert mixing_weights.max() <= 1
    assert mixing_weights.mean().item() == pytest.approx(0.5, abs=0.01)
    assert mixing_weights.var().item() == pytest.approx(1 / 8, rel=0.03)
