"""The catalog of an index in SQLite: files, videos, segments, and the locations of their vectors.

A segment exists once its row is committed; its vectors are on disk by then. Every row has a checksum of its values,
which is verified when the row is read, except where thousands of ids are listed.
"""

from collections.abc import Mapping
from pathlib import Path

from vidret.store.catalog.database import Database
from vidret.store.catalog.segments import Segments
from vidret.store.catalog.tables import FORMAT, CheckedTables, create_tables, read_format, set_meta
from vidret.store.catalog.texts import TextTables
from vidret.store.catalog.videos import Files, Videos
from vidret.store.snapshots.latest import Snapshots


class Catalog:
    """The tables of an index, by name, with metadata in ``tables``; and their snapshots."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open an existing catalog.

        Raises:
            StoreError: The file is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self.database = database = Database(path, write=write)
        try:
            self.tables = tables = CheckedTables(database)
            self.format = read_format(database)
            if self.format != FORMAT:
                raise tables.damage_error("the metadata 'format'")
        except BaseException:
            self.close()
            raise
        self.files, self.videos = Files(tables), Videos(tables)
        self.texts = TextTables(tables)
        self.segments, self.snapshots = Segments(tables, self.texts), Snapshots(tables, write=write)

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str | int]) -> "Catalog":
        """Create an empty catalog in one transaction, so that a crash leaves a complete one or none; then open it."""
        database = Database(path, write=True, create=True)
        try:
            with database.transaction():
                create_tables(database)
                for key, value in {**facts, "generation": 0, "epoch": 0, "tail": "[0, 0, 0, 0]"}.items():
                    set_meta(database, key, value)
        finally:
            database.close()
        return cls(path, write=True)

    @staticmethod
    def exists(path: Path) -> bool:
        """Return whether the path is a complete catalog.

        Raises:
            StoreError: The file is something else.
        """
        if not path.is_file():
            return False
        database = Database(path, write=False)
        try:
            return bool(database.value("SELECT count(*) FROM sqlite_master WHERE name = 'meta' AND type = 'table'"))
        finally:
            database.close()

    def close(self) -> None:
        """Close the database."""
        self.database.close()
