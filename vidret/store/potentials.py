"""Columns of float32 values by segment in files beside the vectors, appended to as segments come.

Rows are on disk before the catalog lists how many there are. What follows them was left by a killed writer, and is
overwritten by the next one.
"""

import os
import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store.os_calls import remove_closed, sync_folder

FOLDER = "potentials"
NAME = re.compile(r"[0-9a-f]{32}\.rows")

Ids = Int64[np.ndarray, " _id"]


@dataclass(frozen=True, slots=True)
class PotentialsFile:
    """A file, the number of its rows, and the checksum of these."""

    name: str
    num_rows: int
    checksum: int

    def __post_init__(self) -> None:
        """Check the name, which could lead out of the folder.

        Raises:
            ValueError: ``write_potentials`` writes no such file.
        """
        if not NAME.fullmatch(self.name):
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
    path = folder / FOLDER / known.name
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
    path = folder / FOLDER / stored.name
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
    path = folder / FOLDER / stored.name
    if path.exists():
        remove_closed(path)


def _row_type(names: Mapping[str, object] | Sequence[str]) -> np.dtype:
    return np.dtype([("id", np.int64), *((name, np.float32) for name in names)])
