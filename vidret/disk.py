"""Files on disk: calls that differ between systems, locks, atomic replacement of files, and limits of caches."""

import contextlib
import logging
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vidret.errors import StoreError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

DRAFT = ".part"  # the suffix of an incomplete file
_WAIT_S = 0.1
_MOVE_S = 10.0
_LOCKED_BYTE = 1 << 30  # beyond the end of any file, since Windows blocks reads of locked bytes


def find_user_folder(variable: str, default: str) -> Path:
    """Return the folder in an environment variable, or a default such as ``~/.cache``.

    Raises:
        StoreError: Neither the variable nor the home folder is set.
    """
    folder = os.environ.get(variable) or os.path.expanduser(default)  # noqa: PTH111  that of Path fails without a home
    if folder.startswith("~"):
        raise StoreError(f"HOME or {variable} must be set: this user has no home folder")
    return Path(folder)


def open_handle(path: Path, *, write: bool) -> int:
    """Open a file for reading, or for reading and writing, created if it is missing, and return its handle."""
    flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o644)


def try_lock(handle: int) -> bool:
    """Lock a file for this process, unless another has it; return whether it is locked."""
    try:
        if sys.platform == "win32":
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(handle: int) -> None:
    """Release a lock, also for the copies of the handle in forked processes."""
    if sys.platform == "win32":
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def locking(path: Path, *, max_wait_s: float = math.inf) -> Iterator[None]:
    """Wait for the lock of a file, and hold it; the file is created if needed.

    Raises:
        StoreError: The file cannot be written, its file system has no locks, or another process has it for too long.
    """
    with contextlib.ExitStack() as held:
        try:
            handle = open_handle(path, write=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
        held.callback(os.close, handle)
        try:
            if not try_lock(handle):  # the other process may need hours, for a training cache
                logger.info("%s: waiting for another process", path)
                deadline = time.monotonic() + max_wait_s
                while not try_lock(handle):
                    if time.monotonic() > deadline:
                        raise StoreError(f"{path}: another process has locked it for over {max_wait_s:g} s")
                    time.sleep(_WAIT_S)
        except OSError as error:
            raise StoreError(f"{path}: cannot be locked ({error.strerror})") from error
        held.callback(unlock, handle)
        yield


def read_at(handle: int, num_bytes: int, offset: int) -> bytes:
    """Read bytes at an offset."""
    if sys.platform == "win32":
        os.lseek(handle, offset, os.SEEK_SET)
        data = os.read(handle, num_bytes)
    else:
        data = os.pread(handle, num_bytes, offset)
    return data


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """Write bytes at an offset, and return the number written. Only one thread at a time may use a handle."""
    if sys.platform == "win32":
        os.lseek(handle, offset, os.SEEK_SET)
        num_written = os.write(handle, data)
    else:
        num_written = os.pwrite(handle, data, offset)
    return num_written


def sync_data(handle: int) -> None:
    """Wait until the content of a file is on disk."""
    getattr(os, "fdatasync", os.fsync)(handle)  # macOS and Windows have only fsync


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on disk; Windows writes them with the files."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_closed(path: Path) -> None:
    """Remove a file, if it exists; on Windows, keep one that a reader has open, for the next writer to remove."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if sys.platform != "win32":
            raise


def _move(draft: Path, path: Path) -> None:
    """Replace a file by a draft; on Windows, wait a while until no other process has the file open."""
    deadline_s = time.monotonic() + (_MOVE_S if sys.platform == "win32" else 0.0)
    while True:
        try:
            draft.replace(path)
            return
        except PermissionError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(_WAIT_S)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a draft, which replaces the file at the end of the block, or is removed after an error.

    Folders are created as needed. A killed process leaves the old file unchanged, and a draft beside it, which ends in
    ``DRAFT``. Its name is unique, since another process or thread may write the same file; so it cannot be a link.

    Args:
        path: The file.
        durable: Whether to wait until the new file is on disk. Otherwise a power cut may leave an empty one.

    Raises:
        StoreError: The file cannot be written; the old one stays.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}{DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if durable:
            with draft.open("r+b") as file:
                sync_data(file.fileno())
        _move(draft, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):  # a full disk needs the space
            draft.unlink()


def drop_oldest(
    folder: Path, pattern: str, limit: float, weigh: Callable[[os.stat_result], int] = lambda _status: 1
) -> int:
    """Remove the least recently used files of a cache, and return the total weight of the others, at most ``limit``.

    Files match a shell pattern. The last one stays regardless of its weight. Another process may drop files, too.
    """
    files: list[tuple[int, int, Path]] = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime_ns, weigh(status), path))
    left = sum(weight for _, weight, _ in files)
    for _, weight, path in sorted(files)[:-1]:
        if left <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            left -= weight
    return left


@contextlib.contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Let safetensors write a file in the block, with the mode of the old or of new files; raise errors as OSError.

    safetensors 0.8 writes a file that only its owner can read, so that others could not use a trained model. It reports
    a full disk only in its message.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        yield
    except Exception as error:
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
        raise
    path.chmod(mode)
