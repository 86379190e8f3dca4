"""Tests of the alignment of faces: a least-squares twin, properties, and images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

from vidret.channels.people.faces import align, fit_similarity, measure_misfit, measure_outside, measure_sharpness

TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
FACE = np.array([(100.0, 80.0), (140.0, 90.0), (117.0, 105.0), (95.0, 120.0), (128.0, 128.0)])
LINE = np.array([(float(x), 2.0 * x) for x in range(5)])
POINTS = st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=5, max_size=5, unique=True).filter(
    lambda points: np.ptp(points, axis=0).max() > 1
)


def solve(source: Float[np.ndarray, "point 2"], target: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "2 3"]:
    """Return the similarity as four unknowns of linear equations, one a coordinate."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        values += [u, v]
    (a, b, c, d), *_ = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)
    return np.array([(a, -b, c), (b, a, d)])


@pytest.mark.parametrize(
    ("source", "expected"),  # of _umeyama in scikit-image 0.26
    [
        (FACE, [[0.916638, 0.216581, -72.958272], [-0.216581, 0.916638, 1.143788]]),
        (FACE * np.array((-1, 1)), [[0.132646, -0.016834, 73.174006], [0.016834, 0.132646, 59.978721]]),
        (LINE, [[5.53295, -1.12207, 49.44854], [1.12207, 5.53295, 47.52484]]),
    ],
)
def test_matrix_is_that_of_umeyama(source: Float[np.ndarray, "point 2"], expected: list[list[float]]) -> None:
    np.testing.assert_allclose(fit_similarity(source, TEMPLATE), expected, atol=1e-5)
    np.testing.assert_allclose(fit_similarity(source, TEMPLATE), solve(source, TEMPLATE), atol=1e-6)


@given(source=POINTS, target=POINTS)
def test_no_other_similarity_is_closer(source: list[tuple[float, float]], target: list[tuple[float, float]]) -> None:
    first, second = np.array(source), np.array(target)

    def measure(matrix: Float[np.ndarray, "2 3"]) -> float:
        return float(((first @ matrix[:, :2].T + matrix[:, 2] - second) ** 2).sum())

    assert measure(fit_similarity(first, second)) <= measure(solve(first, second)) * (1 + 1e-6) + 1e-6


def test_mirrored_points_are_turned_and_a_single_point_is_refused() -> None:
    assert np.linalg.det(fit_similarity(FACE * np.array((-1, 1)), FACE)[:, :2]) > 0
    with pytest.raises(ValueError, match="different"):
        fit_similarity(np.ones((5, 2)), FACE)


def test_faces_are_cut_out() -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 130, 3), dtype=np.uint8)
    chip = align(image, TEMPLATE + np.array((9, 4)), TEMPLATE, 112)
    np.testing.assert_allclose(chip, image[4:116, 9:121].astype(int), atol=1, err_msg="a face in place stays as it is")
    chip = align(np.full((100, 100, 3), 200, np.uint8), TEMPLATE - np.array((30, 0)), TEMPLATE, 112)
    assert not chip[:, :28].any(), "what is outside the image is black"
    assert (chip[:98, 32:] == 200).all()
    image = np.tile(np.array([[0, 255], [255, 0]], np.uint8)[..., None], (112, 112, 3))
    chip = align(image, TEMPLATE * 2 + 0.5, TEMPLATE, 112)
    assert np.abs(chip.astype(int) - 127).max() <= 2, "a large face is averaged"


@pytest.mark.parametrize(("shift", "share"), [((9, 4), 0), ((-28, 0), 0.25), ((28, 28), 1 - 0.75**2), ((500, 0), 1)])
def test_share_outside_is_that_of_the_aligned_image(shift: tuple[int, int], share: float) -> None:
    assert measure_outside(TEMPLATE + shift, TEMPLATE, 112, (122, 122)) == pytest.approx(share, abs=0.1)
    assert measure_outside(TEMPLATE * 3 + shift, TEMPLATE, 112, (500, 500)) == pytest.approx(
        share * (share == 1), abs=0.1
    )


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    chip = np.random.default_rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    grey, values = chip.astype(float).mean(axis=2), []
    for row in range(1, 8):
        for column in range(1, 8):
            around = grey[row - 1, column] + grey[row + 1, column] + grey[row, column - 1] + grey[row, column + 1]
            values.append(around - 4 * grey[row, column])
    assert measure_sharpness(chip) == pytest.approx(np.var(values))
    assert measure_sharpness(np.full((9, 9, 3), 7, np.uint8)) == 0


@given(scale=st.floats(0.2, 5), angle=st.floats(-3, 3), shift=st.floats(-50, 50))
def test_a_face_fits_as_well_wherever_it_is(scale: float, angle: float, shift: float) -> None:
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    assert measure_misfit(TEMPLATE @ turn.T + shift, TEMPLATE) == pytest.approx(0, abs=1e-6)
    moved = TEMPLATE + np.array([(0, 0), (0, 0), (12, 0), (0, 0), (0, 0)])  # the nose of a face in profile
    assert measure_misfit(moved @ turn.T + shift, TEMPLATE) == pytest.approx(measure_misfit(moved, TEMPLATE), abs=1e-6)
    assert 2 < measure_misfit(moved, TEMPLATE) < 12 / np.sqrt(5)
