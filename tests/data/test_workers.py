"""Ordered map in worker processes: results, errors, and dead workers."""

import os
import signal

import pytest

from vidret.data.cache.frames import map_in_workers
from vidret.errors import VidretError


def square(number: int) -> int:
    return number * number


def fail_at_3(number: int) -> int:
    if number == 3:
        raise VidretError("three is too many")
    return number


def divide_one_by(number: int) -> int:
    return 1 // number


def kill_at_2(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_are_in_order(num_workers: int) -> None:
    assert list(map_in_workers(square, range(20), num_workers)) == [number * number for number in range(20)]
    assert list(map_in_workers(square, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_keep_their_type(num_workers: int) -> None:
    with pytest.raises(VidretError, match="three is too many"):
        list(map_in_workers(fail_at_3, range(5), num_workers))
    with pytest.raises(ZeroDivisionError):
        list(map_in_workers(divide_one_by, [0], num_workers))


def test_dead_worker_is_reported_with_pending_items() -> None:
    with pytest.raises(VidretError, match=r"^a worker process died while reading one of these: [012, ]*2\b"):
        list(map_in_workers(kill_at_2, range(9), 1))
