"""Many files in processes of their own: in order, with their own errors, and with names when a process dies."""

import os
import signal

import pytest

from vidret.data.workers import do_each
from vidret.errors import VidretError


def square(number: int) -> int:
    return number * number


def stumble(number: int) -> int:
    if number == 3:
        raise VidretError("three is too many")
    return number


def break_up(number: int) -> int:
    return 1 // number


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_order(num_workers: int) -> None:
    assert list(do_each(square, range(20), num_workers)) == [number * number for number in range(20)]
    assert list(do_each(square, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_arrives_as_what_it_is(num_workers: int) -> None:
    with pytest.raises(VidretError, match="three is too many"):
        list(do_each(stumble, range(5), num_workers))
    with pytest.raises(ZeroDivisionError):
        list(do_each(break_up, [0], num_workers))


def test_a_process_that_dies_is_told_with_what_it_may_have_died_of() -> None:
    with pytest.raises(VidretError, match=r"^a reading process died at one of these: [012, ]*2\b"):
        list(do_each(die, range(9), 1))
