"""The threads of the library that multiplies NumPy's matrices."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product


@lru_cache(maxsize=1)
def _find_blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return what tells and what sets the threads of NumPy's OpenBLAS; None if it has another library."""
    import ctypes

    import numpy as np

    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # and what it is linked to
    for prefix, suffix in product(("scipy_openblas", "openblas"), ("64_", "")):
        if hasattr(library, f"{prefix}_set_num_threads{suffix}"):
            tell, change = (getattr(library, f"{prefix}_{verb}_num_threads{suffix}") for verb in ("get", "set"))
            return tell, change
    return None


def set_blas_threads(num_threads: int) -> int:
    """Set how many threads NumPy's OpenBLAS starts; return the number before, or the same if it has another library."""
    blas = _find_blas()
    if blas is None:
        return num_threads
    tell, change = blas
    before = int(tell())
    change(num_threads)
    return before


_blas_turn, _blas_threads = threading.Lock(), list[int]()  # the number before, once for each one inside


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy compute on the thread that asks it, until the last one inside has left.

    OpenBLAS hands even the product of a matrix and a vector to a thread for each core, which then waits for more by
    spinning: a search took the time of two cores, no less on the clock, and searches side by side hindered each other.
    """
    with _blas_turn:
        _blas_threads.append(_blas_threads[0] if _blas_threads else set_blas_threads(1))
    try:
        yield
    finally:
        with _blas_turn:
            before = _blas_threads.pop()
            if not _blas_threads:
                set_blas_threads(before)
