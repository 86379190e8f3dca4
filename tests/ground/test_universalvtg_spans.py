"""Spans of UniversalVTG against a twin in loops, and files of its weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ground.samples import naive_overlap
from tests.ground.universalvtg_samples import make_head
from vidret.errors import VidretError
from vidret.ground.universalvtg import Level, build_universal, decode_levels, load_universal, save_universal


def naive_spans(levels: list[Level], duration: float) -> list[tuple[float, float, float]]:
    points = []
    for level in levels:
        for row, (logit, offsets) in enumerate(zip(level.logits.tolist(), level.offsets.tolist(), strict=True)):
            start, end = row * level.stride - offsets[0] * level.stride, row * level.stride + offsets[1] * level.stride
            score = 1 / (1 + math.exp(-logit))
            if score >= 0.001 and end - start >= 0.1:
                points.append((start, end, score))
    points = sorted(points, key=lambda point: -point[2])[:2000]
    left, chosen = [list(point) for point in points], list[tuple[float, float, float]]()
    while left and len(chosen) < 5:
        best = max(left, key=lambda point: point[2])
        left.remove(best)
        if best[2] < 0.001:
            break
        agreeing = [point for point in points if naive_overlap(point, tuple(best)) >= 0.95]
        total = sum(point[2] for point in agreeing)
        edges = [sum(point[2] * point[side] for point in agreeing) / total for side in (0, 1)]
        start, end = (min(max((edge + 0.5) / 2, 0), duration) for edge in edges)
        chosen.append((start, end, best[2]))
        for point in left:
            point[2] *= math.exp(-(naive_overlap(tuple(point), tuple(best)) ** 2) / 0.9)
    return [span for span in chosen if span[1] > span[0]]


@given(seed=st.integers(0, 999), num_rows=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_spans_equal_their_twin(seed: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride in (1, 2, 4):
        count = -(-num_rows // stride)
        logits = torch.randn(count, generator=generator, dtype=torch.float64) * 4 - 2
        levels.append(Level(stride, logits, torch.rand(count, 2, generator=generator, dtype=torch.float64) * 3))
    found = decode_levels(levels, duration=15.0)
    np.testing.assert_allclose([tuple(span) for span in found], naive_spans(levels, 15.0), atol=1e-9)


def test_what_agrees_votes_and_a_point_without_length_is_no_span() -> None:
    logits, offsets = torch.tensor([0.0, 3.0, 3.0]), torch.tensor([[0.0, 0.0], [1.0, 39.0], [2.2, 37.8]])
    span, other = decode_levels([Level(1, logits.double(), offsets.double())], duration=60.0)
    assert span[:2] == other[:2]
    np.testing.assert_allclose(span[:2], [(0.0 - 0.2) / 2 / 2 + 0.25, (40.0 + 39.8) / 2 / 2 + 0.25], atol=1e-6)
    assert decode_levels([Level(1, torch.full((3,), -9.0).double(), offsets.double())], duration=60.0) == []


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weights = make_head().state_dict()
    weights.pop("fusion.ln_out.bias")
    weights["more"] = torch.zeros(1)
    with pytest.raises(VidretError, match=r"1 weights missing: fusion\.ln_out\.bias; 1 weights unknown: more"):
        build_universal(weights)
    with pytest.raises(VidretError, match=r"vid_proj\.conv\.weight"):
        build_universal({})
    path = tmp_path / "head.safetensors"
    save_universal(make_head(), path)
    path.write_bytes(path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(VidretError, match="format must be 1, got 9"):
        load_universal(path)
