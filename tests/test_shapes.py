"""Tests of the check of shapes: it refuses wrong arrays, and leaves alone what has none."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32, TypeCheckError

from tests.shapes import EVERY, is_shaped
from vidret.align.hubness import sk_norm
from vidret.channels.picture.ranker_loading import check_ranker
from vidret.types import Frames

Rows = Float32[np.ndarray, "row dim"]


class Shaped:
    def method(self, rows: Rows) -> None: ...

    @classmethod
    def of(cls, rows: list[Rows]) -> None: ...

    @property
    def rows(self) -> Rows | None: ...


class Plain:
    def method(self, rows: int) -> None: ...

    @classmethod
    def of(cls, rows: list[str]) -> None: ...

    @property
    def rows(self) -> float | None: ...


@dataclass
class ShapedFields:
    rows: Rows


@dataclass
class PlainFields:
    rows: int


def test_shapes_are_found_wherever_a_signature_has_them() -> None:
    for kind, expected in ((Shaped, True), (Plain, False)):
        for name in ("method", "of", "rows"):
            assert is_shaped(vars(kind)[name]) is expected, name
        assert not is_shaped(kind), "the methods of a class are looked at one by one"
    assert is_shaped(ShapedFields)
    assert not is_shaped(PlainFields)


def test_wrong_shapes_and_types_are_refused() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeCheckError):
        sk_norm(wrong)
    with pytest.raises(TypeCheckError):
        Frames(wrong, np.zeros(2))


def test_some_calls_are_checked_and_the_first_ones_of_each_test() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    refused = []
    for number in range(1, 3 * EVERY + 1):
        try:
            Frames(wrong, np.zeros(2))
        except TypeCheckError:
            refused.append(number)
    assert refused == [*range(1, EVERY + 1), 2 * EVERY, 3 * EVERY]


@pytest.mark.wrong_shapes
def test_mark_turns_the_check_off() -> None:
    wrong: Any = np.zeros((2, 3), np.float32)
    assert Frames(wrong, np.zeros(2)).pixels is wrong


def test_what_has_no_shape_is_not_slowed_down() -> None:
    assert not hasattr(check_ranker, "__wrapped__")
    assert hasattr(sk_norm, "__wrapped__")
