"""Steps in time: every step reads the sampled frame nearest to its middle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.ground.windows import LONGEST_HOLE_S, choose_frames, find_steps, place_steps

CUTS = st.lists(st.floats(0.3, 30.0), min_size=1, max_size=12)


@given(CUTS, st.sampled_from([0.5, 1.0, 2.0]), st.floats(0, 100))
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


def test_first_segments_that_are_too_short_are_skipped() -> None:
    placed = place_steps([(0.0, 0.4), (0.4, 0.9), (0.9, 3.0)], first=0.0, fps=0.5)
    assert (placed.segments.tolist(), placed.offsets.tolist()) == ([2], [0])


@pytest.mark.parametrize("fps", [0.5, 1.0])
def test_middle_on_a_boundary_belongs_to_the_later_segment(fps: float) -> None:
    middle = 0.5 / fps
    assert place_steps([(0.0, middle), (middle, 4.0)], first=0.0, fps=fps).segments[0] == 1
