"""Numpy columns that grow, and the file that saves them, so that opening an index reads no row of the catalog.

Rows are appended in place, and returned arrays never change. The catalog lists the columns of a file with their
checksums and the position at which they were complete. A damaged, missing or outdated file costs the time to compute
them again, but never gives a wrong result.
"""

import json
import logging
import mmap
import sys
import zlib
from collections.abc import KeysView, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vidret.disk import DRAFT, replacing
from vidret.store.snapshots.changes import Position

logger = logging.getLogger(__name__)

MIN_ROOM = 1024


class Columns:
    """Equally long numpy columns by name. One thread at a time may change them."""

    def __init__(self, dtypes: Mapping[str, type], rows: Mapping[str, np.ndarray] | None = None) -> None:
        """Start empty, or with rows, which are copied before they change."""
        self._columns = {name: np.zeros(0, dtype) if rows is None else rows[name] for name, dtype in dtypes.items()}
        self._num_rows = len(next(iter(self._columns.values())))

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a read-only view of the present rows of a column."""
        view = self._columns[name][: self._num_rows]
        view.flags.writeable = False
        return view

    def keys(self) -> KeysView[str]:
        """Return the names of the columns; with ``__getitem__``, this allows ``dict(columns)``."""
        return self._columns.keys()

    def append(self, rows: Mapping[str, np.ndarray], num_rows: int) -> None:
        """Append rows; a full column that is not new is doubled, so that appending stays cheap."""
        if not num_rows:
            return
        end = self._num_rows + num_rows
        for name, column in self._columns.items():
            if end > len(column):
                grown = np.empty(2 * end if self._num_rows else end + MIN_ROOM, column.dtype)
                grown[: self._num_rows] = column[: self._num_rows]
                self._columns[name] = column = grown
            column[self._num_rows : end] = rows[name]
        self._num_rows = end

    def update(self, name: str, rows: np.ndarray, values: np.ndarray | float) -> None:
        """Set values of some rows, in a copy of the column."""
        if len(rows):
            column = self._columns[name].copy()
            column[rows] = values
            self._columns[name] = column

    def set_last(self, name: str, values: np.ndarray, *, is_new: bool) -> None:
        """Set the values of the last rows; in place if ``is_new``, since no returned array has new rows."""
        if not len(values):
            return
        first = self._num_rows - len(values)
        if not is_new:
            self._columns[name] = self._columns[name].copy()
        self._columns[name][first : self._num_rows] = values


FILE_NAME, KEY = "snapshot.columns", "columns"  # in the folder of the index, and in the catalog
VERSION = 7
ALIGNMENT = 64  # bytes
THREADS = 2  # to verify checksums
WORDS = 512  # per block, of 8 bytes each
Saved = dict[str, np.ndarray]


def checksum_column(data: np.ndarray) -> int:
    """Compute the CRC-32 of the sums of a column's bytes as words: per block, and per position over all blocks.

    Any damage to one block changes its sum, unless it moves words or shifts amounts between them, which changes the
    sums of their positions. This takes a third of the time of a CRC-32 of all bytes.
    """
    data = data.view(np.uint8)
    blocks = data[: len(data) - len(data) % (8 * WORDS)].view(np.uint64).reshape(-1, WORDS)
    checksum = zlib.crc32(blocks.sum(axis=1).data, zlib.crc32(blocks.sum(axis=0).data))
    return zlib.crc32(data[blocks.nbytes :].data, checksum)


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Write columns to a file durably; return the length, the offset and the checksum of each.

    A column of zeros, such as the frames of texts, is not written; its offset is -1.

    Raises:
        StoreError: The disk is full or fails.
    """
    listed = {}
    with replacing(path, durable=True) as draft, draft.open("wb") as file:
        for name, column in columns.items():
            file.write(bytes(-file.tell() % ALIGNMENT))
            data = np.ascontiguousarray(column).view(np.uint8)
            offset, data = (file.tell(), data) if data.any() else (-1, data[:0])
            listed[name] = [len(column), offset, checksum_column(data)]
            file.write(data.data)
    return listed


def read_columns(path: Path, listed: Any, dtypes: Mapping[str, type[np.generic]]) -> Saved | None:
    """Return the columns of a file, given the result of ``write_columns``; None, with a log, if they are not intact."""
    try:
        with path.open("rb") as file:
            # Windows cannot replace a file that is mapped.
            is_mapped = sys.platform != "win32"
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if is_mapped else file.read()
        places = {name: listed[name] for name in dtypes}
        columns = {
            name: np.frombuffer(data, dtype, count, offset)
            if offset >= 0
            else np.broadcast_to(np.zeros(1, dtype), min(count, len(data)))
            for (name, dtype), (count, offset, _) in zip(dtypes.items(), places.values(), strict=True)
        }
        with ThreadPoolExecutor(THREADS) as pool:
            nothing = np.zeros(0, np.uint8)
            written = (columns[name] if offset >= 0 else nothing for name, (_, offset, _) in places.items())
            checksums = list(pool.map(checksum_column, written))
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        logger.info("%s: is missing or damaged (%s)", path, error)
        return None
    if checksums != [checksum for _, _, checksum in places.values()]:
        logger.info("%s: is damaged (checksum)", path)
        return None
    return columns


def save_columns(folder: Path, columns: Mapping[str, np.ndarray], position: Position) -> str:
    """Write the columns of a snapshot durably; return the entry for the catalog.

    Raises:
        StoreError: The disk is full or fails.
    """
    for draft in folder.glob(f"{FILE_NAME}.*{DRAFT}"):  # left by a killed writer
        draft.unlink()
    listed = write_columns(folder / FILE_NAME, columns)
    return json.dumps({"version": VERSION, "columns": listed, "position": position})


def load_columns(folder: Path, listed: str, dtypes: Mapping[str, type[np.generic]]) -> tuple[Saved, Position] | None:
    """Return the columns that the catalog lists, and their position; None if not intact."""
    try:
        entry = json.loads(listed)
        position, columns = Position(*map(int, entry["position"])), entry["columns"]
        if entry["version"] != VERSION:
            return None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        logger.info("%s: reading all rows (%s)", folder / FILE_NAME, error)
        return None
    saved = read_columns(folder / FILE_NAME, columns, dtypes)
    return None if saved is None else (saved, position)
