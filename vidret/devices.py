"""Device names, shared by encoders, the grounding head, decoding, FAISS, Ray and training; and the threads of NumPy.

A device's full name is ``cpu``, ``cuda:N``, ``xpu:N`` or ``mps``. Encoders and the grounding head support all four,
training all but ``xpu``; decoding and FAISS support ``cpu`` and ``cuda`` only.
"""

import glob
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product

from vidret.errors import DeviceError

_log = logging.getLogger(__name__)

AUTO, CPU = "auto", "cpu"
ACCELERATORS = ("cuda", "xpu", "mps")
# Device files of NVIDIA, AMD, Intel and others, and of the Windows Subsystem for Linux.
DEVICE_FILES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri/render*", "/dev/accel*", "/dev/davinci*", "/dev/dxg")


def choose_device(name: str = AUTO) -> str:
    """Return a device's full name; ``auto`` selects the accelerator that PyTorch finds, else the CPU.

    Raise DeviceError if the name is not a device name, or this machine has no such device.
    """
    kind, device_index = parse_device(name)
    if name == CPU or (kind == AUTO and not may_have_accelerator()):
        return CPU
    import torch  # imported late: decoding processes and searches on a CPU do not need it, and must start fast

    if kind == AUTO:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        kind = CPU if accelerator is None else accelerator.type
        if kind not in (CPU, *ACCELERATORS):
            _log.warning("the CPU is used: PyTorch finds %s, and vidret knows %s only", kind, ", ".join(ACCELERATORS))
            kind = CPU
    count = 1 if kind == CPU else torch.get_device_module(kind).device_count()
    if device_index >= count:
        raise DeviceError(f"device must exist, got {name} on a machine with {count} {kind.upper()} devices")
    return kind if kind in (CPU, "mps") else f"{kind}:{device_index}"


def choose_devices(names: str) -> list[str]:
    """Return the full names of comma-separated devices.

    Raise DeviceError if this machine lacks one of them, or they are of different kinds.
    """
    devices = [choose_device(name) for name in str(names).split(",")]
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise DeviceError(f"devices must be of one kind, got {names}")
    return devices


def may_have_accelerator() -> bool:
    """Return whether this machine may have an accelerator, so that PyTorch must be imported to find out.

    The import takes longer than a search. Linux has no accelerator without one of their device files.
    """
    return "torch" in sys.modules or not sys.platform.startswith("linux") or any(map(glob.glob, DEVICE_FILES))


def parse_device(name: str) -> tuple[str, int]:
    """Return the kind and the number in a device name; the device need not exist.

    >>> parse_device("cuda:1"), parse_device("auto")
    (('cuda', 1), ('auto', 0))

    Raises:
        DeviceError: It is not a device name.
    """
    kind, colon, digits = str(name).partition(":")
    if name != AUTO and (kind not in (CPU, *ACCELERATORS) or (colon and not (digits.isascii() and digits.isdecimal()))):
        raise DeviceError(f"device must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps, got {name}")
    return kind, int(digits or 0)


def cuda_index(device: str) -> int | None:
    """Return N for ``cuda:N``, 0 for ``cuda``, None for other devices, with which decoding and FAISS use the CPU."""
    kind, _, digits = device.partition(":")
    return int(digits or 0) if kind == "cuda" else None


@lru_cache(maxsize=1)
def _find_blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return the functions that read and set OpenBLAS's number of threads; None if NumPy uses another BLAS."""
    import ctypes

    import numpy as np

    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # and its linked libraries
    for prefix, suffix in product(("scipy_openblas", "openblas"), ("64_", "")):
        if hasattr(library, f"{prefix}_set_num_threads{suffix}"):
            tell, change = (getattr(library, f"{prefix}_{verb}_num_threads{suffix}") for verb in ("get", "set"))
            return tell, change
    return None


def set_blas_threads(num_threads: int) -> int:
    """Set OpenBLAS's number of threads; return the previous number, or ``num_threads`` if NumPy uses another BLAS."""
    blas = _find_blas()
    if blas is None:
        return num_threads
    tell, change = blas
    before = int(tell())
    change(num_threads)
    return before


_blas_turn, _blas_threads = threading.Lock(), list[int]()  # the number before, once per nested or concurrent block


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy compute on the calling thread only, until the last of concurrent blocks has ended.

    OpenBLAS splits even the product of a matrix and a vector over all cores, whose threads then spin while they wait: a
    search used two cores without being faster, and concurrent searches slowed each other down.
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
