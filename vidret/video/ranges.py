"""A file at an address, read in ranges: few requests, and no more bytes than somebody wants."""

import io
import os
import threading
from collections import OrderedDict
from typing import Any

from vidret.errors import DecodeError, UnreachableError
from vidret.types import NO_TIME
from vidret.video.urls import NoRangesError, call_store, is_web, open_store, parse_stat

BLOCK = 1 << 19
MOST_AT_ONCE = 8  # blocks in a request, when a file is read through
KEPT_BYTES = 32 << 20  # of blocks, in a process
WHOLE_BYTES = 256 << 20  # of a file whose server gives no ranges
SLOWEST = 100_000  # bytes a second, below which a range is not waited for


class RemoteFile(io.RawIOBase):
    """A file at an address, read in ranges.

    FFmpeg cannot pass an error on: a read that fails gives the end of the file, and ``check`` says why.
    """

    def __init__(self, address: str) -> None:
        """Ask the store about the file.

        Raises:
            DecodeError: It is not there, or an ``UnreachableError``: nobody can tell.
        """
        super().__init__()
        self.address = address
        self._store, self._path = open_store(address)
        self._at = 0
        self._left_out: list[tuple[int, int]] = []
        self._next, self._run = -1, 1
        self._failure: DecodeError | None = None
        self._store.invalidate_cache(self._path)
        info = call_store(address, lambda: self._store.info(self._path))
        self.about = about = parse_stat(address, info)
        self.num_bytes = about.st_size
        # Of a file whose changes nobody can see nothing is kept.
        self._key = (address, about if about.st_mtime_ns != NO_TIME else object())
        self._whole = _BLOCKS.get((self._key, -1))
        self._handle: Any = None
        if not self.num_bytes or info.get("partial") is False:
            self._read_whole()
        elif self._whole is None:
            known = {"size": self.num_bytes} if is_web(address) else {}  # else it would ask once more
            self._handle = call_store(
                address,
                lambda: self._store.open(self._path, "rb", block_size=BLOCK, cache_type="none", **known),
            )

    def leave_out(self, ranges: list[tuple[int, int]]) -> None:
        """Give zeros for these ranges, (start, end) each, and do not fetch them; none to read everything again."""
        self._left_out = ranges

    def check(self) -> None:
        """Raise what made a read fail."""
        if self._failure is not None:
            raise self._failure

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Give the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.num_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a block: what lies behind it may not be wanted."""
        wanted = min(len(buffer), self.num_bytes - self._at)
        if wanted <= 0 or self._failure is not None:
            return 0
        end = next((end for start, end in self._left_out if start <= self._at < end), None)
        try:
            data = self._read(wanted) if end is None else bytes(min(wanted, end - self._at))
        except DecodeError as error:
            self._failure = error
            return 0
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, wanted: int) -> bytes:
        if self._whole is not None:
            return self._whole[self._at : self._at + wanted]
        number, offset = divmod(self._at, BLOCK)
        block = _BLOCKS.get((self._key, number))
        if block is None:
            block = self._fetch(number, -(-(offset + wanted) // BLOCK) if wanted >= BLOCK else 1)
        return block[offset : offset + wanted]

    def _fetch(self, number: int, count: int) -> bytes:
        """Fetch blocks, the more the longer the file is read in order, and give the first."""
        self._run = min(2 * self._run, MOST_AT_ONCE) if number == self._next else 1
        count = max(self._run, min(count, MOST_AT_ONCE))
        count = next((n for n in range(1, count) if _BLOCKS.get((self._key, number + n)) is not None), count)
        start, end = number * BLOCK, min((number + count) * BLOCK, self.num_bytes)
        self._next = number + count
        try:
            data = call_store(self.address, lambda: self._ask_range(start, end), (end - start) / SLOWEST)
        except NoRangesError:
            return self._read_whole()[start : start + BLOCK]
        for place in range(0, len(data), BLOCK):
            _BLOCKS.put((self._key, number + place // BLOCK), data[place : place + BLOCK])
        return data[:BLOCK]

    def _ask_range(self, start: int, end: int) -> bytes:
        try:
            self._handle.seek(start)
            data = bytes(self._handle.read(end - start))
        except ValueError as error:  # so fsspec says that a web server sends everything
            raise NoRangesError from error
        if len(data) != end - start:
            raise OSError(f"{len(data)} of {end - start} bytes came")
        return data

    def _read_whole(self) -> bytes:
        """Fetch everything, for want of ranges.

        Raises:
            DecodeError: It is too large for that.
        """
        limit = f"its server gives no ranges, and it is larger than {WHOLE_BYTES >> 20} MiB: copy it here"
        if self.num_bytes > WHOLE_BYTES:
            raise DecodeError(self.address, limit)

        def stream() -> bytes:
            with self._store.open(self._path, "rb", block_size=0) as file:
                parts, left = [], WHOLE_BYTES + 1
                while left > 0 and (part := file.read(min(left, 1 << 20))):
                    parts.append(part)
                    left -= len(part)
            return b"".join(parts)

        self._whole = call_store(self.address, stream, (self.num_bytes or WHOLE_BYTES) / SLOWEST)
        if len(self._whole) > WHOLE_BYTES:
            raise DecodeError(self.address, limit)
        if self.num_bytes not in (0, len(self._whole)):
            raise UnreachableError(self.address, f"{len(self._whole)} of {self.num_bytes} bytes came")
        self.num_bytes = len(self._whole)
        _BLOCKS.put((self._key, -1), self._whole)
        return self._whole


class _Blocks:
    """What this process has read lately of all addresses; the last is kept however large."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[Any, bytes] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Any, data: bytes) -> None:
        with self._lock:
            self._num_bytes += len(data) - len(self._found.pop(key, b""))
            self._found[key] = data
            while self._num_bytes > KEPT_BYTES and len(self._found) > 1:
                self._num_bytes -= len(self._found.popitem(last=False)[1])


_BLOCKS = _Blocks()
