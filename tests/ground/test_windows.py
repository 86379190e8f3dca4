"""Windows of long videos: cutting, running them together, and joining their results."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ground.samples import NUM_LAYERS, TEXT_WIDTH, make_head, make_inputs, pack, prepare
from vidret.ground.head import GroundingHead, GroundingResult
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import (
    LEAST_FULL,
    MOST_WINDOWS,
    Window,
    cut_batches,
    cut_windows,
    ground_windows,
    join_results,
)


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


LENGTHS = (9, 1, 8, 9, 2, 10, 9)
DTYPES = (torch.float64, torch.float16, torch.int8)


def draw_windows(
    head: GroundingHead, lengths: Sequence[int], dtype: torch.dtype, num_tokens: tuple[int, ...] = (5, 5, 5)
) -> list[ProjectedVideos]:
    windows = []
    for seed, length in enumerate(lengths):
        inputs = make_inputs((length,), (3,), num_tokens=num_tokens, seed=seed)
        windows.append(pack(prepare(head, inputs._replace(mask=None)), dtype))
    return windows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("as_published", [False, True])
def test_windows_together_give_the_results_of_each_alone(dtype: torch.dtype, *, as_published: bool) -> None:
    head = make_head(as_published=as_published).float() if dtype != torch.float64 else make_head()
    windows = draw_windows(head, LENGTHS, dtype) + draw_windows(head, (9, 9), dtype, (4, 5, 3))
    query = torch.randn(NUM_LAYERS, 6, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))
    together = ground_windows(head, query, windows, fps=0.5)
    with torch.inference_mode():
        alone = [head.decode(head(window, query[None]), fps=0.5)[0] for window in windows]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-6)
        np.testing.assert_allclose(one.spans, other.spans, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 80), max_size=60), st.booleans())
def test_batches_hold_every_window_once_and_little_padding(lengths: list[int], pads: bool) -> None:
    windows = [ProjectedVideos((torch.empty(1, length, 2, 1),), (None,), (None,)) for length in lengths]
    batches = list(cut_batches(windows, pads=pads))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[index] for index in batch]
        assert 1 <= len(batch) <= MOST_WINDOWS
        assert min(own) >= (LEAST_FULL if pads else 1) * max(own)
