"""JSON files beside the catalog of an index, each with rows of one kind, such as its collections or its watches.

A change replaces the whole file, and can be made while another process indexes.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from vidret.disk import locking, replacing
from vidret.errors import NotFoundError, StoreError
from vidret.store.folder import check_entries
from vidret.text import parse_json
from vidret.types import SavedCollection
from vidret.types.rows import from_row

MAX_WAIT_S = 30.0  # for another change, which takes milliseconds unless its process is stopped
DAMAGE = (ValueError, OverflowError, LookupError, TypeError, AttributeError)  # errors of reading damaged rows


class NamedRow(Protocol):
    """A row that is identified by its name."""

    @property
    def name(self) -> str:
        """The name, unique in the file."""


Row = TypeVar("Row", bound=NamedRow)


class RowsFile(Generic[Row]):
    """A JSON file of dataclasses in the folder of an index, with a checksum."""

    def __init__(self, kind: str, row_type: type[Row], check: Callable[[Row], Row] = lambda row: row) -> None:
        """Set the kind of rows, which names the file, their type, and a check, which may raise ``ValueError``."""
        self.kind, self._type, self._check = kind, row_type, check

    def path(self, index: Path) -> Path:
        """Return the path of the file of an index, which exists if it has rows."""
        return index / f"{self.kind}.json"

    def read(self, index: Path) -> list[Row]:
        """Return the rows of an index, in the order in which they were added.

        Raises:
            StoreError: The file cannot be read, or the folder holds a link.
        """
        check_entries(index, deep=False)
        path = self.path(index)
        if not path.exists():
            return []
        try:
            document = parse_json(path.read_text("utf-8"))
            rows = document[self.kind]
            if document["checksum"] != _checksum(rows):
                raise ValueError("the checksum does not match; run vidret info --repair, and add them again")
            return [self._parse(row) for row in rows]
        except (OSError, *DAMAGE) as error:
            raise StoreError(f"{path}: cannot be read as {self.kind}: {error}") from error

    def _parse(self, row: Any) -> Row:
        if unknown := row.keys() - {field.name for field in fields(self._type)}:  # type: ignore[arg-type]
            raise ValueError(f"{min(unknown)} is no part of a row")
        return self._check(from_row(self._type, row))

    @contextmanager
    def change(self, index: Path) -> Iterator[list[Row]]:
        """Yield the rows of an index as a list to change, which is written at the end; other writers wait.

        Raises:
            StoreError: The file cannot be read or written, or another process keeps it locked; the old one stays.
        """
        check_entries(index, deep=False)
        with locking(index / f"{self.kind}.lock", max_wait_s=MAX_WAIT_S):
            rows = self.read(index)
            before = list(rows)
            yield rows
            if rows != before:
                self.write(index, rows)

    def remove(self, index: Path, name: str, what: str) -> None:
        """Remove the row of a name; ``what`` names the kind of row in the error.

        Raises:
            NotFoundError: No row has the name.
        """
        with self.change(index) as rows:
            remaining = [row for row in rows if row.name != name]
            if len(remaining) == len(rows):
                raise NotFoundError(f"name must be that of {what}, got {name}")
            rows[:] = remaining

    def write(self, index: Path, rows: Sequence[Row]) -> None:
        """Replace the rows of an index; the caller must hold the lock, see ``change``."""
        listed = [asdict(row) for row in rows]  # type: ignore[call-overload]
        with replacing(self.path(index), durable=True) as draft:
            draft.write_text(json.dumps({"checksum": _checksum(listed), self.kind: listed}, indent=1), "utf-8")

    def find_damage(self, index: Path, *, repair: bool) -> str:
        """Return why the rows of an index cannot be read, '' if they can; ``repair`` deletes damaged ones."""
        try:
            self.read(index)
        except StoreError as error:
            if repair and isinstance(error.__cause__, DAMAGE):
                self.path(index).unlink()
            return str(error)
        return ""


def _checksum(rows: object) -> int:
    return zlib.crc32(json.dumps(rows, sort_keys=True).encode())


def _check_collection(kept: SavedCollection) -> SavedCollection:
    """Return a collection without the ids of videos; raise for one that is invalid, as in a foreign index."""
    moments = tuple(replace(moment, video=None) for moment in kept.moments)
    if not all(0 <= moment.start < moment.end for moment in moments):
        raise ValueError("a row is not that of a collection")
    if kept.finds:
        kept.read_options()
    return replace(kept, moments=moments)


COLLECTIONS = RowsFile("collections", SavedCollection, _check_collection)


def pick_collection(collections: Iterable[SavedCollection], name: str) -> SavedCollection:
    """Return the collection of a name.

    Raises:
        NotFoundError: No collection has the name.
    """
    for collection in collections:
        if collection.name == name:
            return collection
    raise NotFoundError(f"name must be that of a collection, got {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A query that is run on every video once, when it is complete.

    Attributes:
        name: Its name.
        query: Text.
        last_video: The greatest id of a video at the last report; ids only grow.
        unreported: Ids up to ``last_video`` of videos that were missing or incomplete then, ascending.
    """

    name: str
    query: str
    last_video: int
    unreported: tuple[int, ...] = ()

    def is_new(self, video: int) -> bool:
        """Return whether a video has not been reported yet."""
        return video > self.last_video or video in self.unreported

    def move(self, contents: Mapping[str, int], target: Mapping[str, int]) -> "Watch":
        """Return this watch for another index, given the ids of videos by content in its own and in the other one.

        It reports there the videos that are unreported here, and those that this index does not have.
        """
        new = (video for content, video in target.items() if content not in contents or self.is_new(contents[content]))
        return replace(self, last_video=max(target.values(), default=0), unreported=tuple(sorted(new)))


WATCHES = RowsFile("watches", Watch)
