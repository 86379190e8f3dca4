"""Projected tokens: their projection in parts, packing, chunked unpacking, and effect on scores."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.ground.samples import DIM, NUM_LAYERS, make_head, make_inputs, pack, prepare
from vidret.ground import r2
from vidret.ground.head import GroundingHead
from vidret.ground.projected import PartialTokens, ProjectedVideos, begin_projection, find_bias, finish_projection
from vidret.ground.r2 import R2Block

DTYPES = (torch.float16, torch.int8)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "relative_error"), [(torch.float16, 2**-11), (torch.int8, 0.5 / 127)])
def test_packing_errors_are_within_half_a_step(dtype: torch.dtype, relative_error: float) -> None:
    projected = prepare(make_head().float(), make_inputs())
    packed = pack(projected, dtype)
    for layer in range(NUM_LAYERS):
        exact, actual = projected.tokens(layer), packed.tokens(layer)
        assert actual.dtype == torch.float32
        assert packed.layers[layer].dtype == dtype
        bound = exact.abs().amax(dim=-1, keepdim=True) * relative_error * 1.001
        assert ((actual - exact).abs() <= bound).all()
        assert not torch.equal(actual, exact)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_slices_equal_the_whole(dtype: torch.dtype) -> None:
    head, inputs = make_head().float(), make_inputs(num_tokens=(5, 3, 4))
    sizes = [torch.rand(3, 9, tokens) * 4 for tokens in (5, 3, 4)]
    projected = pack(head.prepare(inputs.layers, mask=inputs.mask, sizes=sizes), dtype)
    assert projected.num_frames == 9
    assert projected.lengths.tolist() == [9, 5, 2]
    assert projected._replace(mask=None).lengths.tolist() == [9, 9, 9]
    for layer in range(NUM_LAYERS):
        whole, bias = projected.tokens(layer), projected.bias(layer)
        assert bias is not None
        assert torch.equal(projected.class_tokens(layer), whole[:, :, 0])
        for frames in (slice(0, 4), slice(4, 9)):
            sliced = projected.bias(layer, frames)
            assert sliced is not None
            assert torch.equal(projected.tokens(layer, frames), whole[:, frames])
            assert torch.equal(sliced, bias[:, frames])


def test_only_a_chunk_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    head, inputs = make_head().float(), make_inputs((40,), (3,))
    num_frames_read: list[int] = []
    read = ProjectedVideos.tokens

    def count(self: ProjectedVideos, layer: int, frames: slice = slice(None)) -> Tensor:
        tokens = read(self, layer, frames)
        num_frames_read.append(tokens.shape[1])
        return tokens

    monkeypatch.setattr(r2, "TOKENS_AT_ONCE", 35)
    monkeypatch.setattr(ProjectedVideos, "tokens", count)
    with torch.no_grad():
        head(pack(head.prepare(inputs.layers), torch.int8), inputs.query)
    assert max(num_frames_read) == 7
    assert sum(num_frames_read) == NUM_LAYERS * 40


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-4), (torch.int8, 2e-3)])
def test_packing_hardly_changes_scores(dtype: torch.dtype, bound: float) -> None:
    """At published sizes, probabilities change by less than the bound and distances by less than ten times that."""
    torch.manual_seed(0)
    head = GroundingHead().eval()
    for parameter in (head.block.scales, head.block.gates):
        parameter.normal_()
    layers, query = [torch.randn(1, 16, 50, 768) for _ in range(4)], torch.randn(1, 4, 9, 512)
    exact, actual = (head(pack(head.prepare(layers), kind), query) for kind in (torch.float32, dtype))
    moved = (actual.logits.sigmoid() - exact.logits.sigmoid()).abs()
    assert 0 < float(moved.max()) < bound
    assert float((actual.distances / exact.distances - 1).abs().max()) < 10 * bound
    for one, other in zip(head.decode(actual, fps=0.5), head.decode(exact, fps=0.5), strict=True):
        assert abs(one.saliency - other.saliency).max() < bound


def test_biases_are_log_sizes_and_mask_padding() -> None:
    layer = torch.zeros(1, 2, 3, DIM)
    assert find_bias(layer, None, None, None) is None
    sizes = torch.tensor([[[1.0, 2, 0], [1, 4, 1]]])
    real = torch.tensor([[[True, True, False], [False, False, False]]])
    mask = torch.tensor([[True, False]])
    bias = find_bias(layer, mask, real, sizes)
    assert bias is not None
    assert bias[0, 0].tolist() == [0, pytest.approx(math.log(2)), -math.inf]
    assert (bias[0, 1] == 0).all()


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
