"""Memory that a decoding process shares with its parent: frames pass through it without a copy, in slots.

The first bytes say which slots are in use. The process takes a free slot, and the parent frees it once nobody holds its
frames. The memory has no name, so that it is gone with both. Where all slots are in use, or frames fill more than one,
they go through the pipe.
"""

import contextlib
import mmap
import os
import weakref
from typing import Self

import numpy as np
from jaxtyping import UInt8

_NUM_SLOTS = 3  # of frames that are encoded, that wait, and that are written
_SLOT_BYTES = 8 << 20  # untouched memory costs nothing


class FrameRing:
    """One end of the shared memory."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory of a descriptor, and close that."""
        memory = mmap.mmap(descriptor, mmap.PAGESIZE + _NUM_SLOTS * _SLOT_BYTES)
        os.close(descriptor)
        self._in_use: UInt8[np.ndarray, " slot"] = np.frombuffer(memory, np.uint8, _NUM_SLOTS)
        self._memory = memory

    @classmethod
    def create(cls) -> tuple[Self, int] | None:
        """Return a new ring and a descriptor for the process, to be closed here; None where there is no such memory."""
        with contextlib.suppress(AttributeError, OSError):
            descriptor = os.memfd_create("frames")
            os.ftruncate(descriptor, mmap.PAGESIZE + _NUM_SLOTS * _SLOT_BYTES)
            return cls(os.dup(descriptor)), descriptor
        return None

    def put(self, pixels: UInt8[np.ndarray, "..."]) -> int | None:
        """Copy pixels into a free slot and return which; None if there is none."""
        free = np.flatnonzero(self._in_use == 0)
        if len(free) == 0 or pixels.nbytes > _SLOT_BYTES:
            return None
        slot = int(free[0])
        self._view(slot, pixels.nbytes).reshape(pixels.shape)[...] = pixels
        self._in_use[slot] = 1
        return slot

    def take(self, slot: int, num_bytes: int) -> memoryview:
        """Return the content of a slot, which is free again once nobody holds that or what was made of it.

        Raises:
            ValueError: There is no such slot, or it is smaller.
        """
        if not (0 <= slot < _NUM_SLOTS and 0 <= num_bytes <= _SLOT_BYTES):
            raise ValueError(f"slot must be in 0..{_NUM_SLOTS - 1} and hold at most {_SLOT_BYTES} bytes, got {slot}")
        view = self._view(slot, num_bytes)
        weakref.finalize(view, self._in_use.__setitem__, slot, 0)
        return view.data

    def _view(self, slot: int, num_bytes: int) -> UInt8[np.ndarray, " byte"]:
        view: UInt8[np.ndarray, " byte"] = np.frombuffer(
            self._memory, np.uint8, num_bytes, offset=mmap.PAGESIZE + slot * _SLOT_BYTES
        )
        return view
