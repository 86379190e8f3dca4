"""Tests of the check of shapes: it refuses wrong arrays, and leaves alone what has none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32, TypeCheckError

from tests.shapes import EVERY, check_once, is_shaped
from vidret.align.hubness import sk_norm
from vidret.channels.picture.ranker_loading import check_ranker
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.types import Frames

Rows = Float32[np.ndarray, "row dim"]


def test_wrong_shapes_and_types_are_refused() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeCheckError):
        sk_norm(wrong)
    with pytest.raises(TypeCheckError):
        Frames(wrong, np.zeros(2))


def same_dim(rows: Rows, *, like: Rows | None = None) -> Rows:
    return rows if like is None else like


def first(rows: Rows, k: int = 1) -> 'list[Float32[np.ndarray, "row {k}"]]':
    return [rows]


def each(rows: Rows) -> Iterator[Float32[np.ndarray, " dim"]]:
    yield from rows


def test_a_call_is_checked_in_one_pass_where_axes_are_not_computed() -> None:
    rows: Any = np.zeros((2, 3), np.float32)
    checked = check_once(same_dim)
    for _ in range(2):
        assert checked(rows) is checked(rows, like=rows) is checked(rows=rows, like=rows) is rows
    assert checked.__annotations__ == same_dim.__annotations__
    assert same_dim.__annotations__["like"] == Rows | None
    for like in (rows[:, :2], rows[:1], rows.astype(np.float64), rows.ravel(), 1):
        with pytest.raises(TypeCheckError):
            checked(rows, like=like)
        with pytest.raises(TypeCheckError):
            checked(rows=like.tolist() if isinstance(like, np.ndarray) else like)


@pytest.mark.parametrize("kind", [Rows, list[Rows]])
def test_results_are_checked_with_the_arguments(kind: Any) -> None:
    rows: Any = np.zeros((2, 3), np.float32)
    results = [rows, rows[:, :2], rows[:1], 1, rows]

    def function(rows: Any) -> Any:
        return results.pop(0) if kind is Rows else [results.pop(0)]

    function.__annotations__ = {"rows": Rows, "return": kind}
    checked = check_once(function)
    checked(rows)
    for _ in range(3):
        with pytest.raises(TypeCheckError):
            checked(rows)
    checked(rows)


@pytest.mark.parametrize("function", [first, each])
def test_computed_axes_and_generators_are_left_to_jaxtyping(function: Any) -> None:
    assert check_once(function) is None


def test_some_calls_are_checked_and_the_first_ones_of_each_test() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    refused = []
    for call_index in range(1, 3 * EVERY + 1):
        try:
            Frames(wrong, np.zeros(2))
        except TypeCheckError:
            refused.append(call_index)
    assert refused == [*range(1, EVERY + 1), 2 * EVERY, 3 * EVERY]


@pytest.mark.wrong_shapes
def test_mark_turns_the_check_off() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    assert Frames(wrong, np.zeros(2)).pixels is wrong


def test_what_has_no_shape_is_not_slowed_down() -> None:
    assert not hasattr(check_ranker, "__wrapped__")
    assert hasattr(sk_norm, "__wrapped__")
    assert not is_shaped(VidretError)
    assert is_shaped(vars(Engine)["index_frames"])
    assert is_shaped(Frames)
