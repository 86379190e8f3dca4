"""Named arrays on disk: appended to large files, found by an index, memory-mapped, checked, and safe to interrupt.

A folder holds ``index.jsonl``, a line for each entry, and ``00000.bin``, ``00001.bin``... with the bytes. Bytes are on
the disk before the line that names them is written; what no line names is the tail of an interrupted write, and the
next writer cuts it off. A later line goes before an earlier one with the same key.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidret.errors import VidretError

logger = logging.getLogger(__name__)

FORMAT = 1
SHARD_BYTES = 1 << 30
ALIGNMENT = 64  # bytes: where an array may start, so that any type can be read in place
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Where an entry's bytes are, what they must add up to, and how to read them: (name, type, shape) of each array."""

    key: str
    facts: dict[str, Any]
    shard: int = 0
    offset: int = 0
    num_bytes: int = 0
    digest: str = ""
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


class ArrayShards:
    """One folder of entries. Any number of processes may read; one writes, inside ``writing``."""

    def __init__(self, folder: str | Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        """Read the index, if there is one; nothing is made yet.

        Args:
            folder: Where it is, or will be.
            shard_bytes: A file that is as long is not appended to.

        Raises:
            VidretError: The index cannot be understood.
        """
        self.folder = Path(folder)
        self._shard_bytes = shard_bytes
        self._maps: dict[int, np.ndarray] = {}
        self._checked: set[str] = set()
        self._entries: dict[str, ShardEntry] = {}
        self._load()

    def __contains__(self, key: str) -> bool:
        """Say whether there is an entry."""
        return key in self._entries

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)

    def facts(self, key: str) -> Facts:
        """Give what was noted with an entry."""
        return self._entries[key].facts

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Look at an entry's arrays without copying; they cannot be written to.

        The bytes are held against their digest the first time that a process reads them.

        Raises:
            VidretError: The bytes are not those that were written.
        """
        entry = self._entries[key]
        stored = self._view(entry)
        if key not in self._checked:
            if _digest(stored) != entry.digest:
                raise VidretError(f"{self._path(entry.shard)}: {key} is damaged; delete this file to have it made anew")
            self._checked.add(key)
        arrays, offset = {}, 0
        for name, dtype, shape in entry.arrays:
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(stored, np.dtype(dtype), count, offset).reshape(shape)
            offset += _aligned(count * np.dtype(dtype).itemsize)
        return arrays

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who appends: wait for another writer, take over what it did, cut off what it left unfinished.

        Raises:
            VidretError: The folder cannot be written.
        """
        with self._telling():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: waiting for another process that writes", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                with self._telling():
                    self._load()
                    self._cut()
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked process may hold a copy

    def append(self, key: str, arrays: Mapping[str, np.ndarray], facts: Facts | None = None) -> None:
        """Write an entry; it is there for good once this returns. Facts must be ready for JSON.

        Raises:
            VidretError: It cannot be written, as when the disk is full.
        """
        parts = [np.ascontiguousarray(array) for array in arrays.values()]
        blocks = [part.tobytes().ljust(_aligned(part.nbytes), b"\0") for part in parts]
        content = b"".join(blocks)
        shard, offset = self._end()
        named = tuple((name, part.dtype.str, part.shape) for name, part in zip(arrays, parts, strict=True))
        digest = _digest(np.frombuffer(content, np.uint8))
        entry = ShardEntry(key, dict(facts or {}), shard, offset, len(content), digest, named)
        with self._telling():
            if content:
                with self._path(shard).open("ab") as file:
                    file.write(content)
                    file.flush()
                    os.fdatasync(file.fileno())
            with self._index.open("ab") as file:
                file.write(_line(entry))
        self._entries[key] = entry

    @property
    def _index(self) -> Path:
        return self.folder / "index.jsonl"

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.bin"

    def _load(self) -> None:
        """Read the index up to where a line was cut short, leaving out entries whose bytes are not there."""
        self._entries = {}
        lengths: dict[int, int] = {}
        num_lost = 0
        for number, line in enumerate(self._read_lines(), start=1):
            try:
                fields = json.loads(line)
                arrays = tuple((name, dtype, tuple(shape)) for name, dtype, shape in fields.pop("arrays"))
                entry = ShardEntry(**fields, arrays=arrays)
            except (ValueError, TypeError, KeyError) as error:
                raise VidretError(f"{self._index}:{number}: must be an entry, got {line[:80]!r}") from error
            if entry.shard not in lengths:
                path = self._path(entry.shard)
                lengths[entry.shard] = path.stat().st_size if path.is_file() else 0
            if entry.offset + entry.num_bytes > lengths[entry.shard]:
                num_lost += 1
                self._entries.pop(entry.key, None)
            else:
                self._entries[entry.key] = entry
        if num_lost:
            logger.warning("%s: the bytes of %d entries are gone, they must be made anew", self.folder, num_lost)

    def _read_lines(self) -> list[bytes]:
        if not self._index.is_file():
            return []
        return self._index.read_bytes().split(b"\n")[:-1]

    def _cut(self) -> None:
        """Cut off what no whole line names, and forget lines whose bytes are gone: others may come to lie there."""
        lines = b"".join(map(_line, self._entries.values()))
        if self._index.is_file() and self._index.read_bytes() != lines:
            new = self._index.with_suffix(".new")
            new.write_bytes(lines)
            new.replace(self._index)
        for shard in sorted(int(path.stem) for path in self.folder.glob("*.bin"))[-1:]:
            ends = [entry.offset + entry.num_bytes for entry in self._entries.values() if entry.shard == shard]
            os.truncate(self._path(shard), max(ends, default=0))

    def _end(self) -> tuple[int, int]:
        """Say where to write: behind the last file's end, or at the start of a new one."""
        shards = [int(path.stem) for path in self.folder.glob("*.bin")]
        if not shards:
            return 0, 0
        length = self._path(max(shards)).stat().st_size
        return (max(shards), length) if length < self._shard_bytes else (max(shards) + 1, 0)

    def _view(self, entry: ShardEntry) -> np.ndarray:
        if entry.num_bytes == 0:
            return np.empty(0, np.uint8)
        end = entry.offset + entry.num_bytes
        if entry.shard not in self._maps or len(self._maps[entry.shard]) < end:
            try:
                self._maps[entry.shard] = np.memmap(self._path(entry.shard), np.uint8, "r")
            except OSError as error:
                raise VidretError(f"{self._path(entry.shard)}: cannot be read: {error.strerror}") from error
        return self._maps[entry.shard][entry.offset : end]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VidretError(f"{error.filename or self.folder}: cannot be written: {error.strerror}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps behind: another process makes its own."""
        return self.__dict__ | {"_maps": {}, "_checked": set()}


def name_folder(kind: str, about: Facts) -> str:
    """Name a folder by what its entries depend on: other settings never read each other's entries."""
    text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
    return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _line(entry: ShardEntry) -> bytes:
    return json.dumps(asdict(entry)).encode() + b"\n"


def _digest(stored: np.ndarray) -> str:
    return hashlib.blake2b(stored.data, digest_size=16).hexdigest()


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
