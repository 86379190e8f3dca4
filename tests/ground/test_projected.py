"""Packed tokens: how close they are, what they take, how little is unpacked at once, what that does to scores."""

import math

import pytest
import torch
from torch import Tensor

from tests.ground.samples import DIM, NUM_LAYERS, make_head, make_inputs, prepare
from vidret.ground import r2
from vidret.ground.head import GroundingHead
from vidret.ground.projected import ProjectedVideos, find_bias
from vidret.layers import pack_rows

DTYPES = (torch.float16, torch.int8)


def naive_pack(row: list[float]) -> tuple[list[int], float]:
    scale = max(abs(value) for value in row) / 127
    return [round(value / scale) if scale else 0 for value in row], scale


def test_rows_are_rounded_as_loops_do() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 8) * torch.tensor([1e-3, 1, 1e4])[:, None]
    rows[0, 0] = 0
    packed, scales = pack_rows(rows)
    assert packed.dtype == torch.int8
    for place in [(video, frame) for video in range(2) for frame in range(3)]:
        values, scale = naive_pack(rows[place].double().tolist())
        assert packed[place].tolist() == values
        assert float(scales[place]) == pytest.approx(scale)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 2**-11), (torch.int8, 0.5 / 127)])
def test_a_token_is_off_by_half_a_step_of_its_greatest_value(dtype: torch.dtype, share: float) -> None:
    projected = prepare(make_head().float(), make_inputs())
    packed = projected.packed(dtype)
    for layer in range(NUM_LAYERS):
        exact, found = projected.tokens(layer), packed.tokens(layer)
        assert found.dtype == torch.float32
        assert packed.layers[layer].dtype == dtype
        bound = exact.abs().amax(dim=-1, keepdim=True) * share * 1.001
        assert ((found - exact).abs() <= bound).all()
        assert not torch.equal(found, exact)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_while_mapping_or_afterwards_is_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r2, "TOKENS_AT_ONCE", 30)
    head, inputs = make_head().float(), make_inputs()
    late = prepare(head, inputs).packed(dtype)
    soon = head.prepare(inputs.layers, mask=inputs.mask, dtype=dtype)
    for layer in range(NUM_LAYERS):
        assert torch.equal(soon.layers[layer], late.layers[layer])
        if dtype == torch.int8:
            assert torch.equal(soon.tokens(layer), late.tokens(layer))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_slices_are_parts_of_the_whole(dtype: torch.dtype) -> None:
    head, inputs = make_head().float(), make_inputs(num_tokens=(5, 3, 4))
    sizes = [torch.rand(3, 9, tokens) * 4 for tokens in (5, 3, 4)]
    projected = head.prepare(inputs.layers, mask=inputs.mask, sizes=sizes, dtype=dtype)
    assert projected.num_frames == 9
    assert projected.lengths.tolist() == [9, 5, 2]
    assert projected._replace(mask=None).lengths.tolist() == [9, 9, 9]
    for layer in range(NUM_LAYERS):
        whole, bias = projected.tokens(layer), projected.bias(layer)
        assert bias is not None
        assert torch.equal(projected.class_tokens(layer), whole[:, :, 0])
        for frames in (slice(0, 4), slice(4, 9)):
            part = projected.bias(layer, frames)
            assert part is not None
            assert torch.equal(projected.tokens(layer, frames), whole[:, frames])
            assert torch.equal(part, bias[:, frames])


def test_no_more_than_a_chunk_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    head, inputs = make_head().float(), make_inputs((40,), (3,))
    seen: list[int] = []
    read = ProjectedVideos.tokens

    def count(self: ProjectedVideos, layer: int, frames: slice = slice(None)) -> Tensor:
        tokens = read(self, layer, frames)
        seen.append(tokens.shape[1])
        return tokens

    monkeypatch.setattr(r2, "TOKENS_AT_ONCE", 35)
    monkeypatch.setattr(ProjectedVideos, "tokens", count)
    with torch.no_grad():
        head(head.prepare(inputs.layers, dtype=torch.int8), inputs.query)
    assert max(seen) == 7
    assert sum(seen) == NUM_LAYERS * 40


@torch.no_grad()
def test_what_a_frame_takes_at_published_sizes() -> None:
    head = GroundingHead().eval()
    layers = [torch.randn(1, 2, 50, 768) for _ in range(4)]
    taken = [head.prepare(layers, dtype=dtype).bytes_per_frame for dtype in (None, *DTYPES)]
    assert taken == [4 * 50 * 256 * 4, 4 * 50 * 256 * 2, 4 * 50 * (256 + 4)]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-4), (torch.int8, 2e-3)])
def test_what_packing_does_to_scores(dtype: torch.dtype, bound: float) -> None:
    """At published sizes probabilities move by less than the bound, reaches by less than ten times that share."""
    torch.manual_seed(0)
    head = GroundingHead().eval()
    for part in (head.block.scales, head.block.gates):
        part.normal_()
    layers, query = [torch.randn(1, 16, 50, 768) for _ in range(4)], torch.randn(1, 4, 9, 512)
    exact, found = (head(head.prepare(layers, dtype=kind), query) for kind in (None, dtype))
    moved = (found.logits.sigmoid() - exact.logits.sigmoid()).abs()
    assert 0 < float(moved.max()) < bound
    assert float((found.distances / exact.distances - 1).abs().max()) < 10 * bound
    for one, other in zip(head.decode(found, fps=0.5), head.decode(exact, fps=0.5), strict=True):
        assert abs(one.saliency - other.saliency).max() < bound


def test_biases_are_logarithms_of_sizes_and_hide_padding() -> None:
    layer = torch.zeros(1, 2, 3, DIM)
    assert find_bias(layer, None, None, None) is None
    sizes = torch.tensor([[[1.0, 2, 0], [1, 4, 1]]])
    real = torch.tensor([[[True, True, False], [False, False, False]]])
    mask = torch.tensor([[True, False]])
    bias = find_bias(layer, mask, real, sizes)
    assert bias is not None
    assert bias[0, 0].tolist() == [0, pytest.approx(math.log(2)), -math.inf]
    assert (bias[0, 1] == 0).all()
