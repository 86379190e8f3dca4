"""A projection in two parts equals the projection of all inputs at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vidret.ground.projected import PartialTokens, begin_projection, finish_projection
from vidret.ground.r2 import R2Block


def make_block(*, tef: bool, seed: int = 0) -> R2Block:
    torch.manual_seed(seed)
    block = R2Block(24, 16, 8, num_layers=1, heads=2, tef=tef, dropout=0.3).double().eval()
    for weight in block.parameters():
        nn.init.normal_(weight)
    return block


def project_at_once(block: R2Block, tokens: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    if ends is not None:
        tokens = torch.cat([tokens, ends[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)
    projected: torch.Tensor = block.video_map(tokens)
    return projected


@torch.no_grad()
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from([0.0, 5.0]))
def test_two_parts_equal_the_whole(seed: int, tef: bool, spread: float, offset: float) -> None:
    block = make_block(tef=tef, seed=seed)
    tokens = torch.randn(5, 3, 24, dtype=torch.float64) * spread + offset
    ends = torch.rand(5, 2, dtype=torch.float64).sort(dim=-1).values if tef else None
    partial = begin_projection(block.video_map, tokens)
    torch.testing.assert_close(
        finish_projection(block.video_map, partial, ends), project_at_once(block, tokens, ends), rtol=1e-7, atol=1e-7
    )


@torch.no_grad()
def test_one_partial_projection_serves_videos_of_any_length() -> None:
    block = make_block(tef=True)
    tokens = torch.randn(6, 2, 24, dtype=torch.float64)
    partial = begin_projection(block.video_map, tokens)
    for num_frames in (6, 75, 1000):
        ends = torch.arange(7, dtype=torch.float64).unfold(0, 2, 1) / num_frames
        expected = project_at_once(block, tokens, ends)
        torch.testing.assert_close(finish_projection(block.video_map, partial, ends), expected, rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_hidden_values_fit_float16_at_any_scale_of_the_tokens(scale: float) -> None:
    block = make_block(tef=True)
    tokens = torch.randn(4, 3, 24, dtype=torch.float64) * scale
    partial = begin_projection(block.video_map, tokens)
    stored = PartialTokens(partial.hidden.half(), partial.mean.float(), partial.variance.float())
    ends = torch.tensor([[0.25, 0.5]]).double().expand(4, 2)
    actual = finish_projection(block.video_map, stored._replace(mean=stored.mean.double()), ends)
    expected = project_at_once(block, tokens, ends)
    assert (actual - expected).abs().max() < 0.02 * expected.abs().max()
