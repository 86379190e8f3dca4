"""Open, read and stat regular files by path or URL; find files that are missing."""

import io
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from vidret.errors import DecodeError, UnreachableError, VidretError
from vidret.text import compose, display_path, is_url, strip_query, with_slashes
from vidret.types import NO_TIME
from vidret.video import urls
from vidret.video.ranges import RemoteFile
from vidret.video.urls import UrlStat

MAX_CONCURRENT_REQUESTS = 16
MAX_LISTED = 2  # missing files that one warning lists

logger = logging.getLogger(__name__)

FileStat = os.stat_result | UrlStat


class LocalFile(io.FileIO):
    """A local regular file with the interface of ``RemoteFile``. It is unbuffered, because FFmpeg has a buffer."""

    def __init__(self, path: str) -> None:
        """Open the file; raise DecodeError if it is missing, forbidden, or not a regular file."""
        stat_file(path)
        try:
            # Non-blocking, in case a pipe has taken its place since.
            super().__init__(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
            self.num_bytes = os.fstat(self.fileno()).st_size
        except OSError as error:
            raise DecodeError(path, describe_failure(error)) from error

    def check(self) -> None:
        """Do nothing: a failed read raises its own error."""


SourceFile = LocalFile | RemoteFile


def open_file(path: str) -> SourceFile:
    """Open a file by path or URL for reading; raise DecodeError if it is missing, forbidden, or not a regular file."""
    return RemoteFile(path) if is_url(path) else LocalFile(path)


def read_head(file: SourceFile, num_bytes: int) -> bytes:
    """Return the first ``num_bytes`` of a file, or all of a shorter one."""
    file.seek(0)
    return file.read(num_bytes) or b""


def read_content(path: str, max_bytes: int) -> bytes:
    """Return the content of a local file.

    Raise DecodeError if it is missing, forbidden, not a regular file, or larger than ``max_bytes``.
    """
    with LocalFile(path) as file:
        if file.num_bytes > max_bytes:
            raise DecodeError(path, f"must have at most {max_bytes >> 20} MiB, got {file.num_bytes >> 20}")
        try:
            return file.read(max_bytes + 1)[:max_bytes]
        except OSError as error:
            raise DecodeError(path, describe_failure(error)) from error


def stat_file(path: str, *, fresh: bool = False) -> FileStat:
    """Return the size and times of a regular file, following links, or of a file at a URL.

    With ``fresh``, this process's cached listing of the store behind a URL is ignored. Raise DecodeError if the file is
    missing, forbidden, or not a regular file.
    """
    if is_url(path):
        return urls.stat_url(path, fresh=fresh)
    try:
        file_stat = Path(path).stat()
    except (OSError, ValueError) as error:
        raise DecodeError(path, describe_failure(error)) from error
    if stat.S_ISDIR(file_stat.st_mode):
        raise DecodeError(path, _describe_folder(path))
    if not stat.S_ISREG(file_stat.st_mode):
        raise DecodeError(path, "is not a regular file")
    return file_stat


def read_mtime_ns(file_stat: FileStat) -> int:
    """Return the modification time in nanoseconds since 1970, limited to the range of an index, which ends in 2116."""
    return max(2 * NO_TIME, min(file_stat.st_mtime_ns, -NO_TIME))


def has_changed(file_stat: FileStat, num_bytes: int | None, mtime_ns: int | None) -> bool:
    """Return whether a file has another size or modification time than the index recorded."""
    return (num_bytes, mtime_ns) != (file_stat.st_size, read_mtime_ns(file_stat))


def count_disk_bytes(file_stat: FileStat) -> int:
    """Return the bytes that a file occupies, fewer than its size if it is sparse."""
    blocks: int | None = getattr(file_stat, "st_blocks", None)  # always in units of 512 bytes
    return file_stat.st_size if blocks is None else min(file_stat.st_size, 512 * blocks)


def _describe_folder(path: str) -> str:
    """Return why a folder cannot be read as a file; unreadable folders are listed as files, to report the reason."""
    try:
        os.scandir(path).close()
    except OSError as error:
        return describe_failure(error)
    return "is a directory"


def stat_files(paths: Sequence[str]) -> Iterator[tuple[str, FileStat | DecodeError]]:
    """Yield each path with its stat or the error, in order; URLs are queried concurrently.

    A store that does not answer is not asked again: its other files fail with the same reason.
    """
    silent_stores: dict[tuple[str, str], UnreachableError] = {}

    def try_stat(path: str) -> FileStat | DecodeError:
        store = urlsplit(path)[:2] if is_url(path) else ("", "")
        if store in silent_stores:
            return UnreachableError(path, silent_stores[store].reason)
        try:
            return stat_file(path)
        except DecodeError as error:
            if isinstance(error, UnreachableError) and not error.answered:
                silent_stores[store] = error
            return error

    remote = [path for path in paths if is_url(path)]
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as pool:
        try:
            remote_stats = pool.map(try_stat, remote)
            yield from ((path, next(remote_stats) if is_url(path) else try_stat(path)) for path in paths)
        finally:
            pool.shutdown(cancel_futures=True)


def find_spelling(path: str) -> str:
    """Return an absolute local path with each name spelt as in its folder's listing; a URL unchanged.

    Names match in any Unicode form, and on Windows in any case.
    """
    if is_url(path) or not _has_spellings(path):
        return path
    spelt, *names = Path(path).parts
    for name in names:
        try:
            listed = os.listdir(spelt) if _has_spellings(name) else []  # noqa: PTH208  names, as they are stored
        except OSError:
            listed = []
        same = (other for other in listed if _fold(other) == _fold(name))
        spelt = os.path.join(spelt, name if name in listed else next(same, name))  # noqa: PTH118
    return with_slashes(spelt)


def _has_spellings(name: str) -> bool:
    return os.name == "nt" or not name.isascii()


def _fold(name: str) -> str:
    return os.path.normcase(compose(name))


def find_missing(paths: Iterable[str]) -> set[str]:
    """Return the paths whose file no longer exists.

    A file in an unreadable folder is not missing, nor is one at a URL whose store does not answer.
    """
    paths = list(paths)
    missing = {path for path in paths if not is_url(path) and _is_missing_locally(path)}
    try:
        remote_stats = list(stat_files([path for path in paths if is_url(path)]))
    except VidretError:  # the store cannot be queried from this machine
        remote_stats = []
    gone = [(path, result) for path, result in remote_stats if isinstance(result, DecodeError)]
    return missing | {path for path, error in gone if not isinstance(error, UnreachableError)}


def is_same_disk(missing: str, path: str) -> bool:
    """Return whether the nearest existing folder above a missing file is on the same disk as another file.

    If not, the drive of the missing file may be disconnected.
    """
    if is_url(missing) or is_url(path):
        return False
    try:
        existing_folder = next(folder for folder in Path(missing).parents if folder.exists())
        return existing_folder.stat().st_dev == Path(path).stat().st_dev
    except OSError:
        return False


def _is_missing_locally(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).lstat().st_mode)  # a folder that took the place of a file
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
        return True
    except OSError:
        return False


def may_exist(path: str) -> bool:
    """Return whether a local file exists; True for every URL, since a check would cost a request."""
    return os.path.exists(path) or is_url(path)  # noqa: PTH110


def choose_existing(paths: Sequence[str]) -> str:
    """Return the first of a video's paths whose file may exist; the first path if none does."""
    return next((path for path in paths if may_exist(path)), paths[0])


def warn_missing(paths: Sequence[str]) -> None:
    """Log one warning that names the missing files that an answer leaves out, if there are any."""
    names = ", ".join(display_path(strip_query(path)) for path in paths[:MAX_LISTED])
    if len(paths) == 1:
        logger.warning(
            "left out, its file is gone: %s; its drive may be disconnected; index again to find it if it was moved",
            names,
        )
    elif paths:
        rest = f" and {len(paths) - MAX_LISTED} more" if len(paths) > MAX_LISTED else ""
        advice = "their drive may be disconnected; index again to find those that were moved"
        logger.warning("left out, %d files are gone: %s%s; %s", len(paths), names, rest, advice)


def describe_failure(error: OSError | ValueError) -> str:
    """Return why a file cannot be opened or read, in a few words."""
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read: permission denied"
        case OSError():
            return f"cannot be read: {(error.strerror or str(error)).lower()}"
    return f"cannot be read: {error}"
