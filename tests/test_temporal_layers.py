"""The temporal transformer: equality with loops over frames, and padding."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidret.layers import Block, TemporalTransformer, pool_frames


def naive_video(model: TemporalTransformer, frames: Tensor) -> Tensor:
    """Return the output for one video without padding, by loops over blocks, heads and frames."""
    dim = frames.shape[1]
    rows = [frame + position for frame, position in zip(frames, model.positions, strict=False)]
    for block in cast(list[Block], model.blocks):
        normed = [functional.layer_norm(x, (dim,), block.ln_1.weight, block.ln_1.bias, 1e-12) for x in rows]
        packed = [block.attn.in_proj_weight @ x + block.attn.in_proj_bias for x in normed]
        width = dim // block.attn.heads
        for index in range(len(rows)):
            attended = []
            for head in range(block.attn.heads):
                head_slice = slice(head * width, (head + 1) * width)
                query = packed[index][:dim][head_slice]
                logits = [float(query @ other[dim : 2 * dim][head_slice]) / math.sqrt(width) for other in packed]
                weights = [math.exp(logit - max(logits)) for logit in logits]
                values = [
                    weight / sum(weights) * other[2 * dim :][head_slice]
                    for weight, other in zip(weights, packed, strict=True)
                ]
                attended.append(torch.stack(values).sum(dim=0))
            rows[index] = rows[index] + block.attn.out_proj(torch.cat(attended))
        for index, x in enumerate(rows):
            normal = functional.layer_norm(x, (dim,), block.ln_2.weight, block.ln_2.bias, 1e-12)
            hidden = block.mlp.c_fc(normal)
            rows[index] = x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
    return torch.stack(rows) + frames


@pytest.fixture
def model() -> TemporalTransformer:
    torch.manual_seed(0)
    model = TemporalTransformer(16, layers=2, heads=2, num_positions=6).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@torch.no_grad()
def test_frames_equal_loops(model: TemporalTransformer) -> None:
    videos = torch.randn(3, 5, 16, dtype=torch.float64)
    found = model(videos)
    for frames, expected in zip(videos, found, strict=True):
        torch.testing.assert_close(naive_video(model, frames), expected, atol=1e-9, rtol=0)
        mean = torch.stack([frame / frame.norm() for frame in expected]).mean(dim=0)
        torch.testing.assert_close(pool_frames(expected[None])[0], mean / mean.norm())


def test_video_of_padding_gives_zeros_and_no_nan(model: TemporalTransformer) -> None:
    videos, mask = torch.zeros(1, 4, 16, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool)
    pooled = pool_frames(model(videos, mask), mask)
    assert (pooled == 0).all()
    pooled.sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_frames_beyond_the_last_position_share_it(model: TemporalTransformer) -> None:
    """Positions depend on the index of the frame only, not on the number of frames."""
    found = model(torch.randn(1, 1, 16, dtype=torch.float64).expand(1, 9, 16))
    torch.testing.assert_close(found[0, 5], found[0, 8])
    assert not torch.allclose(found[0, 4], found[0, 5])
