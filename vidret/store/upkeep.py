"""Upkeep of an open index: pruning, saving and moving its vectors, verification, and replacement of its content."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from vidret.disk import remove_closed, sync_folder
from vidret.errors import OptionError, StoreError
from vidret.store.catalog.catalog import Catalog, find_bad_rows
from vidret.store.catalog.database import REPAIR, Database, remove_database
from vidret.store.catalog.schema import IN_IDS, CheckedTables, ids_to_json
from vidret.store.feature_epochs import Epochs
from vidret.store.features import BYTES_PER_VALUE, Features, feature_paths
from vidret.store.folder import CATALOG, FEATURES, VECTORS, WriteAccess
from vidret.store.records import BadFile, BadSegment, PruneReport, SegmentLocation
from vidret.store.snapshots.changes import restart_log
from vidret.store.snapshots.columns import KEY
from vidret.store.vectors.base import FAISS, VectorLocation
from vidret.store.vectors.current import HOME, CurrentVectors
from vidret.store.vectors.faiss import MEMORY
from vidret.store.vectors.manifest import HELD_IDS, MANIFEST, Manifest, find_mismatch

MAX_DEAD_FRACTION = 0.3  # of all bytes; compaction copies all live rows, so it must be worth it
BATCH = 1024
COPY = "switch.sqlite"
NO_FILE = "id NOT IN (SELECT video FROM files WHERE video IS NOT NULL)"  # of a video


class Upkeep:
    """The methods of ``Store`` that set metadata and maintain its files."""

    def __init__(
        self, folder: Path, catalog: Catalog, epochs: Epochs, vectors: CurrentVectors, access: WriteAccess
    ) -> None:
        self._folder, self._catalog, self._epochs = folder, catalog, epochs
        self._vectors, self._access = vectors, access

    def prune(self, files: Collection[str] | None = None) -> PruneReport:
        """Delete missing files, of ``files`` if given, and videos without a file; compact if much space is dead."""
        catalog, database, orphans = self._catalog, self._catalog.database, f"(SELECT id FROM videos WHERE {NO_FILE})"
        with self._access:
            with database.transaction():
                num_files = self._forget_missing(files)
                num_segments = database.run(f"DELETE FROM segments WHERE video IN {orphans}")
                num_videos = database.run(f"DELETE FROM videos WHERE {NO_FILE}")
                if num_segments:
                    catalog.tables.increment_generation()
            old = self._epochs.current()
            fresh = compact(catalog, old, self._folder / FEATURES)
            if fresh is not None:
                self._epochs.replace(fresh)
                catalog.snapshots.save()
        freed_bytes = 0 if fresh is None else old.num_bytes - fresh.num_bytes
        return PruneReport(files=num_files, videos=num_videos, segments=num_segments, freed_bytes=freed_bytes)

    def forget_files(self, paths: Iterable[str]) -> None:
        """Delete the records of some missing files; their videos stay, since other paths may have them."""
        with self._access, self._catalog.database.transaction():
            self._forget_missing(paths)

    def _forget_missing(self, paths: Iterable[str] | None) -> int:
        """Delete the records of missing files, of all or of some paths; return their number."""
        sql, run = "DELETE FROM files WHERE state = 'missing'", self._catalog.database.run
        return run(sql) if paths is None else sum(run(f"{sql} AND path = ?", os.fsencode(path)) for path in paths)

    def set_memory(self, num_bytes: int) -> None:
        """Set the memory limit of vectors in bytes, from the next ``save_vectors`` on; 0 for no limit.

        Indexes too large for an exact search use the finest kind of vectors that fits: float16 values, or 2 or 1 bits
        per value, which searches refine with the feature files. Without a limit they use 2 bits, the fastest.
        """
        self._access.check()
        if not isinstance(num_bytes, int):
            raise OptionError(f"memory must be a number of bytes, got {num_bytes!r:.60}")
        if num_bytes < 0:
            raise StoreError(f"memory must not be negative, got {num_bytes}")
        self._catalog.tables.set_meta(MEMORY, num_bytes)

    def save_vectors(self) -> None:
        """Save the vector index at the end of an indexing run, so that opening the index is fast."""
        self._access.check()
        self._vectors.reopen().save()
        self._catalog.snapshots.save()

    def move_vectors(
        self, source: str | None, target: str, *, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Move the vectors from ``source`` to ``target``, each ``faiss`` or an address as in ``create``.

        None for ``source`` is their current location, unless they are at ``target`` already. The same call resumes a
        killed move, and does nothing after a complete one. Searches use the old location until the end; then the old
        copy is deleted. ``on_progress`` receives the number of videos done and the total.

        Raises:
            StoreError: The vectors are not at ``source``, or a location cannot be reached.
        """
        with self._access:
            self._vectors.move(source, target, on_progress)

    def take_over(self, source: Path) -> None:
        """Replace the content of the index by that of the index in the folder ``source``, in one transaction.

        Readers have the old content until then; afterwards they must open the index again, as must the caller. A source
        inside the folder of the index needs no further disk space if files can be linked.

        Raises:
            StoreError: The vectors of the index are not in FAISS, or a file cannot be read.
        """
        tables, copy = self._catalog.tables, source / COPY
        with self._access, contextlib.closing(Catalog(source / CATALOG, write=True)) as other:
            if VectorLocation.from_json(tables.meta(HOME)).address != FAISS:
                rule = "the vectors must be in faiss to change the encoder"
                raise StoreError(f"{self._folder}: {rule}; first: vidret store move")
            epoch, generation = int(tables.fact("epoch")) + 1, int(tables.fact("generation")) + 1
            _link_features(source / FEATURES, int(other.tables.fact("epoch")), self._folder / FEATURES, epoch)
            remove_database(copy)  # left by a killed process
            with contextlib.closing(Database(copy, write=True, create=True)) as database:
                other.database.replace(database)
                copied = CheckedTables(database)
                with database.transaction(durable=True):
                    copied.set_meta("epoch", epoch)
                    copied.set_meta("generation", generation)
                    restart_log(database)
                    database.run("DELETE FROM meta WHERE key IN (?, ?, ?)", MANIFEST, HELD_IDS, KEY)
                database.replace(self._catalog.database)

    def continue_ids(self, other: Path) -> None:
        """Make the ids of new videos and segments continue after those of another index."""
        target, sql = self._catalog.database, "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = ?), 0)"
        with self._access, contextlib.closing(Database(other / CATALOG, write=False)) as database, target.transaction():
            for table in ("videos", "segments"):
                last = max(int(catalog.value(sql, table)) for catalog in (target, database))
                target.run("DELETE FROM sqlite_sequence WHERE name = ?", table)
                target.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, last)
            self._catalog.tables.set_tail(*self._catalog.tables.tail())  # the tail repeats the last id

    def verify_vectors(self, *, repair: bool = False) -> list[BadFile]:
        """Verify every byte of the saved vectors; return damaged files, which ``repair`` deletes to be rebuilt."""
        if repair:
            self._access.check()
        catalog, folder = self._catalog, self._folder / VECTORS
        text = catalog.tables.meta(MANIFEST)
        manifest = Manifest.from_json(text)
        if manifest is None:
            if text and repair:
                with catalog.database.transaction(durable=True):
                    catalog.database.run("DELETE FROM meta WHERE key = ?", MANIFEST)
                    catalog.tables.increment_generation()
            return [BadFile(str(folder), "its manifest is not valid")] if text else []
        reasons = {entry: find_mismatch(folder, entry, whole=True) for entry in manifest.files}
        bad = {entry: reason for entry, reason in reasons.items() if reason}
        if bad and repair:
            shards = tuple(entry for entry in manifest.shards if entry not in bad)
            flat = None if manifest.flat in bad else manifest.flat
            intact = replace(manifest, shards=shards, flat=flat)
            with catalog.database.transaction(durable=True):  # the new generation makes readers load the manifest
                catalog.tables.set_meta(MANIFEST, intact.to_json())
                catalog.database.run("DELETE FROM meta WHERE key = ?", HELD_IDS)
                catalog.tables.increment_generation()
            for entry in bad:
                (folder / entry.name).unlink(missing_ok=True)
        return [BadFile(str(folder / entry.name), reason) for entry, reason in bad.items()]

    def verify(self, *, repair: bool = False) -> list[BadSegment]:
        """Verify all rows of the catalog, then the vectors and tokens of every segment; return the damaged segments.

        ``repair`` deletes them, and marks their videos and files for the next run to encode again.

        Raises:
            StoreError: The catalog itself is damaged: run ``repair_catalog`` first.
        """
        if repair:
            self._access.check()
        catalog, database = self._catalog, self._catalog.database
        if bad := find_bad_rows(database):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise StoreError(f"{catalog.path}: {bad[0]}{more}; {REPAIR}")
        owners = {key: (video, index) for key, video, index in database.rows("SELECT id, video, number FROM segments")}
        features, locations = self._epochs.locate()
        reasons = {key: _find_reason(features, location) for key, location in locations.items() if key in owners}
        damaged = [BadSegment(key, *owners[key], reason) for key, reason in reasons.items() if reason]
        if damaged and repair:
            ids = ids_to_json([segment.id for segment in damaged])
            with self._access, database.transaction():
                catalog.videos.mark_incomplete(f"(SELECT video FROM segments WHERE id IN {IN_IDS})", ids)
                database.run(f"DELETE FROM segments WHERE id IN {IN_IDS}", ids)
                catalog.tables.increment_generation()
        return damaged


def compact(catalog: Catalog, features: Features, folder: Path) -> Features | None:
    """Copy live rows to the next epoch's files if too many are dead; return the new files, or None.

    Safe to kill at any time: the catalog refers either to the old files, or to the new ones, which are then on disk.
    The next writer removes the others.
    """
    sums = "total(1 + num_frames), total(num_bytes)"
    num_rows, num_token_bytes = catalog.database.rows(f"SELECT {sums} FROM segments")[0]
    live_bytes = num_rows * features.dim * BYTES_PER_VALUE + num_token_bytes
    if live_bytes >= (1 - MAX_DEAD_FRACTION) * features.num_bytes:
        return None
    epoch, locations = catalog.segments.locations()
    fresh = Features(folder, features.dim, epoch + 1, write=True)
    fresh.resume((0, 0, 0))
    items, moved = list(locations.items()), list[tuple[int, int, int, int]]()
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        written = fresh.append_all([features.view(location) for _, location in batch])
        for (key, _), location in zip(batch, written, strict=True):
            moved.append((location.row, location.frame_row, location.token_byte, key))
    sync_folder(folder)
    with catalog.database.transaction(durable=True):
        catalog.segments.relocate(moved)
        catalog.tables.set_meta("epoch", fresh.epoch)
        catalog.tables.set_tail(*fresh.tail)
        restart_log(catalog.database)  # snapshots have the old rows
    for path in feature_paths(folder, epoch):
        remove_closed(path)
    return fresh


def folder_size(path: Path) -> int:
    """Return the total size of the files below a folder in bytes; files may disappear in between."""
    size_bytes = 0
    for parent, _, names in os.walk(path):  # it skips folders that are gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size_bytes += Path(parent, name).stat().st_size
    return size_bytes


def _find_reason(features: Features, location: SegmentLocation) -> str:
    """Return why a segment is damaged, '' if it is intact."""
    try:
        features.read_video(location)
        features.read_frames(location)
        features.read_tokens(location)
    except StoreError as error:
        return str(error)
    return ""


def _link_features(source: Path, source_epoch: int, target: Path, epoch: int) -> None:
    """Link the feature files of an epoch under another epoch; copy them if links are not supported."""
    for old, new in zip(feature_paths(source, source_epoch), feature_paths(target, epoch), strict=True):
        new.unlink(missing_ok=True)
        try:
            os.link(old, new)
        except OSError:  # such as on exFAT
            shutil.copyfile(old, new)
    sync_folder(target)
