"""A file's content by name: refuse what is no regular file, and fingerprint what is."""

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from vidret.errors import DecodeError

BLOCK = 1 << 20


def fingerprint(path: str | Path) -> str:
    """Name a file's content: a hash of its size and of its head, middle and tail (of all of it when it is small)."""
    return measure(path)[0]


def measure(path: str | Path) -> tuple[str, int]:
    """Give a regular file's fingerprint and its size in bytes.

    Raises:
        DecodeError: The file is missing, empty, forbidden, or not a regular file.
    """
    name = os.fspath(path)
    with _open_regular(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise DecodeError(name, "is empty")
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        blocks = [(0, size)] if size <= 3 * BLOCK else [(s, BLOCK) for s in (0, (size - BLOCK) // 2, size - BLOCK)]
        try:
            for start, length in blocks:
                file.seek(start)
                digest.update(file.read(length))
        except OSError as error:
            raise DecodeError(name, f"cannot be read: {error.strerror}") from error
    return digest.hexdigest(), size


def starts_like_mp4(path: str) -> bool:
    """Say whether a file begins as MP4 or MOV do, whatever became of the rest."""
    with _open_regular(path) as file:
        return file.read(12)[4:8] == b"ftyp"


def look_at(path: str) -> os.stat_result:
    """Ask the file system about a regular file, following links, without opening it.

    Raises:
        DecodeError: The file is missing, forbidden, or not a regular file.
    """
    try:
        about = Path(path).stat()
    except (OSError, ValueError) as error:
        raise DecodeError(path, _reason(error)) from error
    if stat.S_ISDIR(about.st_mode):
        raise DecodeError(path, "is a directory")
    if not stat.S_ISREG(about.st_mode):
        raise DecodeError(path, "is not a regular file")
    return about


def _open_regular(path: str) -> BinaryIO:
    """Look before opening: a pipe or a device would block for ever."""
    look_at(path)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DecodeError(path, _reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read: permission denied"
        case OSError():
            return f"cannot be read: {(error.strerror or str(error)).lower()}"
    return f"cannot be read: {error}"
