"""Runs of frames above a threshold: the steps of PE-A-Frame, a naive twin, and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.channels.sounds.spans import IndexSpan, find_runs

SCORES = st.lists(st.sampled_from([0.0, 0.2, 0.3, 0.31, 0.9]), max_size=40).map(np.array)


def find_runs_naively(scores: np.ndarray, threshold: float, gap: float, length: float) -> list[IndexSpan]:
    heard = [index for index, score in enumerate(scores) if score > threshold]
    runs: list[list[int]] = []
    for index in heard:
        if (runs and index - runs[-1][-1] - 1 < gap) or (runs and index == runs[-1][-1] + 1):
            runs[-1].append(index)
        else:
            runs.append([index])
    return [(run[0], run[-1] + 1) for run in runs if run[-1] + 1 - run[0] >= length]


@given(SCORES, st.integers(0, 4), st.integers(0, 4))
def test_runs_are_those_of_a_loop(scores: np.ndarray, gap: int, length: int) -> None:
    found = find_runs(scores, threshold=0.3, close_gaps=gap, min_length=length)
    assert found == find_runs_naively(scores, 0.3, gap, length)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.3, 0.3], []),  # strictly greater
        ([0.0, 0.4, 0.4, 0.4, 0.0], [(1, 4)]),
        ([0.4, 0.4, 0.4, 0, 0, 0, 0, 0.4, 0.4, 0.4], [(0, 10)]),  # a gap of 0.16 s is closed
        ([0.4, 0.4, 0.4, 0, 0, 0, 0, 0, 0.4, 0.4, 0.4], [(0, 3), (8, 11)]),  # one of 0.2 s is not
        ([0, 0.4, 0.4, 0, 0, 0, 0, 0, 0], []),  # 0.08 s
        ([0, 0.4, 0.4, 0.4, 0, 0, 0, 0, 0], [(1, 4)]),  # 0.12 s
    ],
)
def test_spans_of_a_row_of_25_frames_per_second(scores: list[float], expected: list[IndexSpan]) -> None:
    assert find_runs(np.array(scores, float), threshold=0.3, close_gaps=0.2 / 0.04, min_length=0.1 / 0.04) == expected
