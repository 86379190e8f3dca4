"""One writer per index: a file lock that the kernel releases, however the process ends."""

import fcntl
import os
import weakref
from pathlib import Path

from vidret.errors import StoreError


class WriterLock:
    """Hold ``path`` locked until ``release``; the file names the process that holds it."""

    def __init__(self, path: Path) -> None:
        """Take the lock at once.

        Raises:
            StoreError: another process (or another Store of this one) is writing.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{path.parent}: cannot be written ({error.strerror})") from error
        self._handle = handle
        self._close = weakref.finalize(self, os.close, handle)  # an abandoned writer locks nobody out
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self._close()
            raise StoreError(f"{path.parent}: process {holder} is writing this index; wait for it to end") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        # A forked child shares the lock: were the parent killed, a surviving child would keep the index locked.
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Let the next writer in; the file stays, since removing it would let two writers lock two files."""
        if self._close.alive:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # also for forked children that still hold a copy
            self._close()
