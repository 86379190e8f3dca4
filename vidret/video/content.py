"""A file's content by path or address: refuse what is no regular file, and fingerprint what is."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from vidret.errors import DecodeError, UnreachableError, VidretError
from vidret.text import is_address
from vidret.video import addresses
from vidret.video.addresses import About
from vidret.video.ranges import RemoteFile

BLOCK = 1 << 20
AT_ONCE = 16  # questions to stores

Look = os.stat_result | About


def fingerprint(path: str | Path) -> str:
    """Name a file's content: a hash of its size and of its head, middle and tail (of all of it when it is small)."""
    return measure(path)[0]


def measure(path: str | Path, remote: RemoteFile | None = None) -> tuple[str, int]:
    """Give a regular file's fingerprint and its size in bytes.

    Args:
        path: A path or an address.
        remote: The file at the address, if it is open already.

    Raises:
        DecodeError: The file is missing, empty, forbidden, or not a regular file.
    """
    name = os.fspath(path)
    remote = open_remote(name) if remote is None else remote
    if remote is not None:
        return _digest(name, remote, remote.num_bytes), remote.num_bytes
    with _open_regular(name) as file:
        size = os.fstat(file.fileno()).st_size
        return _digest(name, file, size), size


def _digest(name: str, file: BinaryIO | RemoteFile, size: int) -> str:
    if size == 0:
        raise DecodeError(name, "is empty")
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    blocks = [(0, size)] if size <= 3 * BLOCK else [(s, BLOCK) for s in (0, (size - BLOCK) // 2, size - BLOCK)]
    try:
        for start, length in blocks:
            file.seek(start)
            while length and (data := file.read(length)):
                digest.update(data)
                length -= len(data)
    except OSError as error:
        raise DecodeError(name, f"cannot be read: {error.strerror}") from error
    if isinstance(file, RemoteFile):
        file.check()
    return digest.hexdigest()


def starts_like_mp4(path: str, remote: RemoteFile | None = None) -> bool:
    """Say whether a file begins as MP4 or MOV do, whatever became of the rest."""
    if remote is not None:
        remote.seek(0)
        return (remote.read(12) or b"")[4:8] == b"ftyp"
    with _open_regular(path) as file:
        return file.read(12)[4:8] == b"ftyp"


def open_remote(path: str) -> RemoteFile | None:
    """Open a file at an address; None for a path, which whoever decodes opens itself."""
    return RemoteFile(path) if is_address(path) else None


def look_at(path: str) -> Look:
    """Ask the file system about a regular file, following links, or a store about a file, without opening it.

    Raises:
        DecodeError: The file is missing, forbidden, or not a regular file.
    """
    if is_address(path):
        return addresses.look(path)
    try:
        about = Path(path).stat()
    except (OSError, ValueError) as error:
        raise DecodeError(path, _reason(error)) from error
    if stat.S_ISDIR(about.st_mode):
        raise DecodeError(path, "is a directory")
    if not stat.S_ISREG(about.st_mode):
        raise DecodeError(path, "is not a regular file")
    return about


def look_at_all(paths: Sequence[str]) -> Iterator[tuple[str, Look | DecodeError]]:
    """Look at files in turn, at those at addresses many at a time; a store that stays silent is asked no more."""
    silent: dict[tuple[str, str], UnreachableError] = {}

    def look(path: str) -> Look | DecodeError:
        store = urlsplit(path)[:2] if is_address(path) else ("", "")
        if store in silent:
            return UnreachableError(path, silent[store].reason)
        try:
            return look_at(path)
        except DecodeError as error:
            if isinstance(error, UnreachableError) and not error.answered:
                silent[store] = error
            return error

    remote = [path for path in paths if is_address(path)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            answers = pool.map(look, remote)
            yield from ((path, next(answers) if is_address(path) else look(path)) for path in paths)
        finally:
            pool.shutdown(cancel_futures=True)


def find_gone(paths: Iterable[str]) -> set[str]:
    """Give those paths at which nothing is any more; of an address only its store can say so."""
    paths = list(paths)
    gone = {path for path in paths if not is_address(path) and not os.path.lexists(path)}
    try:
        looks = list(look_at_all([path for path in paths if is_address(path)]))
    except VidretError:  # there is no asking the store from here
        looks = []
    return gone | {path for path, look in looks if is_gone(look)}


def is_gone(look: Look | DecodeError) -> bool:
    """Say whether a look found that there is no file."""
    return isinstance(look, DecodeError) and not isinstance(look, UnreachableError)


def seems_there(path: str) -> bool:
    """Say whether a file is there; one at an address is taken as there, since asking would cost a request."""
    return is_address(path) or os.path.exists(path)  # noqa: PTH110


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
