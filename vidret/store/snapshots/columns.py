"""Numpy columns that grow, and those of all segments in a file, so that opening an index need not read the row of each.

Rows are appended in place, and arrays that were handed out never change. The catalog lists the file with its checksum
and the position at which it was complete. One that is damaged, missing or of another time costs the time to read the
rows, and no wrong result.
"""

import json
import logging
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vidret.errors import StoreError
from vidret.store.os_calls import sync_folder
from vidret.store.snapshots.bitmap import are_ids
from vidret.store.snapshots.changes import Position

MIN_ROOM = 1024


class Columns:
    """Equally long numpy columns by name. One thread at a time may change them."""

    def __init__(self, dtypes: Mapping[str, type]) -> None:
        """Start without rows."""
        self._num_rows = 0
        self._columns: dict[str, np.ndarray] = {name: np.zeros(0, dtype) for name, dtype in dtypes.items()}

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column as it is now."""
        view = self._columns[name][: self._num_rows]
        view.flags.writeable = False
        return view

    def append(self, rows: Mapping[str, np.ndarray], num_rows: int) -> None:
        """Append rows; a full column that is not new gets room for as many again, so that appending stays cheap."""
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
        """Set the values of the last rows: in place if they are new, so that no array that was handed out has them."""
        first = self._num_rows - len(values)
        if not is_new:
            self._columns[name] = self._columns[name].copy()
        self._columns[name][first : self._num_rows] = values


logger = logging.getLogger(__name__)

FILE_NAME, KEY = "segments.columns", "columns"  # in the folder of the index, and in the catalog
VERSION = 2


def save_columns(folder: Path, columns: Mapping[str, np.ndarray], position: Position) -> str:
    """Write columns durably; return what the catalog must list.

    Raises:
        StoreError: The disk is full or fails.
    """
    path, unfinished, checksum = folder / FILE_NAME, folder / f"{FILE_NAME}.unfinished", 0
    try:
        with unfinished.open("wb") as file:
            for column in columns.values():
                checksum = zlib.crc32(column.data, checksum)
                file.write(column.data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(folder)
    except OSError as error:
        unfinished.unlink(missing_ok=True)  # a full disk needs the space
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    num_rows = len(next(iter(columns.values())))
    return json.dumps({"version": VERSION, "rows": num_rows, "checksum": checksum, "position": position})


def load_columns(
    folder: Path, listed: str, dtypes: Mapping[str, type[np.generic]]
) -> tuple[dict[str, np.ndarray], Position] | None:
    """Return the columns that the catalog lists, whose first are the ids, and their position; None if not intact."""
    try:
        row = json.loads(listed)
        num_rows, position = int(row["rows"]), Position(*map(int, row["position"]))
        num_bytes = num_rows * sum(np.dtype(dtype).itemsize for dtype in dtypes.values())
        with (folder / FILE_NAME).open("rb") as file:
            if row["version"] != VERSION or os.fstat(file.fileno()).st_size != num_bytes or not num_bytes:
                return None
            data = mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.info("%s: reading all rows (%s)", folder / FILE_NAME, error)
        return None
    if zlib.crc32(data) != row["checksum"]:
        logger.info("%s: reading all rows (checksum)", folder / FILE_NAME)
        return None
    columns, offset = {}, 0
    for name, dtype in dtypes.items():
        columns[name] = np.frombuffer(data, dtype, num_rows, offset)
        offset += columns[name].nbytes
    ids = next(iter(columns.values()))
    is_valid = are_ids(ids) and (not num_rows or ids[-1] <= position.segment)
    return (columns, position) if is_valid else None
