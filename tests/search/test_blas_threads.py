"""Who may set the threads of NumPy, and for how long."""

from contextlib import ExitStack

import pytest

from vidret.search.blas_threads import one_blas_thread, set_blas_threads


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
