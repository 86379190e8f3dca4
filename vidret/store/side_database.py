"""Databases of an index beside its catalog: each exists only in an index in which its kind of evidence was read."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR, Database
from vidret.store.disk import check_entries


class SideDatabase(ABC):
    """One file, for any number of readers and writers; a context manager.

    Attributes:
        FILE: Its name in the folder of an index.
        FORMAT: The version that it is written with.
        ABSENT: What is said of an index without it.
        PREPARE: Statements for each connection.
    """

    FILE: ClassVar[str]
    FORMAT: ClassVar[int]
    ABSENT: ClassVar[str]
    PREPARE: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open the file; use ``create`` or ``open``."""
        self.path = path
        try:
            self.database = Database(path, write=write, create=write, prepare=self.PREPARE)
        except StoreError as error:
            raise StoreError(f"{error}; {REPAIR}" if "not a database" in str(error) else str(error)) from error
        try:
            if write and self.database.value("SELECT count(*) FROM sqlite_master") == 0:
                with self.database.transaction():
                    self.create_tables()
                    self.database.run(f"PRAGMA user_version = {self.FORMAT}")
            self.check_tables()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def create_tables(self) -> None:
        """Make the tables of an empty file."""

    @abstractmethod
    def check_tables(self) -> None:
        """Check that the file holds the tables of this format only.

        Raises:
            StoreError: It does not.
        """

    @classmethod
    def create(cls, index: str | os.PathLike[str]) -> Self:
        """Open the file of an index for writing; make it if there is none.

        Raises:
            StoreError: It cannot be read, or the folder holds a link.
        """
        check_entries(Path(index))
        return cls(Path(index) / cls.FILE, write=True)

    @classmethod
    def open(cls, index: str | os.PathLike[str], *, write: bool = False) -> Self:
        """Open the file of an index.

        Raises:
            StoreError: There is none, it cannot be read, or the folder holds a link.
        """
        check_entries(Path(index))
        if not cls.exists(index):
            raise StoreError(f"{index}: {cls.ABSENT}")
        return cls(Path(index) / cls.FILE, write=write)

    @classmethod
    def exists(cls, index: str | os.PathLike[str]) -> bool:
        """Return whether this kind of evidence was ever read in an index."""
        return (Path(index) / cls.FILE).is_file()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
