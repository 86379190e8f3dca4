"""Who may set the threads of NumPy and of PyTorch, and for how long."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

import pytest
import torch

from vidret.encode.blas_threads import one_blas_thread, set_blas_threads
from vidret.search.heads.base import one_torch_thread


def test_numpy_gets_its_threads_back_when_the_last_query_has_ended() -> None:
    def count() -> int:
        number = set_blas_threads(1)
        set_blas_threads(number)
        return number

    before = set_blas_threads(2)
    if count() != 2:
        pytest.skip("NumPy has no OpenBLAS here")
    try:
        with ExitStack() as second:
            with one_blas_thread():
                second.enter_context(one_blas_thread())
                assert count() == 1
            assert count() == 1
        assert count() == 2
    finally:
        set_blas_threads(before)


def test_torch_gets_its_threads_back_on_each_thread_that_asked_a_head() -> None:
    """One that comes first while another asks must not take the single thread of that one for its own number."""
    before, meeting = torch.get_num_threads(), Barrier(2, timeout=30)

    def ask(is_first: bool) -> list[int]:
        if not is_first:
            meeting.wait()
        with one_torch_thread():
            numbers = [torch.get_num_threads()]
            if is_first:
                meeting.wait()
            meeting.wait()
            if not is_first:
                meeting.wait()
        if is_first:
            meeting.wait()
        return [*numbers, torch.get_num_threads()]

    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(ask, (True, False))) == [[1, 3]] * 2
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
