"""Steps in time and the frames that they read, and windows of long videos: cut, run together, and joined."""

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
    LENGTH,
    LONGEST_HOLE_S,
    MOST_WINDOWS,
    Window,
    choose_frames,
    cut_batches,
    cut_windows,
    find_steps,
    ground_windows,
    join_results,
    place_steps,
)


@given(st.lists(st.floats(0.3, 30.0), min_size=1, max_size=12), st.sampled_from([0.5, 1.0, 2.0]), st.floats(0, 100))
def test_steps_of_segments_are_those_of_the_video(lengths: list[float], fps: float, first: float) -> None:
    ends = first + np.cumsum(lengths)
    segments = list(zip([first, *ends[:-1].tolist()], ends.tolist(), strict=True))
    steps = [step for segment in segments for step in find_steps(*segment, first=first, fps=fps)]
    assert steps == list(range(len(steps)))
    placed = place_steps(segments, first=first, fps=fps)
    assert len(placed.segments) == max(1, len(steps))
    assert abs(len(steps) - (ends[-1] - first) * fps) <= 0.5 + 1e-3
    for step in steps:
        start, end = segments[placed.segments[step]]
        middle = first + (step + 0.5) / fps
        assert start - 2e-6 <= middle <= end + 2e-6
        assert placed.offsets[step] == step - find_steps(start, end, first=first, fps=fps).start


@given(st.lists(st.floats(0, 20, width=16), min_size=1, max_size=9, unique=True), st.sampled_from([0.5, 1.0]))
def test_frames_are_the_nearest(times: list[float], fps: float) -> None:
    frames = np.sort(np.array(times, np.float64))
    rows = choose_frames(frames, 3.0, 21.0, first=1.0, fps=fps)
    steps = find_steps(3.0, 21.0, first=1.0, fps=fps)
    assert len(rows) == len(steps) == 18 * fps
    for step, row in zip(steps, rows, strict=True):
        distances = [abs(time - (1.0 + (step + 0.5) / fps)) for time in frames]
        assert distances[row] == min(distances)
        assert distances.index(min(distances)) == row, "the earlier of two"


def test_samples_at_the_rate_of_the_head_are_read_one_by_one() -> None:
    times = np.arange(24, 36) + 0.5
    assert choose_frames(times, 24.0, 36.0, first=0.0, fps=1.0).tolist() == list(range(12))
    assert choose_frames(times, 24.0, 36.0, first=0.0, fps=0.5).tolist() == [0, 2, 4, 6, 8, 10]


def test_video_shorter_than_half_a_step_has_one_frame() -> None:
    assert list(find_steps(5.0, 5.4, first=5.0, fps=1.0)) == []
    assert choose_frames(np.array([5.0, 5.2, 5.3]), 5.0, 5.4, first=5.0, fps=1.0).tolist() == [1]
    placed = place_steps([(5.0, 5.4)], first=5.0, fps=1.0)
    assert (placed.segments.tolist(), placed.offsets.tolist()) == ([0], [0])


def test_lost_segments_repeat_the_frame_before_and_gaps_end_the_video() -> None:
    placed = place_steps([(0.0, 4.0), (7.0, 9.0)], first=0.0, fps=1.0)
    assert placed.segments.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert placed.offsets.tolist() == [0, 1, 2, 3, 3, 3, 3, 0, 1]
    assert not placed.has_gap
    far = 4.0 + LONGEST_HOLE_S
    assert len(place_steps([(0.0, 4.0), (far, far + 2)], first=0.0, fps=1.0).segments) == far + 2
    gap = place_steps([(0.0, 4.0), (math.nextafter(far, math.inf) + 1, far + 5)], first=0.0, fps=1.0)
    assert gap.has_gap
    assert gap.segments.tolist() == [0, 0, 0, 0]
    lost = place_steps([(3.0, 5.0)], first=0.0, fps=1.0)
    assert (lost.segments.tolist(), lost.offsets.tolist()) == ([0] * 5, [0, 0, 0, 0, 1])
    late = place_steps([(far, far + 2)], first=0.0, fps=1.0)  # all before it is lost, or was not imported
    assert (len(late.segments), late.offsets.tolist()[-2:], late.has_gap) == (far + 2, [0, 1], False)


def test_first_segments_that_are_too_short_are_skipped() -> None:
    placed = place_steps([(0.0, 0.4), (0.4, 0.9), (0.9, 3.0)], first=0.0, fps=0.5)
    assert (placed.segments.tolist(), placed.offsets.tolist()) == ([2], [0])


@pytest.mark.parametrize("fps", [0.5, 1.0])
def test_middle_on_a_boundary_belongs_to_the_later_segment(fps: float) -> None:
    middle = 0.5 / fps
    assert place_steps([(0.0, middle), (middle, 4.0)], first=0.0, fps=fps).segments[0] == 1


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


@given(num_frames=st.integers(1, 1001), length=st.integers(1, 200) | st.just(LENGTH))
def test_windows_cover_all_frames_with_overlap_and_are_minimal(num_frames: int, length: int) -> None:
    windows, overlap = cut_windows(num_frames, length), length // 3
    assert windows[0].first == 0
    assert windows[-1].last == num_frames
    assert {window.last - window.first for window in windows} == {min(length, num_frames)}
    for one, other in pairwise(windows):
        assert one.first < other.first
        assert one.last - other.first >= overlap
    assert len(windows) == 1 + max(0, math.ceil((num_frames - length) / (length - overlap)))


def test_joining_equals_loops() -> None:
    windows = cut_windows(180)
    results = [make_result(LENGTH, 3, seed) for seed in range(len(windows))]
    joined = join_results(windows, iter(results), fps=0.5)
    spans, saliency = naive_join(windows, results, 0.5)
    np.testing.assert_allclose(joined.spans, spans, rtol=1e-6)
    np.testing.assert_allclose(joined.saliency, saliency, rtol=1e-6)
    assert joined.spans.dtype == joined.saliency.dtype == np.float32


def test_invalid_input_is_rejected() -> None:
    result = make_result(4, 1, 1)
    cases: list[tuple[Callable[[], object], str]] = [
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
    windows = draw_windows(head, (9, 1, 8, 9, 2, 10, 9), dtype) + draw_windows(head, (9, 9), dtype, (4, 5, 3))
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
        batch_lengths = [lengths[index] for index in batch]
        assert 1 <= len(batch) <= MOST_WINDOWS
        assert min(batch_lengths) >= (LEAST_FULL if pads else 1) * max(batch_lengths)
