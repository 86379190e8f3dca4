"""Tests of the grounding targets: naive versions, inclusive bounds, drawn frames, and published numbers."""

import math

import pytest
import torch
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from vidret.train.grounding_losses import PointTargets, draw_positive, find_positive, find_targets, spans_in_frames

GOLDENS = [case for case in find_cases("r2tuning") if "target.reg" in case.outputs]


def naive_span(start: float, end: float, num_frames: int, fps: float) -> tuple[float, float]:
    """Clip, sort and widen one span."""
    start, end = (min(max(time * fps, 0.0), float(num_frames)) for time in (start, end))
    if start > end:
        start, end = end, start
    if end - start < 1:
        centre = min(max((start + end) / 2, 0.5), num_frames - 0.5)
        start, end = centre - 0.5, centre + 0.5
    return start, end


def naive_target(point: list[float], spans: list[tuple[float, float]]) -> tuple[bool, tuple[float, float]]:
    """Return the shortest span that a point matches, by a loop over spans."""
    position, min_reach, max_reach, stride = point
    best, length = (0.0, 0.0), math.inf
    for start, end in spans:
        is_central = abs(position - (start + end) / 2) <= 1.5 * stride
        is_inside = start <= position <= end
        is_reached = min_reach <= max(position - start, end - position) <= max_reach
        if is_central and is_inside and is_reached and end - start < length:
            best, length = ((position - start) / stride, (end - position) / stride), end - start
    return length < math.inf, best


def make_points(num_frames: int, strides: tuple[int, ...] = (1, 2, 4, 8)) -> Tensor:
    """Return the points of all levels; reaches double from level to level, and the last one is unlimited."""
    rows = [
        [float(row * stride), float(stride if stride > 1 else 0), float(2 * stride), float(stride)]
        for stride in strides
        for row in range(num_frames // stride)
    ]
    points = torch.tensor(rows)
    points[points[:, 3] == strides[-1], 2] = math.inf
    return points


def draw_spans(num_samples: int, num_spans: int, seconds: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random spans, some reversed, outside or very short, and a mask of the real ones."""
    generator = torch.Generator().manual_seed(seed)
    spans = torch.rand(num_samples, num_spans, 2, generator=generator) * seconds * 1.2 - 0.1 * seconds
    spans[:, 0, 1] = spans[:, 0, 0] + 0.2
    return spans, torch.rand(num_samples, num_spans, generator=generator) < 0.7


@pytest.mark.parametrize("fps", [0.5, 1.0, 2.9])
def test_targets_match_naive_version(fps: float) -> None:
    num_frames = torch.tensor([40, 33, 17, 8, 1])
    spans, span_mask = draw_spans(5, 4, 40 / fps)
    points = make_points(40)
    targets = find_targets(points, spans, span_mask, num_frames, fps=fps)
    assert targets.positive.any()
    for sample, count in enumerate(num_frames.tolist()):
        real = spans[sample][span_mask[sample]].tolist()
        true_spans = [naive_span(start, end, count, fps) for start, end in real]
        for place, point in enumerate(points.tolist()):
            positive, distances = naive_target(point, true_spans)
            assert targets.positive[sample, place].item() == positive
            assert targets.distances[sample, place].tolist() == pytest.approx(distances, abs=1e-4)


def test_short_spans_are_widened_within_the_video() -> None:
    spans = torch.tensor([[[0.0, 0.4], [7.0, 7.2], [6.0, 8.0], [19.9, 20.0], [50.0, 60.0]]])
    found = spans_in_frames(spans, torch.tensor([10]), fps=0.5)
    assert found.flatten().tolist() == pytest.approx([0, 1, 3.05, 4.05, 3, 4, 9, 10, 9, 10], abs=1e-5)


def match(point: list[float], *spans: list[float]) -> PointTargets:
    mask = torch.ones(1, len(spans), dtype=torch.bool)
    return find_targets(torch.tensor([point]).float(), torch.tensor([spans]).float(), mask, torch.tensor([99]), fps=1.0)


def test_bounds_of_positive_points_are_inclusive() -> None:
    spans = {(9, 13): True, (9.5, 13.5): True, (9.6, 13.6): False}  # the centre is at most 1.5 away
    spans |= {(10, 12): True, (10.1, 12): False, (8, 10): True, (8, 9.9): False}  # the point is in the span
    assert {span: match([10, 0, math.inf, 1], list(span)).positive.item() for span in spans} == spans
    reaches = {(0, 3): True, (0, 2.9): False, (3, 9): True, (3.1, 9): False}  # of the farther boundary
    assert {reach: match([10, *reach, 2], [8, 13]).positive.item() for reach in reaches} == reaches


def test_shortest_span_is_assigned_and_ties_go_to_the_first() -> None:
    point = [10.0, 0.0, math.inf, 1.0]
    assert match(point, [6, 14], [9, 12], [8, 12]).distances.tolist() == [[[1, 2]]]
    assert match(point, [8, 11], [9, 12]).distances.tolist() == [[[2, 1]]]
    assert match(point, [9, 12], [8, 11]).distances.tolist() == [[[1, 2]]]


@pytest.mark.parametrize("garbage", [0.0, 5.0, math.nan, math.inf])
def test_padding_has_no_effect(garbage: float) -> None:
    spans, _ = draw_spans(3, 2, 60)
    num_frames, everything = torch.tensor([30, 25, 20]), torch.ones(3, 2, dtype=torch.bool)
    expected = find_targets(make_points(30), spans, everything, num_frames, fps=0.5)
    padded = torch.full((3, 5, 2), garbage)
    padded[:, [1, 4]] = spans
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[:, [1, 4]] = True
    targets = find_targets(make_points(30), padded, mask, num_frames, fps=0.5)
    assert torch.equal(targets.positive, expected.positive)
    assert torch.equal(targets.distances, expected.distances)
    alone = find_targets(make_points(30), spans[1:2], everything[1:2], num_frames[1:2], fps=0.5)
    assert torch.equal(alone.distances[0], expected.distances[1])


@pytest.mark.parametrize("num_spans", [0, 2])
def test_without_spans_all_points_are_negative(num_spans: int) -> None:
    mask = torch.zeros(2, num_spans, dtype=torch.bool)
    targets = find_targets(make_points(9), torch.zeros(2, num_spans, 2), mask, torch.tensor([9, 4]), fps=1)
    assert not targets.positive.any()
    assert targets.distances.shape == (2, len(make_points(9)), 2)
    assert not targets.distances.any()


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_fps_that_is_not_positive_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps must be positive and finite"):
        spans_in_frames(torch.zeros(1, 1, 2), torch.tensor([4]), fps=fps)


def draw(saliency: Tensor, mask: Tensor) -> list[int]:
    return draw_positive(saliency, mask, torch.Generator().manual_seed(0)).tolist()


def test_candidate_frames_are_drawn_uniformly() -> None:
    saliency = torch.tensor([[0.0, 0.3, 0.9, 0.0, 0.1, 1.0, 0.5]]).expand(4000, -1)
    mask = torch.tensor([[True, True, True, True, True, True, False]]).expand(4000, -1)
    counts = torch.tensor(draw(saliency, mask)).bincount(minlength=7)
    assert counts[[0, 3, 6]].tolist() == [0, 0, 0]
    assert ((counts[[1, 2, 4, 5]] - 1000).abs() < 150).all()  # five standard deviations are 137


def test_without_salient_frames_there_is_no_positive_frame() -> None:
    saliency = torch.tensor([[0.0, 0.0, math.nan], [0.2, 0.4, math.inf], [0.7, 0.0, 0.1]])
    mask = torch.tensor([[True, True, False], [True, True, False], [False, True, False]])
    assert draw(saliency, mask)[::2] == [-1, -1]
    assert draw(saliency, mask)[1] in (0, 1)
    assert draw(saliency, torch.zeros_like(mask)) == [-1, -1, -1]


def test_highlights_are_above_the_median_of_their_video() -> None:
    rated = [0.1, 0.4, 0.2, 0.3, 0.9]  # every frame of TVSum has a rating
    saliency = torch.tensor(
        [rated, [0.0, 1.0, 1.0, 1.0, math.nan], [0.0, 0.5, 0.0, 1.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]]
    )
    mask = torch.tensor([[True] * 4 + [False], [True] * 4 + [False], [True] * 5, [True] * 5])
    for highlights, expected in (
        (True, [[1, 3], [1, 2, 3], [1, 3], [0, 1, 2, 3, 4]]),
        (False, [[0, 1, 2, 3], [1, 2, 3], [1, 3], [0, 1, 2, 3, 4]]),
    ):
        positive = find_positive(saliency, mask, highlights=highlights)
        assert [row.nonzero().flatten().tolist() for row in positive] == expected
        for seed in range(20):
            drawn = draw_positive(saliency, mask, torch.Generator().manual_seed(seed), highlights=highlights)
            assert positive[torch.arange(4), drawn].all()


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.folder.name)
def test_targets_match_published_code(case: Case) -> None:
    spans, outputs = case.inputs["boundary"], case.outputs
    span_mask = spans.isfinite().all(dim=-1)
    num_frames = outputs["batch.video_msk"].sum(dim=1)
    targets = find_targets(outputs["batch.point"], spans, span_mask, num_frames, fps=case.config["case"]["fps"])
    assert torch.equal(targets.positive, outputs["target.cls"] > 0)
    assert targets.positive.any()
    check_close(targets.distances[targets.positive], outputs["target.reg"][targets.positive], atol=1e-6)
