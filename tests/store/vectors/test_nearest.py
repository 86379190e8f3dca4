"""Nearest rows: exact for few, nearly so for many."""

import numpy as np
import pytest

from vidret.store.vectors import flat
from vidret.store.vectors.flat import find_nearest_rows


def make_rows(num: int, dim: int = 16) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((num, dim)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def test_few_rows_are_searched_exactly() -> None:
    rows = make_rows(50)
    found = find_nearest_rows(rows, 5)
    expected = np.argsort(-(rows @ rows.T), axis=1)[:, :5]
    assert found.ids.tolist() == expected.tolist()
    assert found.scores == pytest.approx(np.take_along_axis(rows @ rows.T, expected, axis=1), abs=1e-5)
    assert find_nearest_rows(rows[:3], 9).ids.shape == (3, 3)


def test_many_rows_are_searched_in_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(2000)
    exact = find_nearest_rows(rows, 3)
    monkeypatch.setattr(flat, "EXACT_UP_TO", 1000)
    found = find_nearest_rows(rows, 3)
    assert (found.ids[:, 0] == np.arange(2000)).all()
    assert np.mean(found.ids == exact.ids) > 0.6
