"""Windows over long videos, and joining their results."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ground.samples import make_head, make_inputs
from vidret.ground.head import GroundingResult
from vidret.ground.windows import Window, cut_windows, join_results


def make_result(num_frames: int, num_spans: int, seed: int) -> GroundingResult:
    rng = np.random.default_rng(seed)
    return GroundingResult(rng.random((num_spans, 3)).astype(np.float32), rng.random(num_frames).astype(np.float32))


def naive_join(
    windows: list[Window], results: list[GroundingResult], fps: float
) -> tuple[list[list[float]], list[float]]:
    spans: list[list[float]] = []
    by_frame: dict[int, list[float]] = {}
    for window, result in zip(windows, results, strict=True):
        for start, end, score in result.spans.tolist():
            spans.append([start + window.first / fps, end + window.first / fps, score])
        for frame in range(window.first, window.last):
            by_frame.setdefault(frame, []).append(float(result.saliency[frame - window.first]))
    spans.sort(key=lambda span: -span[2])
    return spans, [sum(by_frame[frame]) / len(by_frame[frame]) for frame in range(len(by_frame))]


@given(num_frames=st.integers(1, 1001), length=st.integers(1, 20), data=st.data())
def test_windows_cover_all_frames_with_overlap_and_are_minimal(
    num_frames: int, length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    windows = cut_windows(num_frames, length=length, overlap=overlap)
    assert windows[0].first == 0
    assert windows[-1].last == num_frames
    assert {window.last - window.first for window in windows} == {min(length, num_frames)}
    for one, other in pairwise(windows):
        assert one.first < other.first
        assert one.last - other.first >= overlap
    fewest = 1 if num_frames <= length else 1 + math.ceil((num_frames - length) / (length - overlap))
    assert len(windows) == fewest


def test_joining_equals_loops() -> None:
    windows = cut_windows(33, length=10, overlap=4)
    results = [make_result(10, 3, seed) for seed in range(len(windows))]
    joined = join_results(windows, iter(results), fps=0.5)
    spans, saliency = naive_join(windows, results, 0.5)
    np.testing.assert_allclose(joined.spans, spans, rtol=1e-6)
    np.testing.assert_allclose(joined.saliency, saliency, rtol=1e-6)
    assert joined.spans.dtype == joined.saliency.dtype == np.float32


@torch.no_grad()
def test_windows_are_consumed_one_at_a_time() -> None:
    head, inputs = make_head(), make_inputs((50,), (4,))
    windows, alive = cut_windows(50, length=12, overlap=4), []

    def ground() -> Iterator[GroundingResult]:
        for window in windows:
            alive.append(window)
            layers = [layer[:, window.first : window.last] for layer in inputs.layers]
            yield head.decode(head(head.prepare(layers), inputs.query), fps=0.5)[0]

    joined = join_results(windows, ground(), fps=0.5)
    assert alive == windows
    assert len(joined.saliency) == 50
    layers = [layer[:, windows[2].first : windows[2].last] for layer in inputs.layers]
    (alone,) = head.decode(head(head.prepare(layers), inputs.query), fps=0.5)
    moved = alone.spans + np.array([windows[2].first / 0.5] * 2 + [0])
    assert all((np.abs(joined.spans - row).max(axis=1) < 1e-9).any() for row in moved)
    assert (np.diff(joined.spans[:, 2]) <= 0).all()


def test_invalid_input_is_rejected() -> None:
    result = make_result(4, 1, 1)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: cut_windows(0), "num_frames must be at least 1"),
        (lambda: cut_windows(5, length=4, overlap=4), r"overlap in 0..length \(excluded\), got 5, 4, 4"),
        (lambda: cut_windows(5, length=4, overlap=-1), "got 5, -1, 4"),
        (lambda: join_results([Window(0, 5)], [result], fps=1.0), "saliency must have 5 frames, got 4"),
        (
            lambda: join_results([Window(2, 6)], [result], fps=1.0),
            "windows must cover every frame, got none with frame 0",
        ),
        (lambda: join_results([Window(0, 4)], [result, result], fps=1.0), "longer"),
        (lambda: join_results([Window(0, 4), Window(2, 6)], [result], fps=1.0), "shorter"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
