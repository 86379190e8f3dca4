"""Numpy columns that grow, and columns in files, so that opening an index reads no row of the catalog.

Rows are appended in place, and arrays that were handed out never change. The catalog lists the columns of a file with
their checksums and the position at which they were complete. A file that is damaged, missing or of another time costs
the time to compute them again, and no wrong result.
"""

import json
import logging
import mmap
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.disk import DRAFT, remove_closed, replacing, sync_folder
from vidret.errors import StoreError
from vidret.store.snapshots.changes import Position

logger = logging.getLogger(__name__)

MIN_ROOM = 1024


class Columns:
    """Equally long numpy columns by name. One thread at a time may change them."""

    def __init__(self, dtypes: Mapping[str, type], rows: Mapping[str, np.ndarray] | None = None) -> None:
        """Start with rows, which are copied only once others follow, or without any."""
        self._columns = {name: np.zeros(0, dtype) if rows is None else rows[name] for name, dtype in dtypes.items()}
        self._num_rows = len(next(iter(self._columns.values())))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column as it is now."""
        view = self._columns[name][: self._num_rows]
        view.flags.writeable = False
        return view

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._columns)

    def append(self, rows: Mapping[str, np.ndarray], num_rows: int) -> None:
        """Append rows; a full column that is not new gets room for as many again, so that appending stays cheap."""
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
        """Set the values of the last rows: in place if they are new, so that no array that was handed out has them."""
        if not len(values):
            return
        first = self._num_rows - len(values)
        if not is_new:
            self._columns[name] = self._columns[name].copy()
        self._columns[name][first : self._num_rows] = values


FILE_NAME, KEY = "snapshot.columns", "columns"  # in the folder of the index, and in the catalog
VERSION = 5
ALIGNMENT = 64  # bytes
THREADS = 2  # that verify checksums
Saved = dict[str, np.ndarray]


def save_columns(folder: Path, columns: Mapping[str, np.ndarray], position: Position) -> str:
    """Write columns durably; return what the catalog must list.

    Raises:
        StoreError: The disk is full or fails.
    """
    listed = {}
    for left in folder.glob(f"{FILE_NAME}.*{DRAFT}"):  # by a writer that was killed
        left.unlink()
    with replacing(folder / FILE_NAME, durable=True) as draft, draft.open("wb") as file:
        for name, column in columns.items():
            file.write(bytes(-file.tell() % ALIGNMENT))
            data = np.ascontiguousarray(column).data
            listed[name] = [len(column), file.tell(), zlib.crc32(data)]
            file.write(data)
    return json.dumps({"version": VERSION, "columns": listed, "position": position})


def load_columns(folder: Path, listed: str, dtypes: Mapping[str, type[np.generic]]) -> tuple[Saved, Position] | None:
    """Return the columns that the catalog lists, mapped from their file, and their position; None if not intact."""
    try:
        entry = json.loads(listed)
        position = Position(*map(int, entry["position"]))
        if entry["version"] != VERSION:
            return None
        with (folder / FILE_NAME).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        places = {name: entry["columns"][name] for name in dtypes}
        columns = {
            name: np.frombuffer(data, dtype, count, offset) if count else np.zeros(0, dtype)
            for (name, dtype), (count, offset, _) in zip(dtypes.items(), places.values(), strict=True)
        }
        with ThreadPoolExecutor(THREADS) as pool:
            checksums = list(pool.map(zlib.crc32, columns.values()))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.info("%s: reading all rows (%s)", folder / FILE_NAME, error)
        return None
    if checksums != [checksum for _, _, checksum in places.values()]:
        logger.info("%s: reading all rows (checksum)", folder / FILE_NAME)
        return None
    return columns, position


POTENTIALS = "potentials"  # the folder of columns that grow with the segments
POTENTIALS_NAME = re.compile(r"[0-9a-f]{32}\.rows")

Ids = Int64[np.ndarray, " _id"]


@dataclass(frozen=True, slots=True)
class PotentialsFile:
    """A file, the number of its rows, and the checksum of these."""

    name: str
    num_rows: int
    checksum: int

    def __post_init__(self) -> None:
        """Check the name, which could lead out of the folder."""
        if not POTENTIALS_NAME.fullmatch(self.name):
            raise ValueError(f"name must be that of a file of potentials, got {self.name}")


def write_potentials(
    folder: Path, ids: Ids, columns: Mapping[str, Float32[np.ndarray, " id"]], stored: PotentialsFile | None
) -> PotentialsFile:
    """Write rows durably: those after the rows of the file in which the first are ``stored``, or all to a new file.

    Raises:
        StoreError: The disk is full or fails.
    """
    known = stored or PotentialsFile(f"{uuid.uuid4().hex}.rows", 0, 0)
    rows = np.empty(len(ids) - known.num_rows, _row_type(columns))
    rows["id"] = ids[known.num_rows :]
    for name, column in columns.items():
        rows[name] = column[known.num_rows :]
    path = folder / POTENTIALS / known.name
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("r+b" if stored else "xb") as file:
            file.seek(known.num_rows * rows.itemsize)
            file.write(rows.tobytes())
            file.truncate()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    return PotentialsFile(known.name, len(ids), zlib.crc32(rows.tobytes(), known.checksum))


def read_potentials(
    folder: Path, stored: PotentialsFile, names: Sequence[str]
) -> tuple[Ids, dict[str, Float32[np.ndarray, " id"]]]:
    """Return the ids and the columns of a file.

    Raises:
        StoreError: The file is missing or damaged.
    """
    path = folder / POTENTIALS / stored.name
    try:
        row_type, num_bytes = _row_type(names), path.stat().st_size
        rows = np.fromfile(path, row_type, min(stored.num_rows, num_bytes // row_type.itemsize))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error
    if len(rows) != stored.num_rows or zlib.crc32(rows.data) != stored.checksum:
        raise StoreError(f"{path}: is damaged (checksum)")
    return rows["id"].copy(), {name: rows[name].copy() for name in names}


def remove_potentials(folder: Path, stored: PotentialsFile) -> None:
    """Delete a file that the catalog no longer lists."""
    path = folder / POTENTIALS / stored.name
    if path.exists():
        remove_closed(path)


def _row_type(names: Mapping[str, object] | Sequence[str]) -> np.dtype:
    return np.dtype([("id", np.int64), *((name, np.float32) for name in names)])
