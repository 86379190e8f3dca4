"""Lines in matrices of scores: against loops, on planted footage, and what must not be found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.copies.alignment import (
    LAG_COST,
    SPEEDS,
    STEP_S,
    align_footage,
    align_repeatedly,
    bound_gain,
    find_best_runs,
    score_lines,
    vote_offsets,
)

LEVEL = 0.5


def make_footage(seed: int, length_s: float) -> np.ndarray:
    """Return keyframes, one per second, between which a film moves evenly."""
    return np.random.default_rng(seed).standard_normal((int(length_s) + 3, 32))


def sample_footage(keyframes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return unit vectors at times in seconds."""
    low = np.floor(times).astype(int)
    mixed = keyframes[low] * (1 - (times - low))[:, None] + keyframes[low + 1] * (times - low)[:, None]
    unit: np.ndarray = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit


def score(clip: np.ndarray, film: np.ndarray) -> np.ndarray:
    scores: np.ndarray = clip @ film.T - LEVEL
    return scores


@given(
    st.integers(0, 1000),
    st.floats(0, 20),
    st.integers(8, 14),
    st.sampled_from([0.5, 0.75, 1.0, 1.25, 2.0]),
    st.floats(0.0, 0.99),
)
def test_planted_footage_is_found(seed: int, offset: float, num_frames: int, speed: float, phase: float) -> None:
    keyframes = make_footage(seed, 60)
    clip_times, film_times = np.arange(num_frames) + 0.5, np.arange(52) + phase
    clip = sample_footage(keyframes, offset + speed * clip_times)
    found = align_footage(score(clip, sample_footage(keyframes, film_times)), clip_times, film_times)
    assert found is not None
    middle = clip_times[num_frames // 2]
    assert abs(found.speed * middle + found.offset - (offset + speed * middle)) <= 1.0
    assert found.last - found.first + 1 >= 0.6 * num_frames


@given(st.integers(0, 1000))
def test_reversed_order_gains_less(seed: int) -> None:
    keyframes, times = make_footage(seed, 30), np.arange(20) + 0.5
    film = sample_footage(keyframes, times)
    forward = align_footage(score(film, film), times, times)
    backward = align_footage(score(film[::-1], film), times, times)
    assert forward is not None
    assert (forward.speed, forward.first, forward.last) == (1.0, 0, 19)
    assert backward is None or backward.gain < 0.6 * forward.gain


def test_unlike_frames_and_scores_that_the_lag_outweighs_are_no_footage() -> None:
    times = np.arange(6.0)
    assert align_footage(np.full((6, 6), -0.1), times, times) is None
    one = np.full((6, 6), -0.1)
    one[2, 4] = 0.3
    found = align_footage(one, times, times)
    assert found is not None
    assert (found.first, found.last) == (2, 2)
    times, outweighed = np.array([0.0]), np.array([0.1])
    assert align_footage(np.full((1, 1), 0.05 * LAG_COST), times, outweighed) is None
    found = align_footage(np.full((1, 1), 0.2 * LAG_COST), times, outweighed)
    assert found is not None
    assert found.gain == pytest.approx(0.1 * LAG_COST)


def test_normal_speed_wins_among_equal_lines() -> None:
    found = align_footage(np.array([[-0.1, 0.4, -0.1]]), np.array([2.0]), np.arange(3.0))
    assert found is not None
    assert (found.speed, found.offset) == (1.0, -1.0)


def test_normal_speed_wins_where_a_film_shows_a_part_of_a_still_clip() -> None:
    found = align_footage(np.where(np.arange(20) < 8, 0.4, -0.5) * np.ones((30, 1)), np.arange(30.0), np.arange(20.0))
    assert found is not None
    assert found.speed == pytest.approx(1, abs=0.1)


def test_every_showing_is_found_once() -> None:
    keyframes, times = make_footage(3, 20), np.arange(8) + 0.5
    clip = sample_footage(keyframes, times)
    other = sample_footage(make_footage(4, 20), np.arange(10) + 0.5)
    film = np.concatenate([clip, other, clip])
    film_times = np.arange(len(film)) + 0.5
    found = list(align_repeatedly(score(clip, film), times, film_times, max_num=2))
    assert sorted(round(showing.offset) for showing in found) == [0, 18]


def naive_values(
    scores: np.ndarray, clip_times: np.ndarray, film_times: np.ndarray, speed: float, offset: float
) -> list[float | None]:
    """Score a line frame by frame: the better of the two film frames around the expected time, if within a step."""
    values: list[float | None] = []
    for row, time in enumerate(clip_times):
        expected = speed * time + offset
        before = [column for column, film_time in enumerate(film_times) if film_time < expected]
        after = [column for column, film_time in enumerate(film_times) if film_time >= expected]
        around = before[-1:] + after[:1]
        near = [column for column in around if abs(film_times[column] - expected) <= STEP_S]
        values.append(
            max((scores[row, column] - LAG_COST * abs(film_times[column] - expected) for column in near), default=None)
        )
    return values


@given(st.integers(0, 1000), st.sampled_from(SPEEDS.tolist()), st.floats(-5, 5))
def test_lines_are_scored_as_by_loops(seed: int, speed: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    clip_times, film_times = np.sort(rng.uniform(0, 8, 7)), np.sort(rng.uniform(0, 12, 9))
    scores = rng.standard_normal((7, 9))
    (values,) = score_lines(scores, clip_times, film_times, np.array([speed]), np.array([offset]))
    for value, expected in zip(values, naive_values(scores, clip_times, film_times, speed, offset), strict=True):
        assert value < -1000 if expected is None else value == pytest.approx(expected)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_the_best_run_is_that_of_all_runs(values: list[float]) -> None:
    firsts, lasts, gains = find_best_runs(np.array([values]))
    runs = [sum(values[first : last + 1]) for first in range(len(values)) for last in range(first, len(values))]
    assert gains[0] == pytest.approx(max(runs), abs=1e-9)
    assert sum(values[firsts[0] : lasts[0] + 1]) == pytest.approx(gains[0], abs=1e-9)


def test_most_weight_wins_the_vote_across_bins() -> None:
    pairs = np.array([[3.24, 3.26, 9.0], [9.0, 3.26, 3.24]])
    speeds, offsets = vote_offsets(pairs, np.array([1.0, 1.0, 1.5]), 0.5)
    assert speeds.tolist() == [0, 0, 0, 1, 1, 1]
    assert abs(offsets[0] - 3.25) <= 0.25
    assert abs(offsets[3] - 3.25) <= 0.25
    assert set(offsets[:3].tolist()) == set(offsets[3:].tolist()) == {3.0, 3.5, 9.0}


@given(st.integers(0, 300))
def test_no_line_gains_more_than_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, clip_times, film_times = rng.uniform(-0.5, 0.5, (6, 9)), np.arange(6) + 0.5, np.arange(9) + 0.2
    found = align_footage(scores, clip_times, film_times)
    assert found is not None
    assert found.gain <= bound_gain(scores)
    assert bound_gain(-np.abs(scores)) == 0
