"""Replacing all that an index holds by what another index holds, in one transaction: how it changes its encoder.

The new feature files are linked into the index under the number of its next epoch, and the new catalog then takes the
place of the old one. A process that is killed before has changed nothing that a reader sees.
"""

import contextlib
import os
import shutil
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.catalog.database import Database
from vidret.store.catalog.tables import CheckedTables
from vidret.store.features import feature_paths
from vidret.store.folder import CATALOG, FEATURES
from vidret.store.os_calls import sync_folder
from vidret.store.snapshots.changes import restart_log
from vidret.store.snapshots.columns import KEY
from vidret.store.vectors.base import FAISS, VectorLocation
from vidret.store.vectors.current import HOME
from vidret.store.vectors.manifest import HELD_IDS, MANIFEST

COPY = "switch.sqlite"


def take_content(folder: Path, catalog: Catalog, source: Path) -> None:
    """Replace the content of an index, which is open for writing, by that of ``source``; see ``Store.take_over``."""
    if VectorLocation.from_json(catalog.tables.meta(HOME)).address != FAISS:
        raise StoreError(f"{folder}: the vectors must be in faiss to change the encoder; first: vidret store move")
    epoch, generation = int(catalog.tables.fact("epoch")) + 1, int(catalog.tables.fact("generation")) + 1
    other = Catalog(source / CATALOG, write=True)
    copy = source / COPY
    try:
        _link_features(source / FEATURES, int(other.tables.fact("epoch")), folder / FEATURES, epoch)
        for path in (copy, *(copy.with_name(f"{COPY}{suffix}") for suffix in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)  # of a process that was killed
        with contextlib.closing(Database(copy, write=True, create=True)) as database:
            other.database.replace(database)
            tables = CheckedTables(database)
            with database.transaction(durable=True):
                tables.set_meta("epoch", epoch)
                tables.set_meta("generation", generation)
                restart_log(database)
                database.run("DELETE FROM meta WHERE key IN (?, ?, ?)", MANIFEST, HELD_IDS, KEY)
            database.replace(catalog.database)
    finally:
        other.close()


def continue_ids(catalog: Catalog, other: Catalog) -> None:
    """Let the ids of videos and segments of ``catalog`` go on after those of another index."""
    with catalog.database.transaction():
        for table in ("videos", "segments"):
            sql = "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = ?), 0)"
            last = max(int(each.database.value(sql, table)) for each in (catalog, other))
            catalog.database.run("DELETE FROM sqlite_sequence WHERE name = ?", table)
            catalog.database.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, last)
        catalog.tables.set_tail(*catalog.tables.tail())  # it repeats the last id


def _link_features(source: Path, source_epoch: int, target: Path, epoch: int) -> None:
    """Link the feature files of an epoch under another epoch; copy them where there are no links."""
    for old, new in zip(feature_paths(source, source_epoch), feature_paths(target, epoch), strict=True):
        new.unlink(missing_ok=True)
        try:
            os.link(old, new)
        except OSError:  # such as on exFAT
            shutil.copyfile(old, new)
    sync_folder(target)
