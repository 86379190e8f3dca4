"""Pyramid levels, points and decoding, against loops and the published code."""

import math

import pytest
import torch
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from tests.ground.samples import DIM
from vidret.ground.checkpoint import convert_head
from vidret.ground.pyramid import Pyramid, RowHead, decode_spans, make_points, reduce_mask, spread_rows

STRIDES = (1, 2, 4, 8)


def naive_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Convolve rows by loops, with zeros beyond either end."""
    assert bias is not None
    width, num_rows = weight.shape[2], len(x)
    rows = []
    for start in range(-padding, num_rows + padding - width + 1, stride):
        total = bias.clone()
        for offset in range(width):
            if 0 <= start + offset < num_rows:
                total = total + weight[:, :, offset] @ x[start + offset]
        rows.append(total)
    return torch.stack(rows)


def naive_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = []
    for row in x:
        centred = row - row.mean()
        rows.append(centred / (centred.square().mean() + 1e-5).sqrt() * weight + bias)
    return torch.stack(rows)


def naive_level(weights: dict[str, Tensor], level: int, frames: Tensor) -> Tensor:
    x = frames
    for halving in range(level):
        name = f"levels.{level}.{halving}"
        x = naive_convolution(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], 2, 0)
        x = naive_norm(x, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]).clamp(min=0)
    return x


def naive_points(num_frames: int, strides: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    points: list[tuple[float, float, float, float]] = []
    for level, stride in enumerate(strides):
        lowest = 0 if level == 0 else stride
        highest = strides[level + 1] if level + 1 < len(strides) else math.inf
        points += [(row * stride, lowest, highest, stride) for row in range(num_frames // stride)]
    return points


def naive_spread(scores: Tensor, num_frames: int, strides: tuple[int, ...]) -> list[float]:
    best, first = [-math.inf] * num_frames, 0
    for stride in strides:
        num_rows = num_frames // stride
        for frame in range(num_frames):
            if num_rows:
                row = min(frame // stride, num_rows - 1)
                best[frame] = max(best[frame], float(scores[first + row]))
        first += num_rows
    return best


def make_pyramid(strides: tuple[int, ...] = STRIDES) -> Pyramid:
    torch.manual_seed(0)
    pyramid = Pyramid(DIM, strides).double()
    with torch.no_grad():
        for weight in pyramid.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return pyramid


def make_frames(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 3, 8, 13, 21])
def test_the_pyramid_equals_loops(num_frames: int) -> None:
    pyramid, frames = make_pyramid(), make_frames(2, num_frames)
    levels = pyramid(frames)
    assert [level.shape[1] for level in levels] == [num_frames // stride for stride in STRIDES if stride <= num_frames]
    for video in range(2):
        for level, rows in enumerate(levels):
            torch.testing.assert_close(rows[video], naive_level(dict(pyramid.state_dict()), level, frames[video]))


@torch.no_grad()
def test_the_row_head_equals_loops() -> None:
    torch.manual_seed(0)
    head, rows = RowHead(DIM, 2).double(), make_frames(1, 7)
    hidden = naive_convolution(rows[0], head.hidden.weight, head.hidden.bias, 1, 1).clamp(min=0)
    torch.testing.assert_close(head(rows)[0], naive_convolution(hidden, head.out.weight, head.out.bias, 1, 1))


def test_masks_are_reduced_by_all_or_any() -> None:
    mask = torch.arange(9) < torch.tensor([[9], [5], [4]])
    whole, partly = reduce_mask(mask, 4), reduce_mask(mask, 4, partly=True)
    assert whole is not None
    assert partly is not None
    assert whole.tolist() == [[True, True], [True, False], [True, False]]
    assert partly.tolist() == [[True, True], [True, True], [True, False]]
    assert reduce_mask(None, 4) is None


@pytest.mark.parametrize("num_frames", [1, 2, 7, 21, 64])
@pytest.mark.parametrize("strides", [(1,), (1, 2, 4), STRIDES])
def test_points_equal_loops(num_frames: int, strides: tuple[int, ...]) -> None:
    assert [tuple(row) for row in make_points(num_frames, strides).tolist()] == naive_points(num_frames, strides)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 13, 21, 31])
def test_frames_have_the_best_score_of_their_rows(num_frames: int) -> None:
    torch.manual_seed(num_frames)
    points = make_points(num_frames, STRIDES)
    scores = torch.rand(len(points))
    expected = naive_spread(scores, num_frames, STRIDES)
    assert spread_rows(scores, points, num_frames).tolist() == pytest.approx(expected)


def test_spans_are_decoded_in_seconds_best_first() -> None:
    points = make_points(4, (1, 2))
    distances = torch.tensor([[0.5, 1], [1, 1], [1, 2], [3, 0.5], [1, 1], [0.5, 1]])
    spans = decode_spans(torch.tensor([0.1, 0.9, 0.5, 0.9, 0.3, 0.2]), distances, points, 0.5)
    expected = [[0, 4, 0.9], [0, 7, 0.9], [2, 8, 0.5], [-4, 4, 0.3], [2, 8, 0.2], [-1, 2, 0.1]]
    torch.testing.assert_close(spans, torch.tensor(expected))


@pytest.mark.parametrize("strides", [(), (2, 4), (1, 3), (1, 4, 2), (1, 2, 2), (0, 1)])
def test_invalid_strides_are_rejected(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strides must be powers of 2 that rise from 1"):
        Pyramid(DIM, strides)


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("r2tuning"), ids=lambda case: case.folder.name)
def test_levels_equal_the_published_ones(case: Case) -> None:
    """Points and their masks are compared where the head is."""
    head, strides = convert_head(case.weights), case.config["case"]["strides"]
    assert head.pyramid.strides == tuple(strides)
    for name in ("batch", *(f"single{video}" for video in range(len(case.config["case"]["lens"])))):
        levels = head.pyramid(case.outputs[f"{name}.r2_out_before_relu"].relu())
        for level, rows in enumerate(levels):
            check_close(rows, case.outputs[f"{name}.pyramid_{level}"])
        assert f"{name}.pyramid_{len(levels)}" not in case.outputs
