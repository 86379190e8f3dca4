"""Tests of GradCache: chunks have the losses and the gradients of the whole batch, with one dropout."""

from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from tests.train.small import METHODS, draw_captioned, make_module
from vidret.train.losses import add_terms
from vidret.train.model import encode_chunks


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
