"""Tests of the gradient of every loss against finite differences, in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.train.captions import FREQUENT, VOCABULARY, compute_loss, make_captions, naive_loss
from vidret.align.glscl import consistency_loss, diversity_loss
from vidret.train.grounding_losses import (
    PointTargets,
    boundary_loss,
    contrast,
    focal_loss,
    saliency_loss,
    select_positive,
    soft_saliency_loss,
)
from vidret.train.losses import concept_losses, find_same_videos, mix, mixed_loss, pair_losses, retrieval_loss

SAME = find_same_videos(torch.tensor([0, 1, 0, 2]))
MIXING_WEIGHTS = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])
POSITIVE = torch.tensor([2, 0, -1])


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def units(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(sample(*shape, seed=seed), dim=-1)


# So near each other that the hinges of their diversity are not flat.
CONCEPTS = functional.normalize(sample(4, 3, 5, seed=2) + 4, dim=-1)
SCALE = torch.tensor(0.7, dtype=torch.float64)
SALIENCY = sample(3, 4, seed=5).sigmoid()
TARGETS = PointTargets(sample(3, 4, seed=6) > 0, sample(3, 4, 2, seed=7).abs())

CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "retrieval": (retrieval_loss, (3 * sample(4, 4),)),
    "retrieval, same videos": (lambda logits: retrieval_loss(logits, same=SAME), (3 * sample(4, 4),)),
    "pairs": (
        lambda texts, videos, scale: pair_losses(texts, videos, scale).total,
        (sample(4, 5, seed=1), sample(4, 5, seed=2), SCALE),
    ),
    "pairs, mixed, same videos": (
        lambda texts, videos, scale: (
            pair_losses(texts, videos, scale, same=SAME, mixing_weights=MIXING_WEIGHTS, mixed_weight=0.6).total
        ),
        (sample(4, 5, seed=1), sample(4, 5, seed=2), SCALE),
    ),
    "mixed": (
        lambda texts, videos, scale, mixing_weights: mixed_loss(
            functional.normalize(texts, dim=-1), functional.normalize(videos, dim=-1), scale, mixing_weights
        ),
        (sample(4, 5, seed=1), sample(4, 5, seed=2), SCALE, 0.1 + 0.8 * MIXING_WEIGHTS),
    ),
    "mixtures": (mix, (sample(4, 5, seed=1), sample(4, 5, seed=2), MIXING_WEIGHTS)),
    "mixtures of near pairs": (
        lambda texts, change: mix(texts, texts + 1e-3 * change, MIXING_WEIGHTS),
        (sample(4, 5, seed=1), sample(4, 5, seed=2)),
    ),
    "mixtures of one vector": (lambda texts: mix(texts, texts, MIXING_WEIGHTS), (sample(4, 5, seed=1),)),
    "concepts": (
        lambda logits, texts, videos: concept_losses(logits, texts, videos, diversity_weight=0.3, beta=0.2).total,
        (3 * sample(4, 4), units(4, 3, 5, seed=1), CONCEPTS),
    ),
    "diversity": (diversity_loss, (CONCEPTS,)),
    "consistency": (consistency_loss, (units(4, 3, 5, seed=1), CONCEPTS)),
    "focal": (lambda logits: focal_loss(logits, TARGETS.positive, MASK), (3 * sample(3, 4),)),
    "boundaries": (lambda distances: boundary_loss(distances, TARGETS, MASK), (sample(3, 4, 2).abs(),)),
    "soft saliency": (
        lambda logits, saliency: soft_saliency_loss(logits, saliency, MASK),
        (3 * sample(3, 4), SALIENCY),
    ),
    "saliency": (
        lambda video, query: saliency_loss(video, query, SALIENCY, MASK, POSITIVE, temperature=0.5),
        (sample(3, 4, 5, seed=1), sample(3, 5, seed=2)),
    ),
    "saliency, one video alone": (
        lambda video, query: saliency_loss(video, query, SALIENCY, MASK, POSITIVE, across_samples=False),
        (sample(3, 4, 5, seed=1), sample(3, 5, seed=2)),
    ),
    "calibration among samples": (
        lambda videos, queries: contrast(*select_positive(videos, queries, MASK, POSITIVE), temperature=0.5),
        (sample(2, 3, 4, 5, seed=1), sample(2, 3, 5, seed=2)),
    ),
    "calibration among layers": (
        lambda videos, queries: contrast(
            *(part.transpose(0, 1) for part in select_positive(videos, queries, MASK, POSITIVE)), temperature=0.5
        ),
        (sample(2, 3, 4, 5, seed=1), sample(2, 3, 5, seed=2)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_matches_finite_differences(name: str) -> None:
    lose, values = CASES[name]
    inputs = [value.clone().requires_grad_() for value in values]
    slopes = torch.autograd.grad(lose(*inputs).sum(), inputs)
    if "of one vector" not in name:
        assert all(slope.any() for slope in slopes), "a loss that is flat proves nothing"
    assert torch.autograd.gradcheck(lose, inputs)


def test_gradient_of_caption_loss_matches_finite_differences() -> None:
    ids, logits = make_captions(4, 2), sample(2, 8, VOCABULARY)
    expected = naive_loss(logits, ids, FREQUENT, frequent_weight=0.25, weight=0.5)
    assert float(compute_loss(logits, ids)) == pytest.approx(expected, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x: compute_loss(x, ids), (logits.clone().requires_grad_(),))
