"""Files on disk: calls that differ between systems, and files that are replaced as a whole."""

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

DRAFT = ".part"  # the suffix of a file that is not complete
_WAIT_S = 0.1
_MOVE_S = 10.0
_LOCKED_BYTE = 1 << 30  # Windows keeps others from reading what is locked, so it is a byte that no file has


def find_user_folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, or a default such as ``~/.cache``.

    Raises:
        StoreError: There is neither that variable nor a home folder.
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
    """Lock a file of a folder, made if it is missing, as soon as no other process has it.

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
            if not try_lock(handle):  # the other one may need hours, for the cache of a training
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
    """Read from a position."""
    if sys.platform == "win32":
        os.lseek(handle, offset, os.SEEK_SET)
        data = os.read(handle, num_bytes)
    else:
        data = os.pread(handle, num_bytes, offset)
    return data


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """Write to a position, and return how many bytes were written. One thread at a time may use a handle."""
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
    """Remove a file, if it exists; on Windows, leave one that a reader has open to the next writer."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if sys.platform != "win32":
            raise


def _move(draft: Path, path: Path) -> None:
    """Put a file in the place of another; on Windows, wait a while for those who read or write that one."""
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
    """Yield the path of a draft, which replaces a file once it is written, or is removed after an error.

    Folders are created as needed. A process that is killed leaves the old file as it is, beside a draft, which ends in
    ``DRAFT``. Its name is unique, since another process or thread may write the same file; so no link can stand there.

    Args:
        path: The file.
        durable: Whether the new file must be on disk at the end. Otherwise a power cut may leave an empty one.

    Raises:
        StoreError: It cannot be written; the old file stays.
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
    """Remove the files of a cache that were used longest ago, and return what the others weigh: at most ``limit``.

    Their names match a shell pattern. The last one stays whatever it weighs. Another process may drop files meanwhile.
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
    """Let safetensors write a file inside with the mode of other new files, or its own, and raise errors as OSError.

    safetensors 0.8 writes a file that only its owner can read: what one user trains would be of no use to others. Of a
    full disk it tells in words only.
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
