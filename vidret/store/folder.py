"""The folder of an index: its entries, and the lock of its one writer."""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from vidret.disk import open_handle, read_at, try_lock, unlock, write_at
from vidret.errors import MissingIndexError, StoreError

# The entries of the folder of an index.
CATALOG, FEATURES, VECTORS, LOCK = "catalog.sqlite", "features", "vectors", "writer.lock"
TEXTS = "words"  # an index of its texts
MILVUS_FILE = "vectors.milvus.db"  # a folder in which Milvus has its own files
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # a Path drops one of two slashes


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of an index folder.

    Raises:
        StoreError: The path is a file, or a URL: SQLite and memory-mapped files need a file system.
    """
    folder = Path(path)
    if ADDRESS.match(str(folder)) and not Path(folder.parts[0]).exists():
        url = ADDRESS.sub(lambda match: match[0].rstrip("/") + "//", str(folder), count=1)
        raise StoreError(f"index must be a folder of a file system, got {url}")
    if os.path.isfile(folder):  # noqa: PTH113  never raises, not even for names that are too long
        raise StoreError(f"index must be a folder, got the file {folder}")
    return folder


def check_entries(folder: Path, *, deep: bool = True) -> None:
    """Check that a folder holds only files and folders, before any of them is written or deleted.

    A foreign index could otherwise lead out of its folder by a link, or block forever by a pipe. ``deep`` includes
    subfolders, such as that of many thousands of thumbnails.

    Raises:
        StoreError: The folder holds something else, or cannot be read.
    """
    absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with absent, explain_refusal(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if deep and entry.name != MILVUS_FILE:
                    check_entries(Path(entry))
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry):
                kind = "a link" if entry.is_symlink() else "a special file"
                raise StoreError(f"{entry.path}: must be a file or a folder of the index itself, got {kind}")


def read_place(folder: Path) -> tuple[int, int]:
    """Return the device and inode of a folder's catalog; those of a replacement differ while the first one is open.

    Raises:
        StoreError: The folder has no catalog, or it cannot be read.
    """
    try:
        with explain_refusal(folder):
            status = (folder / CATALOG).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingIndexError(folder) from error
    return status.st_dev, status.st_ino


def check_place(folder: Path, place: tuple[int, int]) -> None:
    """Check that the catalog in a folder is still the one of ``read_place``.

    Raises:
        StoreError: It is another one, or there is none.
    """
    if read_place(folder) != place:
        raise StoreError(f"{folder}: another index has taken its place")


@contextlib.contextmanager
def explain_refusal(path: Path) -> Iterator[None]:
    """Convert errors of reading an existing path to ``StoreError``: no permission, or a lost disk."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error


_CONTENT = re.compile(rb"(\d+\n)?")


def _lock(path: Path, handle: int) -> None:
    """Lock an open file, and write the process id of the holder to it."""
    is_locked, content = try_lock(handle), read_at(handle, 32, 0)
    if not is_locked:
        holder = content.decode("ascii", "replace").strip() or "unknown"
        raise StoreError(f"{path.parent}: process {holder} is writing this index; wait for it to end")
    if not _CONTENT.fullmatch(content):  # by a hard link it could be any file
        raise StoreError(f"{path}: must hold only a process id, as the lock of an index does")
    os.ftruncate(handle, 0)
    write_at(handle, f"{os.getpid()}\n".encode(), 0)


class WriteAccess:
    """The permission to change an index: the lock of its one writer; none for a reader.

    The file of the lock contains the process id of the holder. As a context manager it also excludes other threads.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        """Acquire the lock if the index is to be changed, without waiting.

        Raises:
            StoreError: Another process, or another ``Store`` of this process, is writing, or the file is not a lock.
        """
        self._folder, self._thread_lock = folder, threading.Lock()
        self._handle = self._acquire(folder / LOCK) if write else None

    def _acquire(self, path: Path) -> int:
        try:
            handle = open_handle(path, write=True)
            self._close = weakref.finalize(self, os.close, handle)  # releases the lock of an abandoned writer
            try:
                _lock(path, handle)
            except BaseException:
                self._close()
                raise
        except OSError as error:  # such as on a full disk
            raise StoreError(f"{path.parent}: cannot be written ({error.strerror})") from error
        # A forked child shares the lock, and would keep the index locked if it outlived a killed parent.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)
        return handle

    @property
    def is_writer(self) -> bool:
        """Whether the index was opened for writing and is still open."""
        return self._handle is not None

    def check(self) -> None:
        """Check that the index may be changed.

        Raises:
            StoreError: The index was opened for reading, or was closed.
        """
        if not self.is_writer:
            raise StoreError(f"{self._folder}: opened for reading, cannot be changed")

    def __enter__(self) -> None:
        self.check()
        self._thread_lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._thread_lock.release()

    def release(self) -> None:
        """Release the lock. The file stays: removing it would allow two writers to lock different files."""
        if self._handle is not None and self._close.alive:
            unlock(self._handle)
            self._close()
        self._handle = None
