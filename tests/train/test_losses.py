"""Tests of the retrieval losses: naive versions from the papers, invariances, and numbers of the published code."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from vidret.train.losses import (
    concept_losses,
    contrast_rows,
    find_same_videos,
    mixed_loss,
    pair_losses,
    retrieval_loss,
)

VIDEOS = torch.tensor([3, 5, 3, 8, 5])


def naive_contrast(scores: list[list[float]], same: list[list[bool]] | None = None) -> float:
    """Compute the mean of -log softmax at the diagonal by loops, without other pairs of the same video."""
    total = 0.0
    for i, row in enumerate(scores):
        others = [score for j, score in enumerate(row) if j != i and not (same is not None and same[i][j])]
        total -= math.log(math.exp(row[i]) / (math.exp(row[i]) + sum(math.exp(score) for score in others)))
    return total / len(scores)


def naive_both_ways(logits: Tensor, same: Tensor | None = None) -> float:
    """Compute the mean of both directions."""
    rows, columns = logits.tolist(), logits.T.tolist()
    masks = (None, None) if same is None else (same.tolist(), same.T.tolist())
    return (naive_contrast(rows, masks[0]) + naive_contrast(columns, masks[1])) / 2


def naive_mixed(
    texts: Tensor, videos: Tensor, scale: float, mixing_weights: Tensor, same: Tensor | None = None
) -> float:
    """Contrast each anchor's own partner with the mixtures of all other pairs, by loops (m2-Mix, equation 4)."""
    masks = (None, None) if same is None else (same.tolist(), same.T.tolist())
    losses = []
    for anchors, partners, mask in ((texts, videos, masks[0]), (videos, texts, masks[1])):
        scores = []
        for i in range(len(texts)):
            row = []
            for j in range(len(texts)):
                angle = math.acos(float(texts[j] @ videos[j]))
                weight = float(mixing_weights[j])
                mixture = math.sin(weight * angle) * texts[j] + math.sin((1 - weight) * angle) * videos[j]
                point = partners[i] if i == j else mixture / math.sin(angle)
                row.append(scale * float(anchors[i] @ point))
            scores.append(row)
        losses.append(naive_contrast(scores, mask))
    return sum(losses) / 2


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def units(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(sample(*shape, seed=seed), dim=-1)


@pytest.mark.parametrize("same", [None, find_same_videos(VIDEOS), torch.ones(5, 5, dtype=torch.bool)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_retrieval_loss_matches_naive_version(scale: float, same: Tensor | None) -> None:
    logits = scale * sample(5, 5)
    assert retrieval_loss(logits, same=same).item() == pytest.approx(naive_both_ways(logits, same), abs=1e-12)


@pytest.mark.parametrize("same", [None, find_same_videos(VIDEOS), torch.ones(5, 5, dtype=torch.bool).triu()])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_mixed_loss_matches_naive_version(scale: float, same: Tensor | None) -> None:
    texts, videos = units(5, 6, seed=1), units(5, 6, seed=2)
    mixing_weights = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = mixed_loss(texts, videos, torch.tensor(scale), mixing_weights, same=same)
    assert found.item() == pytest.approx(naive_mixed(texts, videos, scale, mixing_weights, same), abs=1e-9)
    through = pair_losses(texts, videos, torch.tensor(scale).log(), same=same, mixing_weights=mixing_weights)
    assert through.mixed.item() == pytest.approx(found.item(), abs=1e-5)


def test_transposed_logits_and_mask_give_the_same_loss() -> None:
    logits, same = sample(4, 4), torch.zeros(4, 4, dtype=torch.bool)
    same[0, 2] = True
    expected = naive_both_ways(logits, same)
    assert retrieval_loss(logits, same=same).item() == pytest.approx(expected, abs=1e-12)
    assert retrieval_loss(logits.T, same=same.T).item() == pytest.approx(expected, abs=1e-12)
    assert retrieval_loss(logits.T, same=same).item() != pytest.approx(expected, abs=1e-3)


def test_order_of_pairs_and_constant_shift_have_no_effect() -> None:
    logits, same, order = sample(5, 5), find_same_videos(VIDEOS), torch.tensor([3, 0, 4, 2, 1])
    expected = retrieval_loss(logits, same=same)
    turned = retrieval_loss(logits[order][:, order], same=same[order][:, order])
    torch.testing.assert_close(turned, expected)
    torch.testing.assert_close(retrieval_loss(logits + 300, same=same), expected)


def test_loss_at_its_limits() -> None:
    assert retrieval_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))
    assert retrieval_loss(1000 * torch.eye(4)).item() == 0
    assert retrieval_loss(-1000 * torch.eye(4)).item() == pytest.approx(1000 + math.log(3))
    assert retrieval_loss(sample(1, 1)).item() == 0, "one pair has nothing to be told from"
    assert retrieval_loss(sample(5, 5), same=torch.ones(5, 5, dtype=torch.bool)).item() == 0


def test_masked_pairs_have_no_effect_and_no_gradient() -> None:
    logits, same = sample(5, 5).requires_grad_(), find_same_videos(VIDEOS)
    loss = retrieval_loss(logits, same=same)
    (gradient,) = torch.autograd.grad(loss, logits)
    hidden = same & ~torch.eye(5, dtype=torch.bool)
    assert hidden.sum() == 4
    assert not gradient[hidden].any()
    assert gradient[~hidden].all()
    assert retrieval_loss(logits.detach().masked_fill(hidden, 1e6), same=same).item() == loss.item()
    assert retrieval_loss(logits.detach().masked_fill(hidden, 1e6)).item() > 1e5


def test_gradient_is_softmax_minus_one_hot() -> None:
    logits = sample(4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(retrieval_loss(logits), logits)
    expected = (logits.softmax(dim=1) + logits.softmax(dim=0) - 2 * torch.eye(4)) / 8
    torch.testing.assert_close(gradient, expected)
    far = (1000 * sample(4, 4).sign()).float().requires_grad_()
    (gradient,) = torch.autograd.grad(retrieval_loss(far), far)
    assert gradient.isfinite().all()


def test_vector_lengths_have_no_effect() -> None:
    texts, videos, scale = sample(5, 6, seed=1), sample(5, 6, seed=2), torch.tensor(1.5, dtype=torch.float64)
    lengths = torch.arange(1, 6, dtype=torch.float64)[:, None]
    mixing_weights = torch.full((5,), 0.3, dtype=torch.float64)
    expected = pair_losses(texts, videos, scale, mixing_weights=mixing_weights)
    found = pair_losses(lengths * texts, videos / lengths, scale, mixing_weights=mixing_weights)
    torch.testing.assert_close(found, expected)
    cosines = functional.cosine_similarity(texts[:, None], videos, dim=-1)
    assert expected.contrast.item() == pytest.approx(naive_both_ways(math.exp(1.5) * cosines), abs=1e-12)
    torch.testing.assert_close(expected.total, expected.contrast + expected.mixed)


def test_mixtures_are_optional_and_weighted() -> None:
    texts, videos, scale = sample(5, 6, seed=1), sample(5, 6, seed=2), torch.tensor(1.5)
    mixing_weights, same = torch.full((5,), 0.3), find_same_videos(VIDEOS)
    plain, mixed = (
        pair_losses(texts, videos, scale, same=same, mixing_weights=each) for each in (None, mixing_weights)
    )
    half = pair_losses(texts, videos, scale, same=same, mixing_weights=mixing_weights, mixed_weight=0.5)
    assert plain.mixed.item() == 0
    assert plain.total == plain.contrast == mixed.contrast == half.contrast
    assert mixed.mixed.item() > 0
    assert half.mixed.item() == pytest.approx(mixed.mixed.item() / 2)


def test_mixing_weights_of_0_and_1() -> None:
    texts, videos, scale = units(4, 6, seed=1), units(4, 6, seed=2), torch.tensor(3.0)
    is_own, own = torch.eye(4, dtype=torch.bool), (texts * videos).sum(dim=-1)
    for share, side in ((1.0, texts), (0.0, videos)):
        other = videos if share else texts
        across = contrast_rows(scale * torch.where(is_own, own, other @ side.T))
        within = contrast_rows(scale * torch.where(is_own, own, side @ side.T))
        found = mixed_loss(texts, videos, scale, torch.full((4,), share))
        torch.testing.assert_close(found, (across + within) / 2)


def test_mixtures_are_harder_negatives_across_a_modality_gap() -> None:
    """If texts are far from videos, as in CLIP, every mixture is nearer to an anchor than its partner."""
    apart = torch.zeros(8, 16, dtype=torch.float64)
    apart[:, 0] = 3
    texts = functional.normalize(sample(8, 16, seed=1) + apart, dim=-1)
    videos = functional.normalize(sample(8, 16, seed=2) - apart, dim=-1)
    found = pair_losses(texts, videos, torch.tensor(math.log(10)), mixing_weights=torch.full((8,), 0.5))
    assert found.mixed > 2 * found.contrast


def test_gradients_reach_texts_videos_and_scale() -> None:
    texts, videos = (sample(4, 6, seed=seed).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(1.0, requires_grad=True)
    for losses in (
        pair_losses(texts, videos, scale),
        pair_losses(texts, videos, scale, mixing_weights=torch.full((4,), 0.4)),
    ):
        for gradient in torch.autograd.grad(losses.total, (texts, videos, scale)):
            assert gradient.isfinite().all()
            assert gradient.any()


def test_half_precision_is_computed_in_float32() -> None:
    texts, videos, scale = sample(5, 6, seed=1).bfloat16(), sample(5, 6, seed=2).bfloat16(), torch.tensor(4.6)
    mixing_weights, logits = torch.full((5,), 0.3), (30 * sample(5, 5)).bfloat16()
    expected = pair_losses(texts.float(), videos.float(), scale, mixing_weights=mixing_weights)
    expected_concepts = concept_losses(logits.float(), texts[:, None].float(), videos[:, None].float())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found = pair_losses(texts, videos, scale, mixing_weights=mixing_weights)
            concepts = concept_losses(logits, texts[:, None], videos[:, None])
        assert found.total.dtype == concepts.total.dtype == torch.float32
        assert found == expected
        assert concepts == expected_concepts


@pytest.mark.wrong_shapes
def test_logits_that_are_not_square_are_refused() -> None:
    for shape in ((2, 3), (0, 0), (3,)):
        with pytest.raises(ValueError, match="logits must be a square matrix of at least one pair, got"):
            contrast_rows(torch.zeros(shape))


def test_pairs_of_one_video_are_found_by_index() -> None:
    same = find_same_videos(VIDEOS)
    pairs = {(i, j) for i in range(5) for j in range(5) if same[i, j]}
    assert pairs == {(0, 2), (2, 0), (1, 4), (4, 1)} | {(i, i) for i in range(5)}


# The published numbers.


def cases(method: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", find_cases(method), ids=lambda case: case.folder.name)


@cases("tempme")
def test_tempme_loss_matches_published_code(case: Case) -> None:
    out, scale = case.outputs, case.weights["clip.logit_scale"]
    check_close(pair_losses(out["text_feat"], out["video_feat"], scale).total[None], out["loss"])
    check_close(retrieval_loss(out["sim_logits"])[None], out["loss"])


@cases("promptswitch")
def test_prompt_switch_loss_matches_published_code(case: Case) -> None:
    out = case.outputs
    found = pair_losses(out["text_features_l2"], out["video_features_pooled"], torch.tensor(4.0))
    check_close(found.total[None], out["clip_loss"])


@cases("ucofia")
def test_ucofia_loss_matches_published_code(case: Case) -> None:
    check_close(retrieval_loss(case.outputs["sim_total_train"])[None], case.outputs["train_loss"])


@cases("glscl")
def test_glscl_loss_matches_published_code(case: Case) -> None:
    out, config = case.outputs, case.config["config"]
    found = concept_losses(
        config["scale"] * out["sim_train"],
        out["concepts_text"],
        out["concepts_video"],
        diversity_weight=config["alpha"],
        beta=config["beta"],
    )
    check_close(found.contrast[None], out["loss_nce"], 1e-4)
    check_close(found.diversity[None], out["loss_diversity"], 1e-7)
    check_close(found.consistency[None], out["loss_consistency"], 1e-6)
    check_close(found.total[None], out["loss_total"], 1e-4)
