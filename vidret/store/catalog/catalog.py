"""The catalog of an index in SQLite: files, videos, segments, and the locations of their vectors.

A segment exists once its row is committed; its vectors are on disk by then. Every row has a checksum of its values,
which is verified when the row is read, except where thousands of ids are listed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from vidret.store.catalog.database import Database
from vidret.store.catalog.segments import Segments
from vidret.store.catalog.tables import (
    FORMAT,
    CheckedTables,
    create_tables,
    read_format,
    set_meta,
    upgrade_tables,
)
from vidret.store.catalog.videos import Files, Videos
from vidret.store.snapshots.latest import Snapshots

logger = logging.getLogger(__name__)


class Catalog:
    """The tables of an index: metadata in ``tables``, ``files``, ``videos`` and ``segments``; and their snapshots."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open an existing catalog; a writer upgrades an older format.

        Raises:
            StoreError: The file is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self.database = database = Database(path, write=write)
        try:
            file_format = read_format(database)
            if write and 0 < file_format < FORMAT:
                if file_format > 1:
                    CheckedTables(database, file_format).meta("format")  # raises if damage made it look older
                logger.info("%s: upgrading its tables from format %d to %d", path, file_format, FORMAT)
                file_format = upgrade_tables(database, file_format)
            self.tables = tables = CheckedTables(database, file_format)
            if not file_format:
                raise tables.damage_error("the metadata 'format'")
        except BaseException:
            self.close()
            raise
        self.format = file_format
        self.files, self.videos = Files(tables), Videos(tables)
        self.segments, self.snapshots = Segments(tables), Snapshots(tables, write=write)

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
