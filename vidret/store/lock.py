"""The writer lock of an index: a file lock, which the kernel releases when the process ends."""

import os
import re
import threading
import weakref
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.os_calls import open_handle, read_at, try_lock, unlock, write_at

_CONTENT = re.compile(rb"(\d+\n)?")


class WriterLock:
    """A lock on the file ``path``, which contains the process id of the holder."""

    def __init__(self, path: Path) -> None:
        """Acquire the lock without waiting.

        Raises:
            StoreError: Another process, or another ``Store`` of this process, is writing, or the file is no lock.
        """
        try:
            handle = open_handle(path, write=True)
        except OSError as error:
            raise StoreError(f"{path.parent}: cannot be written ({error.strerror})") from error
        self._handle = handle
        self._close = weakref.finalize(self, os.close, handle)  # releases the lock of an abandoned writer
        if not try_lock(handle):
            holder = read_at(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self._close()
            raise StoreError(f"{path.parent}: process {holder} is writing this index; wait for it to end")
        if not _CONTENT.fullmatch(read_at(handle, 32, 0)):  # a hard link could make it anything
            self._close()
            raise StoreError(f"{path}: must hold a process id alone, as the lock of an index does")
        os.ftruncate(handle, 0)
        write_at(handle, f"{os.getpid()}\n".encode(), 0)
        # A forked child shares the lock: if the parent were killed, a surviving child would keep the index locked.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Release the lock. The file stays: removing it would allow two writers to lock different files."""
        if self._close.alive:
            unlock(self._handle)
            self._close()


class WriteAccess:
    """The permission to change an index, if it was opened for writing.

    As a context manager it also excludes other threads.
    """

    def __init__(self, folder: Path, lock: WriterLock | None) -> None:
        """Grant access if there is a lock."""
        self._folder, self._lock = folder, lock
        self._thread_lock = threading.Lock()

    def check(self) -> None:
        """Check that the index was opened for writing and is still open.

        Raises:
            StoreError: It was opened for reading, or was closed.
        """
        if self._lock is None:
            raise StoreError(f"{self._folder}: opened for reading, cannot be changed")

    def __enter__(self) -> None:
        self.check()
        self._thread_lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._thread_lock.release()

    def release(self) -> None:
        """Release the writer lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
