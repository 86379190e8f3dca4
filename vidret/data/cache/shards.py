"""Named arrays on disk: appended to large files, indexed, memory-mapped, checksummed and safe to interrupt.

A folder holds ``index.jsonl``, with one line per entry, and the data in ``00000.bin``, ``00001.bin`` and so on. Data is
flushed to disk before its line is written. Data that no line refers to is left over from an interrupted write, and the
next writer truncates it. A later line replaces an earlier one with the same key.
"""

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
from vidret.store.disk import sync_data, try_lock, unlock, wait_for_lock

logger = logging.getLogger(__name__)

FORMAT = 1
SHARD_BYTES = 1 << 30  # size from which on a data file is no longer appended to
ALIGNMENT = 64  # bytes; arrays start at multiples, so that any type can be read in place
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Location, checksum and layout of an entry.

    Attributes:
        key: Name of the entry.
        facts: JSON values stored with the entry.
        shard: Index of the data file.
        offset: Offset in the data file, in bytes.
        num_bytes: Size of the data.
        digest: Checksum of the data.
        arrays: (name, dtype, shape) of each array.
    """

    key: str
    facts: dict[str, Any]
    shard: int = 0
    offset: int = 0
    num_bytes: int = 0
    digest: str = ""
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


class ArrayShards:
    """A folder of entries, for any number of reading processes and one writer at a time; see ``writing``."""

    def __init__(self, folder: str | Path) -> None:
        """Read the index if it exists. Nothing is created yet.

        Raises:
            VidretError: The index is invalid.
        """
        self.folder = Path(folder)
        self._maps: dict[int, np.ndarray] = {}
        self._verified: set[str] = set()
        self._entries: dict[str, ShardEntry] = {}
        self._load()

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry with this key."""
        return key in self._entries

    def facts(self, key: str) -> Facts:
        """Return the JSON values stored with an entry."""
        return self._entries[key].facts

    def num_bytes(self, key: str) -> int:
        """Return the size of an entry's arrays."""
        return self._entries[key].num_bytes

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Return an entry's arrays as read-only views of the memory-mapped data.

        The checksum is verified the first time that this process reads the entry.

        Raises:
            VidretError: The data does not match its checksum.
        """
        entry = self._entries[key]
        data = self._view(entry)
        if key not in self._verified:
            if _checksum(data) != entry.digest:
                raise VidretError(f"{self._path(entry.shard)}: {key} is corrupt; delete this file to rebuild it")
            self._verified.add(key)
        arrays, offset = {}, 0
        for name, dtype, shape in entry.arrays:
            num_values = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(data, np.dtype(dtype), num_values, offset).reshape(shape)
            offset += _align(num_values * np.dtype(dtype).itemsize)
        return arrays

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the folder for appending: wait for another writer, load its entries and truncate unfinished writes.

        Raises:
            VidretError: The folder cannot be written.
        """
        with self._write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("ab")
        with lock:
            if not try_lock(lock.fileno()):
                logger.info("%s: waiting for another process that writes here", self.folder)
                wait_for_lock(lock.fileno())
            try:
                with self._write_errors():
                    self._load()
                    self._truncate()
                yield
            finally:
                unlock(lock.fileno())  # closing is not enough: a forked process may hold a copy

    def append(self, key: str, arrays: Mapping[str, np.ndarray], facts: Facts | None = None) -> None:
        """Write an entry durably. The facts must be JSON-serialisable.

        Raises:
            VidretError: The entry cannot be written, for example because the disk is full.
        """
        contiguous = [np.ascontiguousarray(array) for array in arrays.values()]
        content = b"".join(array.tobytes().ljust(_align(array.nbytes), b"\0") for array in contiguous)
        shard, offset = self._end()
        entry = ShardEntry(
            key=key,
            facts=dict(facts or {}),
            shard=shard,
            offset=offset,
            num_bytes=len(content),
            digest=_checksum(np.frombuffer(content, np.uint8)),
            arrays=tuple((name, array.dtype.str, array.shape) for name, array in zip(arrays, contiguous, strict=True)),
        )
        with self._write_errors():
            if content:
                with self._path(shard).open("ab") as file:
                    file.write(content)
                    file.flush()
                    sync_data(file.fileno())
            with self._index.open("ab") as file:
                file.write(_to_line(entry))
        self._entries[key] = entry

    @property
    def _index(self) -> Path:
        return self.folder / "index.jsonl"

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.bin"

    def _load(self) -> None:
        """Read the complete lines of the index, without entries whose data is missing."""
        self._entries = {}
        shard_sizes: dict[int, int] = {}
        num_lost = 0
        for line_number, line in enumerate(self._read_lines(), start=1):
            try:
                fields = json.loads(line)
                arrays = tuple((name, dtype, tuple(shape)) for name, dtype, shape in fields.pop("arrays"))
                entry = ShardEntry(**fields, arrays=arrays)
            except (ValueError, TypeError, KeyError) as error:
                raise VidretError(f"{self._index}:{line_number}: must be an entry, got {line[:80]!r}") from error
            if entry.shard not in shard_sizes:
                path = self._path(entry.shard)
                shard_sizes[entry.shard] = path.stat().st_size if path.is_file() else 0
            if entry.offset + entry.num_bytes > shard_sizes[entry.shard]:
                num_lost += 1
                self._entries.pop(entry.key, None)
            else:
                self._entries[entry.key] = entry
        if num_lost:
            logger.warning("%s: the data of %d entries is missing and must be rebuilt", self.folder, num_lost)

    def _read_lines(self) -> list[bytes]:
        if not self._index.is_file():
            return []
        return self._index.read_bytes().split(b"\n")[:-1]

    def _truncate(self) -> None:
        """Remove data without a line, and lines without data, since new data may be written to the same offsets."""
        lines = b"".join(map(_to_line, self._entries.values()))
        if self._index.is_file() and self._index.read_bytes() != lines:
            new_index = self._index.with_suffix(".new")
            new_index.write_bytes(lines)
            new_index.replace(self._index)
        for shard in sorted(int(path.stem) for path in self.folder.glob("*.bin"))[-1:]:
            ends = [entry.offset + entry.num_bytes for entry in self._entries.values() if entry.shard == shard]
            os.truncate(self._path(shard), max(ends, default=0))

    def _end(self) -> tuple[int, int]:
        """Return the data file and the offset to write to next."""
        shards = [int(path.stem) for path in self.folder.glob("*.bin")]
        if not shards:
            return 0, 0
        size_bytes = self._path(max(shards)).stat().st_size
        return (max(shards), size_bytes) if size_bytes < SHARD_BYTES else (max(shards) + 1, 0)

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
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VidretError(f"{error.filename or self.folder}: cannot be written: {error.strerror}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without memory maps; another process creates its own."""
        return self.__dict__ | {"_maps": {}, "_verified": set()}


def name_folder(kind: str, settings: Facts) -> str:
    """Return a folder name that depends on all settings, so that different settings never share entries."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _to_line(entry: ShardEntry) -> bytes:
    return json.dumps(asdict(entry)).encode() + b"\n"


def _checksum(data: np.ndarray) -> str:
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _align(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
