"""Retrieval losses: naive versions, invariances, gradients, published numbers; GradCache."""

import math
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from tests.train.small import METHODS, draw_captioned, make_module, sample
from vidret.align.glscl import consistency_loss, diversity_loss
from vidret.train.losses import add_terms, concept_losses, find_same_videos, pair_loss, retrieval_loss
from vidret.train.model import encode_chunks

VIDEOS = torch.tensor([3, 5, 3, 8, 5])
ONE_WAY = torch.ones(5, 5, dtype=torch.bool).triu()


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


def units(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(sample(*shape, seed=seed), dim=-1)


@pytest.mark.parametrize("same", [None, find_same_videos(VIDEOS), ONE_WAY])
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_retrieval_loss_matches_naive_version(scale: float, same: Tensor | None) -> None:
    logits = scale * sample(5, 5)
    assert retrieval_loss(logits, same=same).item() == pytest.approx(naive_both_ways(logits, same), abs=1e-12)


def test_loss_at_its_limits() -> None:
    far = (1000 * sample(4, 4).sign()).float().requires_grad_()
    assert torch.autograd.grad(retrieval_loss(far), far)[0].isfinite().all()
    assert retrieval_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))
    assert retrieval_loss(1000 * torch.eye(4)).item() == 0
    assert retrieval_loss(-1000 * torch.eye(4)).item() == pytest.approx(1000 + math.log(3))
    assert retrieval_loss(sample(1, 1)).item() == 0, "one pair has nothing to be told from"
    assert retrieval_loss(sample(5, 5), same=torch.ones(5, 5, dtype=torch.bool)).item() == 0


def test_vector_lengths_have_no_effect() -> None:
    texts, videos, scale = sample(5, 6, seed=1), sample(5, 6, seed=2), torch.tensor(1.5, dtype=torch.float64)
    lengths = torch.arange(1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(pair_loss(lengths * texts, videos / lengths, scale), pair_loss(texts, videos, scale))
    cosines = functional.cosine_similarity(texts[:, None], videos, dim=-1)
    expected = naive_both_ways(math.exp(1.5) * cosines)
    assert pair_loss(texts, videos, scale).item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    texts, videos, scale = sample(5, 6, seed=1).bfloat16(), sample(5, 6, seed=2).bfloat16(), torch.tensor(4.6)
    logits = (30 * sample(5, 5)).bfloat16()

    def lose(logits: Tensor, texts: Tensor, videos: Tensor) -> list[Tensor]:
        concepts = concept_losses(logits, texts[:, None], videos[:, None])
        return [pair_loss(texts, videos, scale), *concepts.values()]

    expected = lose(logits.float(), texts.float(), videos.float())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found = lose(logits, texts, videos)
        assert {term.dtype for term in found} == {torch.float32}
        assert found == expected


SAME = find_same_videos(torch.tensor([0, 1, 0, 2]))
# So near each other that the hinges of their diversity are not flat.
CONCEPTS = functional.normalize(sample(4, 3, 5, seed=2) + 4, dim=-1)
PAIRS = (sample(4, 5, seed=1), sample(4, 5, seed=2), torch.tensor(0.7, dtype=torch.float64))
LOSSES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "retrieval": (retrieval_loss, (3 * sample(4, 4),)),
    "retrieval, same videos": (lambda logits: retrieval_loss(logits, same=SAME), (3 * sample(4, 4),)),
    "pairs": (pair_loss, PAIRS),
    "concepts": (
        lambda *given: add_terms(concept_losses(*given, diversity_weight=0.3, beta=0.2)),
        (3 * sample(4, 4), units(4, 3, 5, seed=1), CONCEPTS),
    ),
    "diversity": (diversity_loss, (CONCEPTS,)),
    "consistency": (consistency_loss, (units(4, 3, 5, seed=1), CONCEPTS)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_matches_finite_differences(name: str) -> None:
    lose, values = LOSSES[name]
    inputs = [value.clone().requires_grad_() for value in values]
    slopes = torch.autograd.grad(lose(*inputs).sum(), inputs)
    assert all(slope.any() for slope in slopes), "a loss that is flat proves nothing"
    assert torch.autograd.gradcheck(lose, inputs)


def cases(method: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", find_cases(method), ids=lambda case: case.folder.name)


@cases("tempme")
def test_tempme_loss_matches_published_code(case: Case) -> None:
    out, scale = case.outputs, case.weights["clip.logit_scale"]
    check_close(pair_loss(out["text_feat"], out["video_feat"], scale)[None], out["loss"])
    check_close(retrieval_loss(out["sim_logits"])[None], out["loss"])


@cases("promptswitch")
def test_prompt_switch_loss_matches_published_code(case: Case) -> None:
    out = case.outputs
    loss = pair_loss(out["text_features_l2"], out["video_features_pooled"], torch.tensor(4.0))
    check_close(loss[None], out["clip_loss"])


@cases("ucofia")
def test_ucofia_loss_matches_published_code(case: Case) -> None:
    check_close(retrieval_loss(case.outputs["sim_total_train"])[None], case.outputs["train_loss"])


@cases("glscl")
def test_glscl_loss_matches_published_code(case: Case) -> None:
    out, config = case.outputs, case.config["config"]
    losses = concept_losses(
        config["scale"] * out["sim_train"],
        out["concepts_text"],
        out["concepts_video"],
        diversity_weight=config["alpha"],
        beta=config["beta"],
    )
    check_close(losses["contrast"][None], out["loss_nce"], 1e-4)
    check_close(losses["diversity"][None], out["loss_diversity"], 1e-7)
    check_close(losses["consistency"][None], out["loss_consistency"], 1e-6)
    check_close(add_terms(losses)[None], out["loss_total"], 1e-4)


@pytest.mark.parametrize(("name", "size"), [*zip(METHODS, cycle((1, 3)), strict=False)])
def test_gradients_equal_those_of_the_whole_batch(name: str, size: int) -> None:
    """Also with frames that are padding, texts of different lengths, and dropout."""
    batch = draw_captioned(num_pairs=5)
    batch.frame_mask[3, 7:] = False
    found = []
    for chunk_size in (0, size):
        module = make_module(name, chunk_size=chunk_size).double().train()
        torch.manual_seed(1)
        terms = module.compute_terms(batch)
        torch.autograd.backward(add_terms(terms))
        found.append((terms, {name: weight.grad for name, weight in module.named_parameters()}))
    (terms, grads), (chunk_terms, chunk_grads) = found
    for term in terms:
        torch.testing.assert_close(chunk_terms[term], terms[term], rtol=1e-9, atol=1e-12)
    for weight, grad in grads.items():
        torch.testing.assert_close(chunk_grads[weight], grad, rtol=1e-6, atol=1e-9, msg=weight)


def test_dropout_is_the_same_in_both_passes() -> None:
    x, layer = torch.randn(8, 4, dtype=torch.float64), nn.Linear(4, 4).double()
    masks: list[Tensor] = []

    def encode(rows: Tensor) -> tuple[Tensor]:
        mask = nn.functional.dropout(torch.ones_like(rows))
        masks.append(mask)
        return ((layer(rows) * mask).sin(),)

    (y,) = encode_chunks(encode, x, size=4)
    assert y is not None
    torch.autograd.backward(y.sum())
    drawn = torch.cat(masks[:2])
    assert len(masks) == 4, "each chunk once again"
    slope = (layer(x).detach() * drawn).cos() * drawn
    torch.testing.assert_close(layer.weight.grad, slope.T @ x)
