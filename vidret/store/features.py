"""Append-only feature files, memory-mapped: float16 rows, written before the catalog says that they exist.

A row never changes under its number: rows are not reused, and compaction writes new files under the next epoch. What
the catalog does not know of is the tail of an interrupted append, and the next writer cuts it off.
"""

import mmap
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from vidret.errors import StoreError
from vidret.store.records import Place

Rows = Float16[np.ndarray, "row dim"]
BYTES_PER_VALUE = 2


def checksum(rows: np.ndarray) -> int:
    """Sum up the bytes of contiguous rows (CRC-32 finds every burst of up to 32 flipped bits)."""
    return zlib.crc32(rows.data) if rows.size else 0


class RowFile:
    """Rows of ``dim`` float16 values in one file."""

    def __init__(self, path: Path, dim: int, *, write: bool) -> None:
        """Open the file, creating it when writing; readers map it on first use."""
        self.path = path
        self._dim = dim
        self._row_bytes = dim * BYTES_PER_VALUE
        self._handle = os.open(path, (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, self._handle)  # also for files that a compaction left behind
        self._mapped: Rows = np.empty((0, dim), np.float16)

    def view(self, start: int, stop: int) -> Rows:
        """Look at rows ``start`` to ``stop`` without copying, mapping the file anew when it has grown."""
        if stop > len(self._mapped):
            num_rows = os.fstat(self._handle).st_size // self._row_bytes
            if num_rows < stop:
                raise StoreError(f"{self.path}: row {stop - 1} is lost, the file ends after {num_rows} rows")
            # The handle stays open, so that a file deleted by a compaction can still be mapped by those who know it.
            mapped: Any = mmap.mmap(self._handle, num_rows * self._row_bytes, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapped, np.float16).reshape(num_rows, self._dim)
        return self._mapped[start:stop]

    def write(self, start: int, rows: Rows) -> None:
        """Put rows at ``start`` and wait until the disk has them."""
        left, offset = memoryview(rows.tobytes()), start * self._row_bytes
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
    """The two feature files of one epoch: a row per segment, and a row per frame."""

    def __init__(self, folder: Path, dim: int, epoch: int, *, write: bool = False) -> None:
        """Open both files."""
        self.epoch = epoch
        self.dim = dim
        self._folder = folder
        self.video, self.frames = (RowFile(path, dim, write=write) for path in feature_paths(folder, epoch))
        self._tail = (0, 0)

    def resume(self, num_rows: int, num_frame_rows: int) -> None:
        """Continue after the rows the catalog knows; cut off what an interrupted append left behind."""
        self.video.cut(num_rows)
        self.frames.cut(num_frame_rows)
        self._tail = (num_rows, num_frame_rows)

    def remove_others(self) -> None:
        """Delete the files of other epochs, which an interrupted compaction left behind."""
        for path in set(self._folder.glob("*.f16")) - set(feature_paths(self._folder, self.epoch)):
            path.unlink()

    @property
    def tail(self) -> tuple[int, int]:
        """Give the numbers of the next free rows: in the video file, in the frame file."""
        return self._tail

    def append(self, video: Rows, frames: Rows) -> Place:
        """Write rows durably and say where; nobody sees them until the catalog does."""
        row, frame_row = self._tail
        self.video.write(row, video)
        self.frames.write(frame_row, frames)
        self._tail = (row + len(video), frame_row + len(frames))
        return Place(row, frame_row, len(frames), checksum(video), checksum(frames))

    def read_frames(self, place: Place) -> Rows:
        """Look at one segment's frame rows.

        Raises:
            StoreError: the bytes are not the ones that were written.
        """
        rows = self.frames.view(place.frame_row, place.frame_row + place.num_frames)
        if checksum(rows) != place.frames_sum:
            raise StoreError(
                f"{self.frames.path}: rows from {place.frame_row} are damaged (checksum); verify and repair"
            )
        return rows

    def read_video(self, place: Place) -> Rows:
        """Look at one segment's own row, as (1, dim).

        Raises:
            StoreError: the bytes are not the ones that were written.
        """
        rows = self.video.view(place.row, place.row + 1)
        if checksum(rows) != place.row_sum:
            raise StoreError(f"{self.video.path}: row {place.row} is damaged (checksum); verify and repair")
        return rows

    def close(self) -> None:
        """Give both files back."""
        self.video.close()
        self.frames.close()


def feature_paths(folder: Path, epoch: int) -> tuple[Path, Path]:
    """Name an epoch's files: video.f16 and frames.f16 at first, video.2.f16 and frames.2.f16 after two compactions."""
    suffix = f".{epoch}.f16" if epoch else ".f16"
    return folder / f"video{suffix}", folder / f"frames{suffix}"


def half(name: str, values: Float[np.ndarray, "*shape"], shape: tuple[int, ...]) -> Float16[np.ndarray, "*shape"]:
    """Round vectors to the float16 that is stored, refusing what would poison a search."""
    if np.shape(values) != shape:
        raise StoreError(f"{name} must have the shape {shape}, got {np.shape(values)}")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(half).all():
        raise StoreError(f"{name} must be finite, got {np.asarray(values)[~np.isfinite(half)][0]}")
    return half
