"""The base of the databases beside the catalog of an index; each exists only if its kind of evidence was read."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar, Self

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR, Database, remove_database
from vidret.store.folder import check_entries


class SideDatabase(ABC):
    """One file, for any number of readers and writers; a context manager.

    Attributes:
        FILE: Its name in the folder of an index.
        FORMAT: The version of its format.
        SCHEMA: The statements that make its tables and indexes.
        CONTENTS: The query for the fingerprints of all videos with stored data.
        ABSENT: The message for an index without it.
        PREPARE: Statements for each connection.
    """

    FILE: ClassVar[str]
    FORMAT: ClassVar[int] = 1
    SCHEMA: ClassVar[tuple[str, ...]]
    CONTENTS: ClassVar[str]
    ABSENT: ClassVar[str]
    PREPARE: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open the file; use ``create`` or ``open``."""
        self.path = path
        with ExitStack() as undo:
            if write and not path.exists():  # a full disk may leave a file without tables, which readers would refuse
                undo.callback(remove_database, path)
            self.database = Database(path, write=write, create=write, prepare=self.PREPARE)
            undo.callback(self.close)
            if write and self.database.value("SELECT count(*) FROM sqlite_master") == 0:
                with self.database.transaction():
                    for statement in self.SCHEMA:
                        self.database.run(statement)
                    self.database.run(f"PRAGMA user_version = {self.FORMAT}")
            self._check_tables()
            undo.pop_all()

    def _check_tables(self) -> None:
        version = self.database.value("PRAGMA user_version")
        if version > self.FORMAT:
            raise StoreError(f"{self.path}: format must be at most {self.FORMAT}, got {version}; update vidret")
        # Includes triggers, which could run forever.
        condition = "sql IS NOT NULL AND NOT (type = 'table' AND name = 'sqlite_sequence')"
        statements = [sql for (sql,) in self.database.rows(f"SELECT sql FROM sqlite_master WHERE {condition}")]
        if version != self.FORMAT or sorted(statements) != sorted(self.SCHEMA):
            raise StoreError(f"{self.path}: must hold the tables of {self.path.stem} only; {REPAIR}")

    @classmethod
    def create(cls, index: str | os.PathLike[str]) -> Self:
        """Open the file of an index for writing; create it if there is none.

        Raises:
            StoreError: It cannot be read, or the folder holds a link.
        """
        check_entries(Path(index), deep=False)
        return cls(Path(index) / cls.FILE, write=True)

    @classmethod
    def open(cls, index: str | os.PathLike[str], *, write: bool = False) -> Self:
        """Open the file of an index.

        Raises:
            StoreError: The file is missing or cannot be read, or the folder holds a link.
        """
        check_entries(Path(index), deep=False)
        if not cls.exists(index):
            raise StoreError(f"{index}: {cls.ABSENT}")
        return cls(Path(index) / cls.FILE, write=write)

    @classmethod
    def exists(cls, index: str | os.PathLike[str]) -> bool:
        """Return whether this kind of evidence was ever read in an index."""
        return (Path(index) / cls.FILE).is_file()

    @classmethod
    def read_state(cls, index: str | os.PathLike[str]) -> tuple[int, ...]:
        """Return the state of the file of an index, which differs after every change; fast for any size."""
        state: list[int] = []
        for name in (cls.FILE, f"{cls.FILE}-wal"):
            with suppress(FileNotFoundError):
                status = (Path(index) / name).stat()
                state += [status.st_ino, status.st_size, status.st_mtime_ns]
        return tuple(state)

    def prune(self, contents: Iterable[str]) -> None:
        """Delete the data of all videos except those with these fingerprints."""
        kept = set(contents)
        gone = [content for (content,) in self.database.rows(self.CONTENTS) if content not in kept]
        if gone:
            self.delete_contents(gone)

    @abstractmethod
    def delete_contents(self, contents: Sequence[str]) -> None:
        """Delete the data of some videos."""

    @classmethod
    def pair(cls, target: Path, sources: Iterable[Path]) -> Iterator[tuple[Self, Self]]:
        """Yield the file of the target, created if needed, with that of each source that has one."""
        with ExitStack() as stack:
            target_store: Self | None = None
            for path in filter(cls.exists, sources):
                source = stack.push(cls.open(path))
                target_store = target_store or stack.push(cls.create(target))
                yield target_store, source

    @classmethod
    def prune_index(cls, index: Path, contents: Iterable[str]) -> None:
        """Prune the file of an index, if it has one."""
        if cls.exists(index):
            with cls.open(index, write=True) as opened:
                opened.prune(contents)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
