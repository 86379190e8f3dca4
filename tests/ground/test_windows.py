"""Windows over long videos: how they are cut, and what their answers make together."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.ground.samples import make_head, make_inputs
from vidret.ground.head import GroundingResult
from vidret.ground.windows import Window, cut_windows, join_results


def make_answer(num_frames: int, num_spans: int, seed: int) -> GroundingResult:
    rng = np.random.default_rng(seed)
    return GroundingResult(rng.random((num_spans, 3)).astype(np.float32), rng.random(num_frames).astype(np.float32))


def naive_join(
    windows: list[Window], answers: list[GroundingResult], fps: float
) -> tuple[list[list[float]], list[float]]:
    spans: list[list[float]] = []
    said: dict[int, list[float]] = {}
    for window, answer in zip(windows, answers, strict=True):
        for start, end, score in answer.spans.tolist():
            spans.append([start + window.first / fps, end + window.first / fps, score])
        for frame in range(window.first, window.last):
            said.setdefault(frame, []).append(float(answer.saliency[frame - window.first]))
    spans.sort(key=lambda span: -span[2])
    return spans, [sum(said[frame]) / len(said[frame]) for frame in range(len(said))]


@pytest.mark.parametrize("num_frames", [1, 9, 10, 11, 14, 17, 18, 25, 100, 1001])
@pytest.mark.parametrize(("length", "overlap"), [(10, 0), (10, 3), (10, 9), (1, 0)])
def test_windows_cover_all_frames_overlap_enough_and_are_as_few_as_can_be(
    num_frames: int, length: int, overlap: int
) -> None:
    windows = cut_windows(num_frames, length=length, overlap=overlap)
    assert windows[0].first == 0
    assert windows[-1].last == num_frames
    assert {window.last - window.first for window in windows} == {min(length, num_frames)}
    for one, other in pairwise(windows):
        assert one.first < other.first
        assert one.last - other.first >= overlap
    fewest = 1 if num_frames <= length else 1 + math.ceil((num_frames - length) / (length - overlap))
    assert len(windows) == fewest


def test_a_moment_that_fits_into_the_overlap_lies_whole_in_a_window() -> None:
    windows = cut_windows(173, length=20, overlap=6)
    for first in range(173 - 7 + 1):
        assert any(window.first <= first and first + 7 <= window.last for window in windows)


def test_answers_are_joined_as_loops_do() -> None:
    windows = cut_windows(33, length=10, overlap=4)
    answers = [make_answer(10, 3, seed) for seed in range(len(windows))]
    found = join_results(windows, iter(answers), fps=0.5)
    spans, saliency = naive_join(windows, answers, 0.5)
    np.testing.assert_allclose(found.spans, spans, rtol=1e-6)
    np.testing.assert_allclose(found.saliency, saliency, rtol=1e-6)
    assert found.spans.dtype == found.saliency.dtype == np.float32


def test_one_window_is_the_answer_itself_and_highlights_alone_have_no_spans() -> None:
    answer = make_answer(7, 0, 1)
    found = join_results([Window(0, 7)], [answer], fps=1.0)
    assert found.spans.shape == (0, 3)
    np.testing.assert_array_equal(found.saliency, answer.saliency)


def test_what_windows_agree_on_stays_as_it_is() -> None:
    windows = cut_windows(25, length=10, overlap=5)
    curve = np.linspace(0, 1, 25, dtype=np.float32)
    answers = [GroundingResult(np.zeros((0, 3), np.float32), curve[window.first : window.last]) for window in windows]
    np.testing.assert_allclose(join_results(windows, answers, fps=1.0).saliency, curve, rtol=1e-6)


@torch.no_grad()
def test_a_head_works_through_a_long_video_one_window_at_a_time() -> None:
    head, inputs = make_head(), make_inputs((50,), (4,))
    windows, alive = cut_windows(50, length=12, overlap=4), []

    def ground() -> Iterator[GroundingResult]:
        for window in windows:
            alive.append(window)
            layers = [layer[:, window.first : window.last] for layer in inputs.layers]
            yield head.decode(head(head.prepare(layers), inputs.query), fps=0.5)[0]

    found = join_results(windows, ground(), fps=0.5)
    assert alive == windows
    assert len(found.saliency) == 50
    layers = [layer[:, windows[2].first : windows[2].last] for layer in inputs.layers]
    (alone,) = head.decode(head(head.prepare(layers), inputs.query), fps=0.5)
    moved = alone.spans + np.array([windows[2].first / 0.5] * 2 + [0])
    assert all((np.abs(found.spans - row).max(axis=1) < 1e-9).any() for row in moved)
    assert (np.diff(found.spans[:, 2]) <= 0).all()


def test_what_it_refuses() -> None:
    answer = make_answer(4, 1, 1)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: cut_windows(0), "num_frames must be at least 1"),
        (lambda: cut_windows(5, length=4, overlap=4), r"overlap in 0..length \(excluded\), got 5, 4, 4"),
        (lambda: cut_windows(5, length=4, overlap=-1), "got 5, -1, 4"),
        (lambda: join_results([Window(0, 5)], [answer], fps=1.0), "saliency must have 5 frames, got 4"),
        (
            lambda: join_results([Window(2, 6)], [answer], fps=1.0),
            "windows must cover every frame, got none with frame 0",
        ),
        (lambda: join_results([Window(0, 4)], [answer, answer], fps=1.0), "longer"),
        (lambda: join_results([Window(0, 4), Window(2, 6)], [answer], fps=1.0), "shorter"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
