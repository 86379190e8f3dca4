"""Files at URLs, read in ranges and cached in blocks, with few requests and few unneeded bytes."""

import io
import os
import threading
from collections import OrderedDict
from typing import Any

from vidret.errors import DecodeError, UnreachableError
from vidret.types import NO_TIME
from vidret.video.urls import NoRangesError, call_store, is_web, open_store, parse_stat

BLOCK = 1 << 19
MAX_BLOCKS_PER_REQUEST = 8
CACHE_BYTES = 32 << 20  # of blocks, per process
MAX_WHOLE_BYTES = 256 << 20  # largest file that is read from a server without ranges
MIN_BYTES_PER_S = 100_000  # a slower transfer times out


class RemoteFile(io.RawIOBase):
    """A file at a URL, read in ranges.

    FFmpeg cannot pass an error on: a failed read looks like the end of the file, and ``check`` raises the reason.
    """

    def __init__(self, url: str) -> None:
        """Stat the file and open it.

        Raise DecodeError if it does not exist, UnreachableError if its store is unavailable.
        """
        super().__init__()
        self.url = url
        self._store, self._path = open_store(url)
        self._offset = 0
        self._skipped: list[tuple[int, int]] = []
        self._next_block, self._read_ahead = -1, 1
        self._failure: DecodeError | None = None
        self._store.invalidate_cache(self._path)
        info = call_store(url, lambda: self._store.info(self._path))
        self.stat = file_stat = parse_stat(url, info)
        self.num_bytes = file_stat.st_size
        # A file without a modification time or tag is never cached.
        self._key = (url, file_stat if file_stat.st_mtime_ns != NO_TIME else object())
        self._whole = _CACHE.get((self._key, -1))
        self._handle: Any = None
        if self._whole is not None:
            self.num_bytes = len(self._whole)
        elif not self.num_bytes or info.get("partial") is False:
            self._read_whole()
        else:
            known_size = {"size": self.num_bytes} if is_web(url) else {}  # saves a request
            self._handle = call_store(
                url, lambda: self._store.open(self._path, "rb", block_size=BLOCK, cache_type="none", **known_size)
            )

    def skip_ranges(self, ranges: list[tuple[int, int]]) -> None:
        """Read these (start, end) ranges as zeros without fetching them, in place of any set before."""
        self._skipped = ranges

    def check(self) -> None:
        """Raise the error of a failed read, a DecodeError."""
        if self._failure is not None:
            raise self._failure

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self.num_bytes}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Read to the end of the current block at most, since later blocks may not be needed."""
        wanted = min(len(buffer), self.num_bytes - self._offset)
        if wanted <= 0 or self._failure is not None:
            return 0
        skip_end = next((end for start, end in self._skipped if start <= self._offset < end), None)
        try:
            data = self._read_block(wanted) if skip_end is None else bytes(min(wanted, skip_end - self._offset))
        except DecodeError as error:
            self._failure = error
            return 0
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def _read_block(self, wanted: int) -> bytes:
        if self._whole is not None:
            return self._whole[self._offset : self._offset + wanted]
        block_index, start = divmod(self._offset, BLOCK)
        block = _CACHE.get((self._key, block_index))
        if block is None:
            block = self._fetch(block_index, -(-(start + wanted) // BLOCK) if wanted >= BLOCK else 1)
        return block[start : start + wanted]

    def _fetch(self, first: int, num_blocks: int) -> bytes:
        """Fetch blocks and return the first; each sequential read fetches twice as many, up to a limit."""
        self._read_ahead = min(2 * self._read_ahead, MAX_BLOCKS_PER_REQUEST) if first == self._next_block else 1
        num_blocks = max(self._read_ahead, min(num_blocks, MAX_BLOCKS_PER_REQUEST))
        cached = (n for n in range(1, num_blocks) if _CACHE.get((self._key, first + n)) is not None)
        num_blocks = next(cached, num_blocks)
        start, end = first * BLOCK, min((first + num_blocks) * BLOCK, self.num_bytes)
        self._next_block = first + num_blocks
        try:
            data = call_store(self.url, lambda: self._fetch_range(start, end), (end - start) / MIN_BYTES_PER_S)
        except NoRangesError:
            return self._read_whole()[start : start + BLOCK]
        for offset in range(0, len(data), BLOCK):
            _CACHE.put((self._key, first + offset // BLOCK), data[offset : offset + BLOCK])
        return data[:BLOCK]

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            self._handle.seek(start)
            data = bytes(self._handle.read(end - start))
        except ValueError as error:  # fsspec raises it for a web server without ranges
            raise NoRangesError from error
        if len(data) != end - start:
            raise OSError(f"{len(data)} of {end - start} bytes arrived")
        return data

    def _read_whole(self) -> bytes:
        """Fetch and cache the whole file, because its server does not support ranges."""
        too_large = f"its server supports no ranges, and it is larger than {MAX_WHOLE_BYTES >> 20} MiB: copy it here"
        if self.num_bytes > MAX_WHOLE_BYTES:
            raise DecodeError(self.url, too_large)

        def stream() -> bytes:
            with self._store.open(self._path, "rb", block_size=0) as file:
                chunks, remaining = [], MAX_WHOLE_BYTES + 1
                while remaining > 0 and (chunk := file.read(min(remaining, 1 << 20))):
                    chunks.append(chunk)
                    remaining -= len(chunk)
            return b"".join(chunks)

        self._whole = call_store(self.url, stream, (self.num_bytes or MAX_WHOLE_BYTES) / MIN_BYTES_PER_S)
        if len(self._whole) > MAX_WHOLE_BYTES:
            raise DecodeError(self.url, too_large)
        if self.num_bytes not in (0, len(self._whole)):
            raise UnreachableError(self.url, f"{len(self._whole)} of {self.num_bytes} bytes arrived")
        self.num_bytes = len(self._whole)
        _CACHE.put((self._key, -1), self._whole)
        return self._whole


class _BlockCache:
    """A cache of the blocks that this process read last, from all URLs. The newest is kept whatever its size."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Any, bytes] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: Any, data: bytes) -> None:
        with self._lock:
            self._num_bytes += len(data) - len(self._blocks.pop(key, b""))
            self._blocks[key] = data
            while self._num_bytes > CACHE_BYTES and len(self._blocks) > 1:
                self._num_bytes -= len(self._blocks.popitem(last=False)[1])


_CACHE = _BlockCache()
