"""Keeping an index healthy: forget what no file holds, give the space back, find the damage."""

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.database import REPAIR
from vidret.store.epochs import Epochs
from vidret.store.features import BYTES_PER_VALUE, Features, feature_paths
from vidret.store.manifest import SEAL, Seal, doubt, sync_folder
from vidret.store.matching import ASKED, as_json
from vidret.store.records import BadFile, BadSegment, Place, PruneReport
from vidret.store.repair import find_bad_rows

DEAD_SHARE = 0.3  # rewriting the files costs as much as the live rows, so it must free a good part
BATCH = 1024


def prune(catalog: Catalog, paths: Collection[str] | None = None) -> PruneReport:
    """Forget missing files, all or those of these paths, then contents that no file has, with their segments."""
    orphans = "(SELECT id FROM videos WHERE id NOT IN (SELECT video FROM files WHERE video IS NOT NULL))"
    with catalog.transaction():
        sql = "DELETE FROM files WHERE state = 'missing'"
        if paths is None:
            files = catalog.run(sql)
        else:
            files = sum(catalog.run(f"{sql} AND path = ?", os.fsencode(path)) for path in paths)
        segments = catalog.run(f"DELETE FROM segments WHERE video IN {orphans}")
        videos = catalog.run(f"DELETE FROM videos WHERE id IN {orphans}")
        if segments:
            catalog.bump()
    return PruneReport(files, videos, segments, freed_bytes=0)


def compact(catalog: Catalog, features: Features, folder: Path) -> Features | None:
    """Copy the live rows into the next epoch's files when too many are dead; return these files, or None.

    Killed at any moment, the index is whole: the catalog points into the old files, or into the new ones, which are on
    disk by then; the next writer removes the files it does not point into.
    """
    epoch, places = catalog.segments.places()
    bytes_per_row = features.dim * BYTES_PER_VALUE
    num_live = sum((1 + place.num_frames) * bytes_per_row + place.num_bytes for place in places.values())
    if num_live >= (1 - DEAD_SHARE) * features.num_bytes:
        return None
    fresh = Features(folder, features.dim, epoch + 1, write=True)
    fresh.resume(0, 0, 0)
    items, moved = list(places.items()), list[tuple[int, int, int, int]]()
    for first in range(0, len(items), BATCH):
        part = items[first : first + BATCH]
        videos = [features.video.view(place.row, place.row + 1) for _, place in part]
        frames = [features.frames.view(place.frame_row, place.frame_row + place.num_frames) for _, place in part]
        tokens = [features.tokens.view(place.token_byte, place.token_byte + place.num_bytes) for _, place in part]
        written = fresh.append_all(list(zip(videos, frames, tokens, strict=True)))
        for (key, _), place in zip(part, written, strict=True):
            moved.append((place.row, place.frame_row, place.token_byte, key))
    sync_folder(folder)
    with catalog.transaction(durable=True):
        catalog.segments.move(moved)
        catalog.set_meta("epoch", fresh.epoch)
        catalog.set_tail(*fresh.tail)
    for path in feature_paths(folder, epoch):
        path.unlink()
    return fresh


def find_damage(catalog: Catalog, epochs: Epochs) -> list[BadSegment]:
    """Read every byte: the catalog's rows, and each segment's vectors and tokens.

    Raises:
        StoreError: the catalog itself is damaged: ``repair_catalog`` comes first.
    """
    if bad := find_bad_rows(catalog.database):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise StoreError(f"{catalog.path}: {bad[0]}{more}; {REPAIR}")
    owners = {key: (video, number) for key, video, number in catalog.rows("SELECT id, video, number FROM segments")}
    features, places = epochs.locate()
    found = []
    for key, place in places.items():
        reason = _damage(features, place)
        if reason and key in owners:
            found.append(BadSegment(key, *owners[key], reason))
    return found


def find_bad_files(catalog: Catalog, folder: Path, *, repair: bool) -> list[BadFile]:
    """Read every byte of the saved vectors; ``repair`` drops files that are not what was saved."""
    seal = Seal.from_json(catalog.meta(SEAL))
    if seal is None:
        return []
    reasons = {each: doubt(folder, each, whole=True) for each in seal.files}
    bad = {each: reason for each, reason in reasons.items() if reason}
    if bad and repair:
        shards = tuple(each for each in seal.shards if each not in bad)
        left = replace(seal, generation=-1, shards=shards, flat=None if seal.flat in bad else seal.flat)
        with catalog.transaction(durable=True):  # whoever has the index open sees a change, and looks what is left
            catalog.set_meta(SEAL, left.to_json())
            catalog.bump()
        for each in bad:
            (folder / each.name).unlink(missing_ok=True)
    return [BadFile(str(folder / each.name), reason) for each, reason in bad.items()]


def drop_segments(catalog: Catalog, ids: Sequence[int]) -> None:
    """Forget segments, and have the next run over their files encode them again."""
    with catalog.transaction():
        catalog.unfinish(f"(SELECT video FROM segments WHERE id IN {ASKED})", as_json(ids))
        catalog.run(f"DELETE FROM segments WHERE id IN {ASKED}", as_json(ids))
        catalog.bump()


def count(catalog: Catalog) -> dict[str, Any]:
    """Count what there is: files by state, videos, segments, frames, seconds."""
    videos = catalog.rows("SELECT count(*), coalesce(sum(complete), 0), coalesce(sum(duration), 0.0) FROM videos")[0]
    sums = "count(*), coalesce(sum(num_frames), 0), coalesce(sum(num_bytes > 0), 0)"
    segments = catalog.rows(f"SELECT {sums} FROM segments")[0]
    return {
        "files": dict(catalog.rows("SELECT state, count(*) FROM files GROUP BY state ORDER BY state")),
        **dict(zip(("videos", "complete_videos", "seconds"), videos, strict=True)),
        **dict(zip(("segments", "frames", "with_tokens"), segments, strict=True)),
        "searchable": catalog.segments.count(),
    }


def folder_size(path: Path) -> int:
    """Add up the bytes of the files below a folder that others may be changing."""
    total = 0
    for entry in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_size if entry.is_file() else 0
    return total


def _damage(features: Features, place: Place) -> str:
    try:
        features.read_video(place)
        features.read_frames(place)
        features.read_tokens(place)
    except StoreError as error:
        return str(error)
    return ""
