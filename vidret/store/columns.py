"""Numpy columns that grow: rows are appended in place, and arrays that were handed out never change."""

from collections.abc import Mapping

import numpy as np

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
