"""Distances between small grey pictures, against loops over their pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidret.video.grey import GREY_SHAPE
from vidret.video.shots.envelopes import (
    NEAR,
    GreyFrame,
    GreyFrames,
    correlate,
    envelope_distance,
    leave_envelopes,
    measure_residual,
    measure_share,
)

Picture = NDArray[np.uint8]
ROWS, COLUMNS = GREY_SHAPE


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, *GREY_SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def frames(pictures: NDArray[np.uint8]) -> list[GreyFrame]:
    made = GreyFrames()
    return made.make(pictures[:2], [0.0, 1.0]) + made.make(pictures[2:], [2.0, 3.0, 4.0, 5.0, 6.0])


def find_envelope(picture: Picture, row: int, column: int) -> tuple[int, int]:
    """Return the minimum and the maximum of a pixel's neighbourhood."""
    around = picture[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    return int(around.min()), int(around.max())


def leave(one: Picture, other: Picture) -> NDArray[np.int64]:
    """Return by how much a picture leaves the envelope of another, pixel by pixel."""
    left = np.zeros(GREY_SHAPE, np.int64)
    for row in range(ROWS):
        for column in range(COLUMNS):
            low, high = find_envelope(other, row, column)
            pixel = int(one[row, column])
            left[row, column] = max(pixel - high, 0) + max(low - pixel, 0)
    return left


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (0, 6), (3, 3)])
def test_distances_are_those_of_the_definition(
    pictures: NDArray[np.uint8], frames: list[GreyFrame], one: int, other: int
) -> None:
    both = leave(pictures[one], pictures[other]) + leave(pictures[other], pictures[one])
    assert np.array_equal(leave_envelopes(frames[one], frames[other]), both)
    assert envelope_distance(frames[one], frames[other]) == pytest.approx(both.mean() / 2)
    widths = [find_envelope(pictures[one], row, column) for row in range(ROWS) for column in range(COLUMNS)]
    assert frames[one].texture == pytest.approx(np.mean([high - low for low, high in widths]))


def test_a_batch_knows_what_two_frames_give(pictures: NDArray[np.uint8], frames: list[GreyFrame]) -> None:
    for index, frame in enumerate(frames):
        assert np.allclose(frame.cells.reshape(6, 8)[2, 3], pictures[index, 12:18, 24:32].mean())
        if index > 0:
            assert frame.step == envelope_distance(frames[index - 1], frame)
            difference = np.abs(pictures[index].astype(int) - pictures[index - 1])
            assert frame.difference == pytest.approx(difference.mean())
        if index >= NEAR:
            assert frame.near_distance == envelope_distance(frames[index - NEAR], frame)
            difference = np.abs(pictures[index].astype(int) - pictures[index - NEAR])
            assert frame.near_difference == pytest.approx(difference.mean())


def test_correlation_is_that_of_numpy(pictures: NDArray[np.uint8], frames: list[GreyFrame]) -> None:
    expected = np.corrcoef(pictures[0].ravel(), pictures[5].ravel())[0, 1]
    assert correlate(frames[0], frames[5]) == pytest.approx(expected)
    flat, black = GreyFrames().make(np.stack([np.full(GREY_SHAPE, 7, np.uint8), pictures[0]]), [0.0, 1.0])
    assert correlate(flat, black) == 0.0


def test_a_mixture_is_known_by_its_share(pictures: NDArray[np.uint8]) -> None:
    start, end = pictures[0].astype(float), pictures[1].astype(float)
    middle = np.rint(0.7 * start + 0.3 * end).astype(np.uint8)
    one, between, other = GreyFrames().make(np.stack([pictures[0], middle, pictures[1]]), [0.0, 1.0, 2.0])
    assert measure_share(one, between, other) == pytest.approx(0.3, abs=0.01)
    assert measure_residual(one, between, other, measure_share(one, between, other)) < 0.02
    assert measure_residual(one, other, other, 0.0) == pytest.approx(1.0)
