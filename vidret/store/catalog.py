"""The truth about an index, in SQLite: which files, which videos, which segments, and where their vectors lie.

A segment exists from the moment its row is committed; its vectors were on disk before. Every row carries a checksum of
its values. What is read of a row is held against it, except where ids are listed by the thousand.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidret.errors import StoreError
from vidret.store.database import Database
from vidret.store.matching import LIVE_VIDEOS, MATCHING, as_json, as_values
from vidret.store.records import FileRecord, StoredVideo, VideoRecord
from vidret.store.rows import Rows
from vidret.store.schema import (
    COLUMNS,
    FORMAT,
    add_checksums,
    create_tables,
    read_format,
    set_fact,
)
from vidret.store.segments import Segments
from vidret.types import NO_TIME, Filters

logger = logging.getLogger(__name__)


FILE = COLUMNS["files"]


class Catalog:
    """The tables of an index: facts about it, its files, its videos, and, as ``segments``, its segments.

    ``rows``, ``value``, ``run``, ``run_many`` and ``transaction`` are the database's own; the facts are ``Rows``'.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open a catalog that exists; a writer gives one of format 1 its checksums.

        Raises:
            StoreError: it is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self.database = database = Database(path, write=write)
        self.transaction, self.run, self.run_many = database.transaction, database.run, database.run_many
        self.rows, self.value = database.rows, database.value
        try:
            found = read_format(database)
            if write and 0 < found < FORMAT:
                logger.info("%s: adding checksums to its rows", path)
                found = add_checksums(database)
            self._shared = shared = Rows(database, found)
            if not found:
                raise shared.damaged("the fact 'format'")
        except BaseException:
            self.close()
            raise
        self.format = found
        self.segments = Segments(shared)
        self.meta, self.fact, self.derived, self.encoder = shared.meta, shared.fact, shared.derived, shared.encoder
        self.set_meta, self.meta_keys, self.bump = shared.set_meta, shared.meta_keys, shared.bump
        self.tail, self.set_tail = shared.tail, shared.set_tail

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str | int]) -> "Catalog":
        """Make an empty catalog in one transaction, so that a crash leaves all of it or none; then open it."""
        database = Database(path, write=True, create=True)
        try:
            with database.transaction():
                create_tables(database)
                for key, value in {**facts, "generation": 0, "epoch": 0, "tail": "[0, 0, 0, 0]"}.items():
                    set_fact(database, key, value)
        finally:
            database.close()
        return cls(path, write=True)

    @staticmethod
    def exists(path: Path) -> bool:
        """Return whether a catalog was ever finished here.

        Raises:
            StoreError: something else is here.
        """
        if not path.is_file():
            return False
        database = Database(path, write=False)
        try:
            return bool(database.value("SELECT count(*) FROM sqlite_master WHERE name = 'meta'"))
        finally:
            database.close()

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    # Files

    def file(self, path: str) -> FileRecord | None:
        """Look up one path."""
        rows = self.rows(f"SELECT {FILE}, {self._shared.whole('files')} FROM files WHERE path = ?", os.fsencode(path))
        return next(map(_file, self._shared.keep_whole("files", rows)), None)

    def files(self, state: str | None) -> list[FileRecord]:
        """List the paths, in order, all or those in one state."""
        sql = f"SELECT {FILE}, {self._shared.whole('files')} FROM files WHERE ?1 IS NULL OR state = ?1"
        return [_file(row) for row in self._shared.keep_whole("files", self.rows(sql, state))]

    def set_file(
        self, path: str, state: str, reason: str, video: int | None, num_bytes: int | None, mtime_ns: int | None
    ) -> None:
        """Write one path's row; what is None stays as it was."""
        with self.transaction():
            old = self.file(path) or FileRecord(path, state)
            video = old.video if video is None else video
            num_bytes = old.num_bytes if num_bytes is None else num_bytes
            mtime_ns = old.mtime_ns if mtime_ns is None else mtime_ns
            new = FileRecord(path, state, _clean(reason), video, num_bytes, mtime_ns)
            values = (os.fsencode(path), new.state, new.reason, new.video, new.num_bytes, new.mtime_ns)
            self.run(f"REPLACE INTO files ({FILE}) VALUES (?, ?, ?, ?, ?, ?)", *values)
            self._shared.seal("files", "path = ?", values[0])
            if _shown(old) != _shown(new):
                self._shared.bump()

    def paths(self, videos: Sequence[int], filters: Filters) -> dict[int, list[str]]:
        """List the live paths of each video that match, in order."""
        found: dict[int, list[str]] = {int(video): [] for video in videos}
        asked = f"{MATCHING} AND video IN (SELECT value FROM json_each(?7)) ORDER BY path"
        rows = self.rows(
            f"SELECT path, video, {self._shared.whole('files')} {asked}", *as_values(filters), as_json(videos)
        )
        for path, video, _ in self._shared.keep_whole("files", rows):
            found[video].append(os.fsdecode(path))
        return found

    # Videos

    def video(self, video: int) -> VideoRecord:
        """Look up one content."""
        rows = self.rows(
            f"SELECT {COLUMNS['videos']}, {self._shared.whole('videos')} FROM videos WHERE id = ?", int(video)
        )
        if not rows:
            raise StoreError(f"video must be one of this index, got {video}")
        number, fingerprint, duration, facts, num_segments, complete, salvaged, whole = rows[0]
        if not whole:
            raise self._shared.damaged(f"the row of video {video}")
        return VideoRecord(number, fingerprint, duration, json.loads(facts), num_segments, bool(complete), salvaged)

    def stored_videos(self, filters: Filters, video: int | None) -> list[StoredVideo]:
        """List contents with the live paths that match, all or one, in the order of their first paths."""
        columns = "path, videos.id, duration, facts, complete, salvaged, num_segments, mtime_ns"
        one, values = ("", as_values(filters)) if video is None else ("AND video = ?7", (*as_values(filters), video))
        found: dict[int, StoredVideo] = {}
        whole = f"{self._shared.whole('files')} AND {self._shared.whole('videos')}"
        rows = self.rows(f"SELECT {columns}, {whole} {MATCHING} {one} ORDER BY path", *values)
        for path, number, duration, facts, complete, salvaged, num_segments, mtime_ns, _ in self._shared.keep_whole(
            "files", rows
        ):
            if (known := found.get(number)) is not None:
                found[number] = replace(known, paths=(*known.paths, os.fsdecode(path)))
                continue
            changed = None if mtime_ns is None or mtime_ns <= NO_TIME else mtime_ns / 1e9
            about = json.loads(facts), bool(complete), salvaged, num_segments, changed
            found[number] = StoredVideo(number, (os.fsdecode(path),), duration, *about)
        return list(found.values())

    def contents(self) -> dict[str, int]:
        """Map fingerprints to ids, of the contents that have a live path."""
        return {fingerprint: video for video, fingerprint in self._fingerprints(f"id IN {LIVE_VIDEOS}")}

    def fingerprints(self) -> dict[int, str]:
        """Map ids to fingerprints, of all contents."""
        return dict(self._fingerprints("1"))

    def _fingerprints(self, where: str) -> list[tuple[int, str]]:
        rows = self.rows(
            f"SELECT id, fingerprint, {self._shared.whole('videos')} FROM videos WHERE {where} ORDER BY id"
        )
        for video, _, whole in rows:
            if not whole:  # what is missing in a list of all would be taken for gone
                raise self._shared.damaged(f"the row of video {video}")
        return [(video, fingerprint) for video, fingerprint, _ in rows]

    def complete_video(self, fingerprint: str) -> int | None:
        """Find a content of which everything is stored."""
        whole = self._shared.whole("videos")
        sql = f"SELECT id FROM videos WHERE fingerprint = ? AND complete AND {whole}"
        found: int | None = self.value(sql, fingerprint)
        return found

    def begin_video(self, fingerprint: str, duration: float, facts: Mapping[str, object], num_segments: int) -> int:
        """Find or add a content; one that was cut into another number of segments starts over."""
        with self.transaction():
            sql = f"SELECT id, num_segments, {self._shared.whole('videos')} FROM videos WHERE fingerprint = ?"
            rows = self.rows(sql, fingerprint)
            if rows and rows[0][1] == num_segments and rows[0][2]:
                return int(rows[0][0])
            if rows:
                self.run("DELETE FROM segments WHERE video = ?", rows[0][0])
                self._shared.bump()
            values = (fingerprint, duration, json.dumps(facts), num_segments)
            found = self.value(
                "INSERT INTO videos (fingerprint, duration, facts, num_segments) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (fingerprint) DO UPDATE SET duration = excluded.duration, facts = excluded.facts,"
                " num_segments = excluded.num_segments, complete = 0, salvaged = '' RETURNING id",
                *values,
            )
            self._shared.seal("videos", "id = ?", found)
            return int(found)

    def finish_video(self, video: int, salvaged: str, *, num_segments: int | None = None) -> None:
        """Mark a content as stored whole, or as far as it could be salvaged; ``num_segments`` replaces the plan."""
        with self.transaction():
            planned = self.video(video).num_segments  # or a damaged row would be sealed
            num_segments = planned if num_segments is None else num_segments
            sql = "UPDATE videos SET complete = 1, salvaged = ?, num_segments = ? WHERE id = ?"
            self.run(sql, _clean(salvaged), num_segments, video)
            self._shared.seal("videos", "id = ?", video)

    def count_videos(self, filters: Filters) -> int:
        """Count the videos that match and have a searchable segment."""
        sql = f"SELECT count(*) FROM videos WHERE id IN (SELECT files.video {MATCHING})"
        stored = "EXISTS (SELECT 1 FROM segments WHERE segments.video = videos.id)"
        return int(self.value(f"{sql} AND {stored}", *as_values(filters)))

    def unfinish(self, where: str, values: str) -> None:
        """Have the next run encode some videos again; damaged rows stay as they are."""
        videos, files = self._shared.whole("videos"), self._shared.whole("files")
        self.run(f"UPDATE videos SET complete = 0, checksum = NULL WHERE id IN {where} AND {videos}", values)
        sql = (
            f"UPDATE files SET state = 'pending', checksum = NULL WHERE state = 'done' AND video IN {where} AND {files}"
        )
        self.run(sql, values)
        for table in ("videos", "files"):
            self._shared.seal(table, "checksum IS NULL")


def _file(row: Sequence[Any]) -> FileRecord:
    return FileRecord(os.fsdecode(row[0]), *row[1:6])


def _shown(record: FileRecord) -> int | None:
    """Name the video that a path makes searchable, if any."""
    return record.video if record.live else None


def _clean(text: str) -> str:
    """Make any text storable: reasons may quote file names that are not valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
