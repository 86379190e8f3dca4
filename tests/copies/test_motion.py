"""Agreement of motion: planted offsets and speeds are found, other recordings of the same place are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.copies.motion import (
    correlate_changes,
    correlate_pictures,
    find_nearest_times,
    match_motion,
    multiply_pictures,
)

INSIDE = np.ones((18, 32), bool)
PLACE = np.random.default_rng(99).uniform(60, 120, (18, 32))  # what stands still
SPEEDS = np.array([0.5, 0.75, 1.0, 1.25, 2.0])


def record(seed: int, times: np.ndarray) -> np.ndarray:
    """Return pictures of a place in which a bright spot wanders smoothly."""
    rng = np.random.default_rng(seed)
    phases, rates = rng.uniform(0, 6, 4), rng.uniform(0.5, 1.6, 4)
    x = 16 + 7 * np.sin(rates[0] * times + phases[0]) + 6 * np.sin(rates[1] * times + phases[1])
    y = 9 + 4 * np.sin(rates[2] * times + phases[2]) + 3 * np.sin(rates[3] * times + phases[3])
    rows, columns = np.mgrid[:18, :32]
    spots = np.exp(-((rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2) / 8)
    pictures: np.ndarray = (PLACE + 120 * spots).astype(np.float32)
    return pictures


@given(st.integers(0, 300), st.floats(2, 6), st.sampled_from(SPEEDS.tolist()))
def test_offset_and_speed_are_found(seed: int, offset: float, speed: float) -> None:
    clip_times, film_times = np.arange(40) / 10, np.arange(200) / 10 + 0.03
    clip, film = record(seed, offset + speed * clip_times), record(seed, film_times)
    tried = offset + speed * 2.0 + np.arange(-1.5, 1.51, 0.05)
    products = multiply_pictures(clip, film, INSIDE, clip_times, film_times)
    found = match_motion(products, SPEEDS, tried, centre_s=2.0)
    known = match_motion(products, np.array([speed]), tried, centre_s=2.0)
    assert found is not None
    assert known is not None
    assert found.speed == speed or found.merit > known.merit, "a slow spot may move as well at another speed"
    assert found.agreement > 0.9
    assert abs(found.speed * 2.0 + found.offset - (offset + speed * 2.0)) <= 0.1


@given(st.integers(0, 300))
def test_another_recording_of_the_place_does_not_agree(seed: int) -> None:
    times = np.arange(60) / 10
    clip, film = record(seed, times[:40]), record(seed + 1000, times)
    products = multiply_pictures(clip, film, INSIDE, times[:40], times)
    found = match_motion(products, np.array([1.0]), np.arange(1, 4.0, 0.1), centre_s=2.0)
    assert found is not None
    assert found.agreement < 0.7
    assert found.num_changes > 8


def test_what_stands_still_has_no_changes_and_a_film_that_is_elsewhere_no_line() -> None:
    times = np.arange(20) / 10
    still = np.repeat(PLACE[None].astype(np.float32), 20, axis=0)
    products = multiply_pictures(still, still, INSIDE, times, times)
    found = match_motion(products, np.array([1.0]), np.array([1.0]), centre_s=1.0)
    assert found is not None
    assert (found.num_changes, found.agreement) == (0, 0.0)
    assert found.likeness == pytest.approx(1, abs=1e-4)
    products = multiply_pictures(record(0, times), record(0, times), INSIDE, times, times)
    assert match_motion(products, np.array([1.0]), np.array([50.0]), centre_s=1.0) is None


def test_changes_and_pictures_are_correlated_as_by_loops() -> None:
    rng = np.random.default_rng(1)
    clip, film = rng.uniform(0, 50, (5, 18, 32)).astype(np.float32), rng.uniform(0, 50, (6, 18, 32)).astype(np.float32)
    inside = rng.random((18, 32)) < 0.7
    products = multiply_pictures(clip, film, inside, np.arange(5.0), np.arange(6.0))
    columns, reached = np.array([[0, 1, 2, 3, 4], [5, 4, 3, 2, 1]]), np.ones((2, 5), bool)
    changes, moves = correlate_changes(products, np.array([0, 1]), np.array([2, 3]), columns)
    assert moves.all()

    def free(picture: np.ndarray) -> np.ndarray:
        values: np.ndarray = picture[inside] - picture[inside].mean()
        return values

    def correlate(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    for line in range(2):
        for pair, (first, second) in enumerate(((0, 2), (1, 3))):
            clip_change = free(clip[second]) - free(clip[first])
            other = free(film[columns[line, second]]) - free(film[columns[line, first]])
            assert changes[line, pair] == pytest.approx(correlate(clip_change, other), abs=1e-3)
        likeness = np.mean([correlate(free(clip[row]), free(film[columns[line, row]])) for row in range(5)])
        assert correlate_pictures(products, columns, reached)[line] == pytest.approx(likeness, abs=1e-3)


def test_times_beyond_a_step_are_not_reached() -> None:
    nearest, reached = find_nearest_times(np.array([1.0, 2.0, 3.0]), np.array([[1.4, 3.9, 4.5]]))
    assert nearest.tolist() == [[0, 2, 2]]
    assert reached.tolist() == [[True, True, False]]
