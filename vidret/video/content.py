"""A file's content by path or address: refuse what is no regular file, and fingerprint what is.

A fingerprint says by its prefix how it was made:

- ``sha256-``: the SHA-256 of the whole content, of files here and of small files at addresses.
- ``sampled-``: a hash of size, head, middle and tail, and of what the store says of the content (its checksum or ETag,
  else its time), of larger files at addresses: to hash them whole would mean to download them.
- No prefix: a hash of size, head, middle and tail alone. Indexes of earlier versions hold these.
"""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vidret.errors import ChangedError, DecodeError, UnreachableError, VidretError
from vidret.text import is_url
from vidret.video import addresses
from vidret.video.addresses import About
from vidret.video.ranges import RemoteFile

BLOCK = 1 << 20
AT_ONCE = 16  # questions to stores

Look = os.stat_result | About


class LocalFile(io.FileIO):
    """A regular file here, with what a ``RemoteFile`` has. It has no buffer, since FFmpeg brings one."""

    def __init__(self, path: str) -> None:
        """Open the file.

        Raises:
            DecodeError: It is missing, forbidden, or not a regular file.
        """
        look_at(path)
        try:
            # What is a pipe since then does not block either.
            super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
            self.num_bytes = os.fstat(self.fileno()).st_size
        except OSError as error:
            raise DecodeError(path, _reason(error)) from error

    def check(self) -> None:
        """Do nothing: a read that fails raises its error itself."""


SourceFile = LocalFile | RemoteFile


def open_file(path: str) -> SourceFile:
    """Open a file by path or address for reading.

    Raises:
        DecodeError: It is missing, forbidden, or not a regular file.
    """
    return RemoteFile(path) if is_url(path) else LocalFile(path)


@dataclass(frozen=True, slots=True)
class Identity:
    """A file's fingerprint, and the stamp that the file bore just before it was read.

    The stamp is size, modification time and, of files here, change time. While it stays, the content is the same. It is
    empty for a file that was not read yet.
    """

    fingerprint: str
    stamp: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Return the size in bytes."""
        return self.stamp[0]

    @property
    def mtime_ns(self) -> int:
        """Return the modification time as ``look_at`` gives it."""
        return self.stamp[1]


def fingerprint(path: str | Path, *, alive: Callable[[], None] | None = None) -> str:
    """Return the fingerprint of a file's content; see ``identify``."""
    return identify(path, alive=alive).fingerprint


def identify(path: str | Path, *, alive: Callable[[], None] | None = None) -> Identity:
    """Read a file and return its identity.

    Args:
        path: A path or an address.
        alive: Called after each MiB; what it raises ends the reading.

    Raises:
        DecodeError: The file is missing, empty, forbidden, or not a regular file.
    """
    name = os.fspath(path)
    with open_file(name) as file:
        if isinstance(file, RemoteFile):
            return Identity(_fingerprint_remote(name, file), _stamp(file.about))
        about = os.fstat(file.fileno())
        if about.st_size and _is_unwritten(file):
            raise DecodeError(name, f"holds no data: none of its {about.st_size} bytes was written yet")
        return Identity(_hash_whole(name, file, about.st_size, alive), _stamp(about))


def check_unchanged(path: str, identity: Identity, reason: str = "changed while it was read") -> Identity:
    """Return a file's identity now: the one given, with a new stamp where only that has changed.

    Args:
        path: A path or an address.
        identity: What the file was; its fingerprint may be of any kind.
        reason: What a ``ChangedError`` says.

    Raises:
        ChangedError: The content is another one.
        DecodeError: The file is gone or cannot be read.
    """
    stamp = _stamp(look_at(path, fresh=True))
    if stamp == identity.stamp:
        return identity
    name = identity.fingerprint
    if name != (fingerprint(path) if "-" in name else sample(path)):
        raise ChangedError(path, reason)
    return Identity(name, stamp)


def sample(path: str) -> str:
    """Return a fingerprint without prefix, as indexes of earlier versions hold them: it may miss a difference.

    Raises:
        DecodeError: The file is missing, empty, forbidden, or not a regular file.
    """
    with open_file(path) as file:
        return _hash_sample(path, file, file.num_bytes)


def _stamp(about: Look) -> tuple[int, ...]:
    changed = (about.st_ctime_ns,) if isinstance(about, os.stat_result) else ()
    return (about.st_size, about.st_mtime_ns, *changed)


def _fingerprint_remote(name: str, remote: RemoteFile) -> str:
    if remote.num_bytes <= 3 * BLOCK:
        return _hash_whole(name, remote, remote.num_bytes, None)
    tag = remote.about.tag or str(remote.about.st_mtime_ns)
    return "sampled-" + _hash_sample(name, remote, remote.num_bytes, tag)


def _hash_whole(name: str, file: SourceFile, size: int, alive: Callable[[], None] | None) -> str:
    # With the CPU's own instructions 1.7 GB/s a core, BLAKE2b 0.8.
    if size == 0:
        raise DecodeError(name, "is empty")
    digest = hashlib.sha256()
    for data in _read(name, file, [(0, size)]):
        digest.update(data)
        if alive is not None:
            alive()
    return f"sha256-{digest.hexdigest()}"


def _hash_sample(name: str, file: SourceFile, size: int, tag: str = "") -> str:
    whole = size <= 3 * BLOCK
    ranges = [(0, size)] if whole else [(start, BLOCK) for start in (0, (size - BLOCK) // 2, size - BLOCK)]
    digest = hashlib.blake2b(f"{size}{tag}".encode(), digest_size=16)
    for data in _read(name, file, ranges):
        digest.update(data)
    return digest.hexdigest()


def _read(name: str, file: SourceFile, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Read (start, length) ranges of a file, at most a MiB at a time."""
    try:
        for start, left in ranges:
            file.seek(start)
            while left and (data := file.read(min(left, BLOCK))):
                left -= len(data)
                yield data
    except OSError as error:
        raise DecodeError(name, _reason(error)) from error
    file.check()


def _is_unwritten(file: LocalFile) -> bool:
    """Return whether all of a file is a hole, as of a download that was given its space and nothing more."""
    if not hasattr(os, "SEEK_DATA"):
        return False
    try:
        os.lseek(file.fileno(), 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return False


def read_head(file: SourceFile, num_bytes: int) -> bytes:
    """Read a file's first bytes, fewer where it is shorter."""
    file.seek(0)
    return file.read(num_bytes) or b""


def look_at(path: str, *, fresh: bool = False) -> Look:
    """Ask the file system about a regular file, following links, or a store about a file, without opening it.

    A store may answer from what this process has listed of it, unless the answer shall be ``fresh``.

    Raises:
        DecodeError: The file is missing, forbidden, or not a regular file.
    """
    if is_url(path):
        return addresses.look(path, fresh=fresh)
    try:
        about = Path(path).stat()
    except (OSError, ValueError) as error:
        raise DecodeError(path, _reason(error)) from error
    if stat.S_ISDIR(about.st_mode):
        raise DecodeError(path, _describe_folder(path))
    if not stat.S_ISREG(about.st_mode):
        raise DecodeError(path, "is not a regular file")
    return about


def count_disk_bytes(look: Look) -> int:
    """Return how many of a file's bytes are really stored: a sparse file has less than its size."""
    blocks: int | None = getattr(look, "st_blocks", None)  # of 512 bytes, whatever the file system's are
    return look.st_size if blocks is None else min(look.st_size, 512 * blocks)


def _describe_folder(path: str) -> str:
    """Return why a folder is no file; one that cannot be listed stands in a list of files to say so."""
    try:
        os.scandir(path).close()
    except OSError as error:
        return _reason(error)
    return "is a directory"


def look_at_all(paths: Sequence[str]) -> Iterator[tuple[str, Look | DecodeError]]:
    """Look at files in turn, at those at addresses many at a time; a store that stays silent is asked no more."""
    silent: dict[tuple[str, str], UnreachableError] = {}

    def look(path: str) -> Look | DecodeError:
        store = urlsplit(path)[:2] if is_url(path) else ("", "")
        if store in silent:
            return UnreachableError(path, silent[store].reason)
        try:
            return look_at(path)
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


def find_gone(paths: Iterable[str]) -> set[str]:
    """Return the paths at which nothing is any more.

    A file in a folder that cannot be read is not gone, nor one at an address whose store gives no answer.
    """
    paths = list(paths)
    gone = {path for path in paths if not is_url(path) and _is_gone_here(path)}
    try:
        looks = list(look_at_all([path for path in paths if is_url(path)]))
    except VidretError:  # there is no asking the store from here
        looks = []
    return gone | {path for path, look in looks if is_gone(look)}


def _is_gone_here(path: str) -> bool:
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_gone(look: Look | DecodeError) -> bool:
    """Say whether a look found that there is no file."""
    return isinstance(look, DecodeError) and not isinstance(look, UnreachableError)


def seems_there(path: str) -> bool:
    """Say whether a file is there; one at an address is taken as there, since asking would cost a request."""
    return is_url(path) or os.path.exists(path)  # noqa: PTH110


def _reason(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read: permission denied"
        case OSError():
            return f"cannot be read: {(error.strerror or str(error)).lower()}"
    return f"cannot be read: {error}"
