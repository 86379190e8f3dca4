"""Append-only, memory-mapped feature files of vectors and packed tokens, written before the catalog refers to them.

A row never changes: rows are not reused, and compaction writes new files under the next epoch. Rows that the catalog
does not refer to are the tail of an interrupted append, which the next writer truncates. Reading raises ``StoreError``
for bytes that are missing or do not match their checksum, and writing for a disk that is full or fails.
"""

import mmap
import os
import re
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Int64, Integer, UInt8

from vidret.disk import open_handle, remove_closed, sync_data, sync_folder, write_at
from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR
from vidret.store.records import SegmentLocation

Rows = Float16[np.ndarray, "_row dim"]
Bytes = UInt8[np.ndarray, "_byte 1"]
Numbers = Integer[np.ndarray, " piece"]
BYTES_PER_VALUE = 2
NAME = re.compile(r"((video|frames)(\.\d+)?\.f16|tokens(\.\d+)?\.bin)")  # the names from ``feature_paths``


def checksum_array(rows: np.ndarray) -> int:
    """Compute the CRC-32 of contiguous rows, which detects every burst of up to 32 flipped bits."""
    return zlib.crc32(rows.data)


class RowFile:
    """A file of rows of ``dim`` values."""

    def __init__(self, path: Path, dim: int, dtype: type[np.float16 | np.uint8] = np.float16, *, write: bool) -> None:
        """Open the file, created when writing; it is mapped on first use."""
        self.path = path
        self._dim, self._dtype = dim, dtype
        self._row_bytes = dim * np.dtype(dtype).itemsize
        self._handle = open_handle(path, write=write)
        self._close = weakref.finalize(self, os.close, self._handle)  # also closes files that a compaction replaced
        self._mapped: Rows | Bytes = np.empty((0, dim), dtype)

    def view(self, start: int, stop: int) -> Rows | Bytes:
        """Return rows ``start`` to ``stop`` without copying, remapping a file that has grown."""
        mapped = self._mapped  # read once: another thread may replace it by an older, shorter map
        if start < stop and stop > len(mapped):
            num_bytes = os.fstat(self._handle).st_size
            num_rows = num_bytes // self._row_bytes
            if num_rows < stop:
                raise StoreError(f"{self.path}: must have at least {stop * self._row_bytes} bytes, got {num_bytes}")
            # The handle stays open, so that a file deleted by a compaction can still be mapped.
            pages: Any = mmap.mmap(self._handle, num_rows * self._row_bytes, access=mmap.ACCESS_READ)
            self._mapped = mapped = np.frombuffer(pages, self._dtype).reshape(num_rows, self._dim)
        return mapped[start:stop]

    def read(self, start: int, num_rows: int, checksum: int, what: str = "rows from {} are") -> Rows | Bytes:
        """Return verified rows without copying; ``what`` is the beginning of the error for damaged ones."""
        rows = self.view(start, start + num_rows)
        if checksum_array(rows) != checksum:
            raise StoreError(f"{self.path}: {what.format(start)} damaged (checksum); {REPAIR}")
        return rows

    def read_all(self, starts: Numbers, lengths: Numbers, checksums: Numbers) -> list[Rows | Bytes]:
        """Return many pieces of verified rows, each given by its first row and its number of rows; see ``read``."""
        ends = starts + lengths
        rows = self.view(0, int(ends.max(initial=0)))
        pieces = [rows[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        if list(map(checksum_array, pieces)) != checksums.tolist():
            raise StoreError(f"{self.path}: some rows are damaged (checksum); {REPAIR}")
        return pieces

    def take(self, indices: Int64[np.ndarray, " row"]) -> tuple[Rows, Bool[np.ndarray, " row"]]:
        """Return copies of rows, and whether each exists; missing ones are zeros."""
        exists = indices < os.fstat(self._handle).st_size // self._row_bytes
        if len(indices) and exists.all():
            return self.view(0, int(indices.max()) + 1)[indices], exists
        rows = np.zeros((len(indices), self._dim), self._dtype)
        if exists.any():
            rows[exists] = self.view(0, int(indices[exists].max()) + 1)[indices[exists]]
        return rows, exists

    def write(self, start: int, rows: Rows | Bytes) -> None:
        """Write rows at ``start`` and wait for the disk."""
        if not len(rows):
            return
        remaining, offset = rows.reshape(-1).view(np.uint8).data, start * self._row_bytes
        try:
            while remaining:
                written = write_at(self._handle, remaining, offset)
                remaining, offset = remaining[written:], offset + written
            sync_data(self._handle)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from error

    def truncate(self, num_rows: int) -> None:
        """Set the number of rows: remove a torn tail, or replace lost rows by zeros, which fail their checksums."""
        if os.fstat(self._handle).st_size == num_rows * self._row_bytes:
            return
        try:
            os.ftruncate(self._handle, num_rows * self._row_bytes)
            os.fsync(self._handle)
        except (OSError, OverflowError) as error:
            raise StoreError(f"{self.path}: cannot have {num_rows} rows ({error})") from error

    def close(self) -> None:
        """Close the file; views stay readable."""
        self._close()


class Features:
    """The feature files of one epoch: a row per segment, a row per frame, and the packed tokens of segments.

    ``tail`` is the next free segment row, frame row and token byte of a writer.
    """

    def __init__(self, folder: Path, dim: int, epoch: int, *, write: bool = False) -> None:
        """Open the files of an epoch."""
        self.epoch, self.dim, self._folder = epoch, dim, folder
        video, frames, tokens = feature_paths(folder, epoch)
        self.video, self.frames = (RowFile(path, dim, write=write) for path in (video, frames))
        self.tokens = RowFile(tokens, 1, np.uint8, write=write)
        self._files = self.video, self.frames, self.tokens
        self.tail = (0, 0, 0)

    def resume(self, tail: tuple[int, int, int]) -> None:
        """Continue after the rows in the catalog; truncate leftovers of an interrupted append."""
        for file, num_rows in zip(self._files, tail, strict=True):
            file.truncate(num_rows)
        self.tail = tail

    def remove_others(self) -> None:
        """Delete the files of other epochs, which an interrupted compaction left behind."""
        paths = {path for path in self._folder.glob("*") if NAME.fullmatch(path.name)}
        for path in paths - set(feature_paths(self._folder, self.epoch)):
            remove_closed(path)

    @property
    def num_bytes(self) -> int:
        """The size of all files in bytes."""
        row, frame_row, token_byte = self.tail
        return (row + frame_row) * self.dim * BYTES_PER_VALUE + token_byte

    def append_all(self, segments: Sequence[tuple[Rows, Rows, Bytes]]) -> list[SegmentLocation]:
        """Write segments durably and return their locations; they are invisible until the catalog refers to them."""
        if not segments:
            return []
        for file, start, arrays in zip(self._files, self.tail, zip(*segments, strict=True), strict=True):
            file.write(start, arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        row, frame_row, token_byte = self.tail
        locations = []
        for video, frames, tokens in segments:
            locations.append(
                SegmentLocation(
                    row=row,
                    frame_row=frame_row,
                    num_frames=len(frames),
                    token_byte=token_byte,
                    num_bytes=len(tokens),
                    row_sum=checksum_array(video),
                    frames_sum=checksum_array(frames),
                    tokens_sum=checksum_array(tokens),
                )
            )
            row, frame_row, token_byte = row + 1, frame_row + len(frames), token_byte + len(tokens)
        self.tail = (row, frame_row, token_byte)
        return locations

    def view(self, location: SegmentLocation) -> tuple[Rows, Rows, Bytes]:
        """Return the vector, the frame vectors and the tokens of a segment, without verifying their checksums."""
        frame_row, token_byte = location.frame_row, location.token_byte
        return (
            self.video.view(location.row, location.row + 1),
            self.frames.view(frame_row, frame_row + location.num_frames),
            self.tokens.view(token_byte, token_byte + location.num_bytes),
        )

    def read_frames(self, location: SegmentLocation) -> Rows:
        """Return the frame vectors of a segment."""
        return self.frames.read(location.frame_row, location.num_frames, location.frames_sum)

    def read_video(self, location: SegmentLocation) -> Rows:
        """Return the vector of a segment, as (1, dim)."""
        return self.video.read(location.row, 1, location.row_sum, "row {} is")

    def read_tokens(self, location: SegmentLocation) -> memoryview:
        """Return the packed tokens of a segment, empty if none were stored."""
        packed = self.tokens.read(location.token_byte, location.num_bytes, location.tokens_sum, "bytes from {} are")
        return packed.reshape(-1).data

    def read_videos(
        self, indices: Int64[np.ndarray, " row"], sums: Integer[np.ndarray, " row"]
    ) -> tuple[Rows, Bool[np.ndarray, " row"]]:
        """Return copies of segment vectors, and whether each matches its checksum."""
        rows, exists = self.video.take(indices)
        return rows, exists & (np.fromiter(map(zlib.crc32, rows), np.int64, len(rows)) == sums)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def create_features(folder: Path, dim: int) -> None:
    """Create the empty files of a new index before its catalog, so that no reader finds a catalog without them."""
    try:
        folder.mkdir(exist_ok=True)
        Features(folder, dim, 0, write=True).close()
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror})") from error


def feature_paths(folder: Path, epoch: int) -> tuple[Path, Path, Path]:
    """Return the paths of an epoch's files: video.f16, frames.f16 and tokens.bin, then video.1.f16 and so on.

    Raises:
        StoreError: The epoch is not a number, as in a catalog that vidret did not write.
    """
    if not isinstance(epoch, int) or epoch < 0:
        raise StoreError(f"{folder}: epoch must be a number, got {epoch!r}")
    suffix = f".{epoch}" if epoch else ""
    return folder / f"video{suffix}.f16", folder / f"frames{suffix}.f16", folder / f"tokens{suffix}.bin"


def round_to_float16(
    name: str, values: Float[np.ndarray, "*shape"], shape: tuple[int, ...]
) -> Float16[np.ndarray, "*shape"]:
    """Convert vectors to float16 for storage.

    Raises:
        StoreError: The shape is wrong, or a value is not finite in float16.
    """
    if np.shape(values) != shape:
        raise StoreError(f"{name} must have the shape {shape}, got {np.shape(values)}")
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(rounded).all():
        raise StoreError(f"{name} must be finite, got {np.asarray(values)[~np.isfinite(rounded)][0]}")
    return rounded
