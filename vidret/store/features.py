"""Append-only feature files, memory-mapped: rows of vectors and runs of bytes, written before the catalog names them.

A row never changes under its number: rows are not reused, and compaction writes new files under the next epoch. What
the catalog does not know of is the tail of an interrupted append, and the next writer cuts it off.
"""

import mmap
import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Int64, UInt8

from vidret.errors import StoreError
from vidret.store.database import REPAIR
from vidret.store.records import Place

Rows = Float16[np.ndarray, "_row dim"]
Bytes = UInt8[np.ndarray, "_byte 1"]
BYTES_PER_VALUE = 2


def checksum_array(rows: np.ndarray) -> int:
    """Sum up the bytes of contiguous rows (CRC-32 finds every burst of up to 32 flipped bits)."""
    return zlib.crc32(rows.data) if rows.size else 0


class RowFile:
    """Rows of ``dim`` values in one file."""

    def __init__(self, path: Path, dim: int, dtype: type[np.float16 | np.uint8] = np.float16, *, write: bool) -> None:
        """Open the file, creating it when writing; readers map it on first use."""
        self.path = path
        self._dim, self._dtype = dim, dtype
        self._row_bytes = dim * np.dtype(dtype).itemsize
        self._handle = os.open(path, (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, self._handle)  # also for files that a compaction left behind
        self._mapped: Rows | Bytes = np.empty((0, dim), dtype)

    def view(self, start: int, stop: int) -> Rows | Bytes:
        """Look at rows ``start`` to ``stop`` without copying, mapping the file anew when it has grown."""
        mapped = self._mapped  # looked at once: another thread may put back its map of a time when less was written
        if start < stop and stop > len(mapped):
            num_bytes = os.fstat(self._handle).st_size
            num_rows = num_bytes // self._row_bytes
            if num_rows < stop:
                stored = stop * self._row_bytes
                raise StoreError(f"{self.path}: ends after {num_bytes} bytes, of {stored} or more that were stored")
            # The handle stays open, so that a file deleted by a compaction can still be mapped by those who know it.
            pages: Any = mmap.mmap(self._handle, num_rows * self._row_bytes, prot=mmap.PROT_READ)
            self._mapped = mapped = np.frombuffer(pages, self._dtype).reshape(num_rows, self._dim)
        return mapped[start:stop]

    def take(self, numbers: Int64[np.ndarray, " row"]) -> tuple[Rows, Bool[np.ndarray, " row"]]:
        """Copy some rows, and say which of them the file holds; the others are zeros."""
        there = numbers < os.fstat(self._handle).st_size // self._row_bytes
        rows = np.zeros((len(numbers), self._dim), self._dtype)
        if there.any():
            rows[there] = self.view(0, int(numbers[there].max()) + 1)[numbers[there]]
        return rows, there

    def write(self, start: int, rows: Rows | Bytes) -> None:
        """Put rows at ``start`` and wait until the disk has them."""
        if not len(rows):
            return
        left, offset = rows.reshape(-1).view(np.uint8).data, start * self._row_bytes
        try:
            while left:
                written = os.pwrite(self._handle, left, offset)
                left, offset = left[written:], offset + written
            os.fdatasync(self._handle)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from error

    def cut(self, num_rows: int) -> None:
        """Make the file ``num_rows`` long: drop a torn tail, or leave lost rows as zeros that no checksum fits."""
        if os.fstat(self._handle).st_size != num_rows * self._row_bytes:
            os.ftruncate(self._handle, num_rows * self._row_bytes)
            os.fsync(self._handle)

    def close(self) -> None:
        """Give the file back; views handed out stay readable."""
        self._close()


class Features:
    """The feature files of one epoch: a row per segment, a row per frame, and the segments' tokens as packed bytes."""

    def __init__(
        self, folder: Path, dim: int, epoch: int, *, write: bool = False, paths: tuple[Path, Path, Path] | None = None
    ) -> None:
        """Open the files of an epoch, or those at ``paths``: video rows, frame rows, tokens."""
        self.epoch = epoch
        self.dim = dim
        self._folder = folder
        video, frames, tokens = paths or feature_paths(folder, epoch)
        self.video, self.frames = (RowFile(path, dim, write=write) for path in (video, frames))
        self.tokens = RowFile(tokens, 1, np.uint8, write=write)
        self._tail = (0, 0, 0)

    def resume(self, num_rows: int, num_frame_rows: int, num_bytes: int) -> None:
        """Continue after the rows the catalog knows; cut off what an interrupted append left behind."""
        self.video.cut(num_rows)
        self.frames.cut(num_frame_rows)
        self.tokens.cut(num_bytes)
        self._tail = (num_rows, num_frame_rows, num_bytes)

    def remove_others(self) -> None:
        """Delete the files of other epochs, which an interrupted compaction left behind."""
        found = {path for pattern in ("*.f16", "*.bin") for path in self._folder.glob(pattern)}
        for path in found - set(feature_paths(self._folder, self.epoch)):
            path.unlink()

    @property
    def tail(self) -> tuple[int, int, int]:
        """Give the numbers of the next free rows: in the video file, in the frame file, and the next free byte."""
        return self._tail

    @property
    def num_bytes(self) -> int:
        """Count the bytes in all files."""
        row, frame_row, token_byte = self._tail
        return (row + frame_row) * self.dim * BYTES_PER_VALUE + token_byte

    def append(self, video: Rows, frames: Rows, tokens: Bytes) -> Place:
        """Write one segment's rows and bytes durably and say where; nobody sees them until the catalog does."""
        return self.append_all([(video, frames, tokens)])[0]

    def append_all(self, segments: Sequence[tuple[Rows, Rows, Bytes]]) -> list[Place]:
        """Write segments as ``append`` does, waiting once for the disk, not once for each."""
        if not segments:
            return []
        row, frame_row, token_byte = self._tail
        files = (self.video, row), (self.frames, frame_row), (self.tokens, token_byte)
        for (file, start), parts in zip(files, zip(*segments, strict=True), strict=True):
            file.write(start, parts[0] if len(parts) == 1 else np.concatenate(parts))
        places = []
        for video, frames, tokens in segments:
            sums = checksum_array(video), checksum_array(frames), checksum_array(tokens)
            places.append(Place(row, frame_row, len(frames), token_byte, len(tokens), *sums))
            row, frame_row, token_byte = row + 1, frame_row + len(frames), token_byte + len(tokens)
        self._tail = (row, frame_row, token_byte)
        return places

    def read_frames(self, place: Place) -> Rows:
        """Look at one segment's frame rows.

        Raises:
            StoreError: the bytes are not the ones that were written.
        """
        rows = self.frames.view(place.frame_row, place.frame_row + place.num_frames)
        if checksum_array(rows) != place.frames_sum:
            raise StoreError(f"{self.frames.path}: rows from {place.frame_row} are damaged (checksum); {REPAIR}")
        return rows

    def read_video(self, place: Place) -> Rows:
        """Look at one segment's own row, as (1, dim).

        Raises:
            StoreError: the bytes are not the ones that were written.
        """
        rows = self.video.view(place.row, place.row + 1)
        if checksum_array(rows) != place.row_sum:
            raise StoreError(f"{self.video.path}: row {place.row} is damaged (checksum); {REPAIR}")
        return rows

    def read_videos(
        self, numbers: Int64[np.ndarray, " row"], sums: Int64[np.ndarray, " row"]
    ) -> tuple[Rows, Bool[np.ndarray, " row"]]:
        """Copy many segments' own rows, and say which of them are what was written."""
        rows, there = self.video.take(numbers)
        return rows, there & (np.fromiter(map(zlib.crc32, rows), np.int64, len(rows)) == sums)

    def read_tokens(self, place: Place) -> memoryview:
        """Look at one segment's packed tokens; empty where none were stored.

        Raises:
            StoreError: the bytes are not the ones that were written.
        """
        packed = self.tokens.view(place.token_byte, place.token_byte + place.num_bytes)
        if checksum_array(packed) != place.tokens_sum:
            raise StoreError(f"{self.tokens.path}: bytes from {place.token_byte} are damaged (checksum); {REPAIR}")
        return packed.reshape(-1).data

    def close(self) -> None:
        """Give the files back."""
        self.video.close()
        self.frames.close()
        self.tokens.close()


def feature_paths(folder: Path, epoch: int) -> tuple[Path, Path, Path]:
    """Name an epoch's files: video.f16, frames.f16 and tokens.bin at first, video.2.f16 ... after two compactions."""
    number = f".{epoch}" if epoch else ""
    return folder / f"video{number}.f16", folder / f"frames{number}.f16", folder / f"tokens{number}.bin"


def half(name: str, values: Float[np.ndarray, "*shape"], shape: tuple[int, ...]) -> Float16[np.ndarray, "*shape"]:
    """Round vectors to the float16 that is stored, refusing what would poison a search."""
    if np.shape(values) != shape:
        raise StoreError(f"{name} must have the shape {shape}, got {np.shape(values)}")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(half).all():
        raise StoreError(f"{name} must be finite, got {np.asarray(values)[~np.isfinite(half)][0]}")
    return half
