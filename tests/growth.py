"""How the time of a function grows with the length of a hostile text."""

import time
from collections.abc import Callable

SHORT, LONG = 4_000, 16_000  # characters
NOISE_S = 0.05  # quadratic time exceeds it at the longer length


def assert_linear(read: Callable[[str], object], make: Callable[[int], str]) -> None:
    """Fail if reading a text four times as long takes much more than four times as long."""
    short, long = (_measure(read, make(length)) for length in (SHORT, LONG))
    assert long < max(NOISE_S, 10 * short), f"{SHORT} characters take {short:.4f} s, {LONG} take {long:.4f} s"


def _measure(read: Callable[[str], object], text: str) -> float:
    """Return the least processor time of three runs in seconds."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        read(text)
        times.append(time.thread_time() - start)
        if times[-1] > 1:
            break
    return min(times)
