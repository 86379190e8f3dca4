"""What a file holds: its fingerprint, and whether the file is still what it was.

A fingerprint says by its prefix how it was made:

- ``sha256-``: the SHA-256 of the whole content, of files here and of small files at addresses.
- ``sampled-``: a hash of size, head, middle and tail, and of what the store says of the content (its checksum or ETag,
  else its time), of larger files at addresses: to hash them whole would mean to download them.
- No prefix: a hash of size, head, middle and tail alone. Indexes of earlier versions hold these.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidret.errors import ChangedError, DecodeError
from vidret.video.files import FileStat, LocalFile, SourceFile, describe_failure, open_file, stat_file
from vidret.video.ranges import RemoteFile

BLOCK = 1 << 20


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
        """Return the modification time as ``stat_file`` gives it."""
        return self.stamp[1]


def fingerprint(path: str | Path, *, heartbeat: Callable[[], None] | None = None) -> str:
    """Return the fingerprint of a file's content; see ``identify``."""
    return identify(path, heartbeat=heartbeat).fingerprint


def identify(path: str | Path, *, heartbeat: Callable[[], None] | None = None) -> Identity:
    """Read a file and return its identity.

    Args:
        path: A path or an address.
        heartbeat: Called after each MiB; what it raises ends the reading.

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
        return Identity(_hash_whole(name, file, about.st_size, heartbeat), _stamp(about))


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
    stamp = _stamp(stat_file(path, fresh=True))
    if stamp == identity.stamp:
        return identity
    name = identity.fingerprint
    if name != (fingerprint(path) if "-" in name else legacy_fingerprint(path)):
        raise ChangedError(path, reason)
    return Identity(name, stamp)


def legacy_fingerprint(path: str) -> str:
    """Return a fingerprint without prefix, as indexes of earlier versions hold them: it may miss a difference.

    Raises:
        DecodeError: The file is missing, empty, forbidden, or not a regular file.
    """
    with open_file(path) as file:
        return _hash_sample(path, file, file.num_bytes)


def _stamp(about: FileStat) -> tuple[int, ...]:
    changed = (about.st_ctime_ns,) if isinstance(about, os.stat_result) else ()
    return (about.st_size, about.st_mtime_ns, *changed)


def _fingerprint_remote(name: str, remote: RemoteFile) -> str:
    if remote.num_bytes <= 3 * BLOCK:
        return _hash_whole(name, remote, remote.num_bytes, None)
    tag = remote.about.tag or str(remote.about.st_mtime_ns)
    return "sampled-" + _hash_sample(name, remote, remote.num_bytes, tag)


def _hash_whole(name: str, file: SourceFile, size: int, heartbeat: Callable[[], None] | None) -> str:
    # With the CPU's own instructions 1.7 GB/s a core, BLAKE2b 0.8.
    if size == 0:
        raise DecodeError(name, "is empty")
    digest = hashlib.sha256()
    for data in _read(name, file, [(0, size)]):
        digest.update(data)
        if heartbeat is not None:
            heartbeat()
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
        raise DecodeError(name, describe_failure(error)) from error
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
