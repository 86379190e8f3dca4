"""Maintenance of an index: pruning, compaction, finding damage, counting."""

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.changes import restart_log
from vidret.store.database import REPAIR
from vidret.store.epochs import Epochs
from vidret.store.features import BYTES_PER_VALUE, Features, feature_paths
from vidret.store.manifest import HELD_IDS, MANIFEST, Manifest, find_mismatch
from vidret.store.matching import IN_IDS, ids_to_json
from vidret.store.os_calls import remove_closed, sync_folder
from vidret.store.records import BadFile, BadSegment, PruneReport, SegmentLocation
from vidret.store.repair import find_bad_rows

MAX_DEAD_FRACTION = 0.3  # of all bytes; compaction copies all live rows, so it must be worth it
BATCH = 1024


def prune(catalog: Catalog, paths: Collection[str] | None = None) -> PruneReport:
    """Delete missing files, all or those in ``paths``, then videos without a file, with their segments."""
    orphans = "(SELECT id FROM videos WHERE id NOT IN (SELECT video FROM files WHERE video IS NOT NULL))"
    with catalog.transaction():
        sql = "DELETE FROM files WHERE state = 'missing'"
        if paths is None:
            num_files = catalog.run(sql)
        else:
            num_files = sum(catalog.run(f"{sql} AND path = ?", os.fsencode(path)) for path in paths)
        num_segments = catalog.run(f"DELETE FROM segments WHERE video IN {orphans}")
        num_videos = catalog.run(f"DELETE FROM videos WHERE id IN {orphans}")
        if num_segments:
            catalog.increment_generation()
    return PruneReport(files=num_files, videos=num_videos, segments=num_segments, freed_bytes=0)


def compact(catalog: Catalog, features: Features, folder: Path) -> Features | None:
    """Copy live rows to the next epoch's files if too many are dead; return the new files, or None.

    Safe to kill at any time: the catalog refers either to the old files, or to the new ones, which are on disk by then.
    The next writer removes the others.
    """
    epoch, locations = catalog.segments.locations()
    bytes_per_row = features.dim * BYTES_PER_VALUE
    live_bytes = sum((1 + each.num_frames) * bytes_per_row + each.num_bytes for each in locations.values())
    if live_bytes >= (1 - MAX_DEAD_FRACTION) * features.num_bytes:
        return None
    fresh = Features(folder, features.dim, epoch + 1, write=True)
    fresh.resume(0, 0, 0)
    items, moved = list(locations.items()), list[tuple[int, int, int, int]]()
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        written = fresh.append_all([features.view(location) for _, location in batch])
        for (key, _), location in zip(batch, written, strict=True):
            moved.append((location.row, location.frame_row, location.token_byte, key))
    sync_folder(folder)
    with catalog.transaction(durable=True):
        catalog.segments.relocate(moved)
        catalog.set_meta("epoch", fresh.epoch)
        catalog.set_tail(*fresh.tail)
        restart_log(catalog.database)  # snapshots hold the rows
    for path in feature_paths(folder, epoch):
        remove_closed(path)
    return fresh


def find_damage(catalog: Catalog, epochs: Epochs) -> list[BadSegment]:
    """Verify all rows of the catalog, then the vectors and tokens of every segment; return the damaged segments.

    Raises:
        StoreError: The catalog itself is damaged: run ``repair_catalog`` first.
    """
    if bad := find_bad_rows(catalog.database):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise StoreError(f"{catalog.path}: {bad[0]}{more}; {REPAIR}")
    owners = {key: (video, index) for key, video, index in catalog.rows("SELECT id, video, number FROM segments")}
    features, locations = epochs.locate()
    damaged = []
    for key, location in locations.items():
        reason = _find_reason(features, location)
        if reason and key in owners:
            video, segment_index = owners[key]
            damaged.append(BadSegment(id=key, video=video, number=segment_index, reason=reason))
    return damaged


def find_bad_files(catalog: Catalog, folder: Path, *, repair: bool) -> list[BadFile]:
    """Verify every byte of the saved vectors; return damaged files, which ``repair`` deletes."""
    text = catalog.meta(MANIFEST)
    manifest = Manifest.from_json(text)
    if manifest is None:
        if text and repair:
            with catalog.transaction(durable=True):
                catalog.run("DELETE FROM meta WHERE key = ?", MANIFEST)
                catalog.increment_generation()
        return [BadFile(str(folder), "its manifest is not valid")] if text else []
    reasons = {entry: find_mismatch(folder, entry, whole=True) for entry in manifest.files}
    bad = {entry: reason for entry, reason in reasons.items() if reason}
    if bad and repair:
        shards = tuple(entry for entry in manifest.shards if entry not in bad)
        flat = None if manifest.flat in bad else manifest.flat
        intact = replace(manifest, shards=shards, flat=flat)
        with catalog.transaction(durable=True):  # the new generation makes open readers load the manifest
            catalog.set_meta(MANIFEST, intact.to_json())
            catalog.run("DELETE FROM meta WHERE key = ?", HELD_IDS)
            catalog.increment_generation()
        for entry in bad:
            (folder / entry.name).unlink(missing_ok=True)
    return [BadFile(str(folder / entry.name), reason) for entry, reason in bad.items()]


def drop_segments(catalog: Catalog, ids: Sequence[int]) -> None:
    """Delete segments, and mark their videos and files for the next run to encode again."""
    with catalog.transaction():
        catalog.mark_incomplete(f"(SELECT video FROM segments WHERE id IN {IN_IDS})", ids_to_json(ids))
        catalog.run(f"DELETE FROM segments WHERE id IN {IN_IDS}", ids_to_json(ids))
        catalog.increment_generation()


def folder_size(path: Path) -> int:
    """Return the total size of the files below a folder in bytes; files may disappear meanwhile."""
    size_bytes = 0
    for entry in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size_bytes += entry.stat().st_size if entry.is_file() else 0
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
