"""Tests of a training step from CLIP's layers to gradients against the published code."""

from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from vidret.ground.checkpoint import convert_head
from vidret.ground.head import GroundingHead
from vidret.train.grounding_losses import GroundingLosses, find_targets, grounding_loss

GOLDENS = [case for case in find_cases("r2tuning") if (case.folder / "grads.safetensors").exists()]
# What a case sets otherwise than the published defaults, by its folder's name.
RECIPES: dict[str, dict[str, Any]] = {"case_b": {"saliency_weight": 0.01}, "case_c": {"across_samples": False}}


def read_batch(case: Case) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Return the layers of videos, the frame mask, the layers of queries and the word mask, with infinite padding."""
    sizes, num_layers = case.config["clip_dims"], case.config["case"]["k"]
    video, query = case.inputs["video"], case.inputs["query"]
    layers = rearrange(video, "b t (k token width) -> k b t token width", k=num_layers, token=sizes["tokens"])
    words = rearrange(query, "b word (k width) -> b k word width", k=num_layers)
    return list(layers), video[..., 0].isfinite(), words, query[..., 0].isfinite()


def lose(case: Case, head: GroundingHead) -> GroundingLosses:
    layers, frame_mask, words, word_mask = read_batch(case)
    output = head(head.prepare(layers, mask=frame_mask), words, word_mask=word_mask)
    targets = None
    if head.boundaries is not None:
        spans = case.inputs["boundary"]
        span_mask, num_frames = spans.isfinite().all(dim=-1), frame_mask.sum(dim=1)
        targets = find_targets(output.points, spans, span_mask, num_frames, fps=case.config["case"]["fps"])
    recipe = RECIPES.get(case.folder.name, {})
    positive = case.inputs["pos_clip"].squeeze(1)
    return grounding_loss(output, targets=targets, saliency=case.inputs["saliency"], positive=positive, **recipe)


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.folder.name)
def test_training_step_matches_published_code(case: Case) -> None:
    head = convert_head(case.weights, heads=case.config["heads"], as_published=True)
    total = lose(case, head).total
    check_close(total, case.outputs["loss.total"].squeeze(), atol=1e-5)
    torch.autograd.backward(total)
    gradients = {
        name.removeprefix("grad."): value for name, value in load_file(case.folder / "grads.safetensors").items()
    }
    expected = dict(convert_head(gradients, heads=case.config["heads"]).named_parameters())
    assert expected.keys() == dict(head.named_parameters()).keys()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        check_close(parameter.grad, expected[name].detach(), atol=1e-5)


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.folder.name)
def test_training_step_ignores_infinite_padding(case: Case) -> None:
    """Padding is infinite here, and must have no effect."""
    head = convert_head(case.weights, heads=case.config["heads"])
    total = lose(case, head).total
    torch.autograd.backward(total)
    assert total.isfinite()
    assert total.item() != pytest.approx(case.outputs["loss.total"].item(), abs=1e-3)
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
