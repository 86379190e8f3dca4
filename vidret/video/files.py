"""Files by path or address: look at them, open them, and refuse what is no regular file."""

import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from vidret.errors import DecodeError, UnreachableError, VidretError
from vidret.text import is_url
from vidret.video import urls
from vidret.video.ranges import RemoteFile
from vidret.video.urls import UrlStat

AT_ONCE = 16  # questions to stores

FileStat = os.stat_result | UrlStat


class LocalFile(io.FileIO):
    """A regular file here, with what a ``RemoteFile`` has. It has no buffer, since FFmpeg brings one."""

    def __init__(self, path: str) -> None:
        """Open the file.

        Raises:
            DecodeError: It is missing, forbidden, or not a regular file.
        """
        stat_file(path)
        try:
            # What is a pipe since then does not block either.
            super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
            self.num_bytes = os.fstat(self.fileno()).st_size
        except OSError as error:
            raise DecodeError(path, describe_failure(error)) from error

    def check(self) -> None:
        """Do nothing: a read that fails raises its error itself."""


SourceFile = LocalFile | RemoteFile


def open_file(path: str) -> SourceFile:
    """Open a file by path or address for reading.

    Raises:
        DecodeError: It is missing, forbidden, or not a regular file.
    """
    return RemoteFile(path) if is_url(path) else LocalFile(path)


def read_head(file: SourceFile, num_bytes: int) -> bytes:
    """Read a file's first bytes, fewer where it is shorter."""
    file.seek(0)
    return file.read(num_bytes) or b""


def stat_file(path: str, *, fresh: bool = False) -> FileStat:
    """Ask the file system about a regular file, following links, or a store about a file, without opening it.

    A store may answer from what this process has listed of it, unless the answer shall be ``fresh``.

    Raises:
        DecodeError: The file is missing, forbidden, or not a regular file.
    """
    if is_url(path):
        return urls.stat_url(path, fresh=fresh)
    try:
        about = Path(path).stat()
    except (OSError, ValueError) as error:
        raise DecodeError(path, describe_failure(error)) from error
    if stat.S_ISDIR(about.st_mode):
        raise DecodeError(path, _describe_folder(path))
    if not stat.S_ISREG(about.st_mode):
        raise DecodeError(path, "is not a regular file")
    return about


def count_disk_bytes(look: FileStat) -> int:
    """Return how many of a file's bytes are really stored: a sparse file has less than its size."""
    blocks: int | None = getattr(look, "st_blocks", None)  # of 512 bytes, whatever the file system's are
    return look.st_size if blocks is None else min(look.st_size, 512 * blocks)


def _describe_folder(path: str) -> str:
    """Return why a folder is no file; one that cannot be listed stands in a list of files to say so."""
    try:
        os.scandir(path).close()
    except OSError as error:
        return describe_failure(error)
    return "is a directory"


def stat_files(paths: Sequence[str]) -> Iterator[tuple[str, FileStat | DecodeError]]:
    """Look at files in turn, at those at addresses many at a time; a store that stays silent is asked no more."""
    silent: dict[tuple[str, str], UnreachableError] = {}

    def look(path: str) -> FileStat | DecodeError:
        store = urlsplit(path)[:2] if is_url(path) else ("", "")
        if store in silent:
            return UnreachableError(path, silent[store].reason)
        try:
            return stat_file(path)
        except DecodeError as error:
            if isinstance(error, UnreachableError) and not error.answered:
                silent[store] = error
            return error

    remote = [path for path in paths if is_url(path)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            answers = pool.map(look, remote)
            yield from ((path, next(answers) if is_url(path) else look(path)) for path in paths)
        finally:
            pool.shutdown(cancel_futures=True)


def find_missing(paths: Iterable[str]) -> set[str]:
    """Return the paths at which nothing is any more.

    A file in a folder that cannot be read is not gone, nor one at an address whose store gives no answer.
    """
    paths = list(paths)
    gone = {path for path in paths if not is_url(path) and _is_gone_here(path)}
    try:
        looks = list(stat_files([path for path in paths if is_url(path)]))
    except VidretError:  # there is no asking the store from here
        looks = []
    return gone | {path for path, look in looks if is_missing(look)}


def _is_gone_here(path: str) -> bool:
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_missing(look: FileStat | DecodeError) -> bool:
    """Say whether a look found that there is no file."""
    return isinstance(look, DecodeError) and not isinstance(look, UnreachableError)


def may_exist(path: str) -> bool:
    """Say whether a file is there; one at an address is taken as there, since asking would cost a request."""
    return is_url(path) or os.path.exists(path)  # noqa: PTH110


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
