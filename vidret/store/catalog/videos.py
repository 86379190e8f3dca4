"""The tables of files and videos of a catalog."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vidret.errors import NotFoundError
from vidret.store.catalog.facts import FACT_VALUES, has_fact_filters, match_facts, stack_facts, to_seconds
from vidret.store.catalog.schema import (
    COLUMNS,
    IN_IDS,
    INTACT,
    MATCHING,
    CheckedTables,
    filter_values,
    has_name,
    ids_to_json,
)
from vidret.store.records import FOLLOW_SHOTS, SEGMENTS, FileRecord, FileState, StoredVideo, VideoRecord
from vidret.text import is_url
from vidret.types import ALL_VIDEOS, NO_TIME, Filters

FILE = COLUMNS["files"]
NUMBERED = "SELECT number, row_number() OVER (ORDER BY number) AS place FROM segments WHERE video = ?1"
FIRST_AFTER_GAP = f"SELECT min(number) FROM ({NUMBERED}) WHERE number >= place"
MARK_SHOTS = f"json_set(facts, '$.{SEGMENTS}', '{FOLLOW_SHOTS}')"  # in the facts of an open-ended video


class Files:
    """The table ``files`` of a catalog: paths, their states, and the videos at them."""

    def __init__(self, tables: CheckedTables) -> None:
        self._tables, self._database = tables, tables.database

    def get(self, path: str) -> FileRecord | None:
        """Return the record of a path, None if it is unknown."""
        rows = self._database.rows(f"SELECT {FILE}, {INTACT['files']} FROM files WHERE path = ?", os.fsencode(path))
        return next(map(_read_file_row, self._tables.drop_damaged("files", rows)), None)

    def find(self, *, state: FileState | None = None) -> list[FileRecord]:
        """Return the records of all paths, or of those in one state, sorted by path."""
        sql = f"SELECT {FILE}, {INTACT['files']} FROM files WHERE (?1 IS NULL OR state = ?1) ORDER BY path"
        return [_read_file_row(row) for row in self._tables.drop_damaged("files", self._database.rows(sql, state))]

    def of_video(self, video: int) -> list[FileRecord]:
        """Return the records of all paths of a video, in any state, sorted by path."""
        sql = f"SELECT {FILE}, {INTACT['files']} FROM files WHERE video = ? ORDER BY path"
        return [_read_file_row(row) for row in self._tables.drop_damaged("files", self._database.rows(sql, video))]

    def set(
        self, path: str, state: str, reason: str, video: int | None, num_bytes: int | None, mtime_ns: int | None
    ) -> None:
        """Write the row of a path; None leaves a value unchanged."""
        with self._database.transaction():
            old = self.get(path) or FileRecord(path, state)
            video = old.video if video is None else video
            num_bytes = old.num_bytes if num_bytes is None else num_bytes
            mtime_ns = old.mtime_ns if mtime_ns is None else mtime_ns
            new = FileRecord(path, state, _clean(reason), video, num_bytes, mtime_ns)
            values = (os.fsencode(path), new.state, new.reason, new.video, new.num_bytes, new.mtime_ns)
            self._database.run(f"REPLACE INTO files ({FILE}) VALUES (?, ?, ?, ?, ?, ?)", *values)
            self._tables.update_checksums("files", "path = ?", values[0])
            if _searchable_video(old) != _searchable_video(new):
                self._tables.increment_generation()

    def paths_of(self, videos: Sequence[int], filters: Filters = ALL_VIDEOS) -> dict[int, list[str]]:
        """Return the live paths of each video that match the filters, in the order of ``rank_path``."""
        paths: dict[int, list[str]] = {int(video): [] for video in videos}
        if has_fact_filters(filters):
            return paths | {found.id: [*found.paths] for found in Videos(self._tables).find(filters, ids=videos)}
        condition = f"{MATCHING} AND video IN (SELECT value FROM json_each(?7))"
        rows = self._database.rows(
            f"SELECT path, video, {INTACT['files']} {condition}", *filter_values(filters), ids_to_json(videos)
        )
        for path, video, _ in self._tables.drop_damaged("files", rows):
            if has_name(path, filters):
                paths[video].append(os.fsdecode(path))
        return {video: sorted(video_paths, key=rank_path) for video, video_paths in paths.items()}


def rank_path(path: str) -> tuple[bool, int, bytes]:
    """Return the key that orders the paths of a video: files before URLs, then the shortest first.

    Copies have longer names, such as "a (copy)".
    """
    return is_url(path), len(encoded := os.fsencode(path)), encoded


class Videos:
    """The table ``videos`` of a catalog: a row per content, whether or not a path leads to it."""

    def __init__(self, tables: CheckedTables) -> None:
        self._tables, self._database = tables, tables.database

    def get(self, video: int) -> VideoRecord:
        """Return the record of a video.

        Raises:
            NotFoundError: There is no such video.
            StoreError: Its row is damaged.
        """
        select = f"SELECT {COLUMNS['videos']}, {INTACT['videos']} FROM videos WHERE id = ?"
        rows = self._database.rows(select, int(video)) if abs(video) < 1 << 63 else []  # SQLite has no larger numbers
        if not rows:
            raise NotFoundError(f"video must be one of this index, got {video}")
        video_id, fingerprint, duration, facts, num_segments, complete, salvaged, intact = rows[0]
        if not intact:
            raise self._tables.damage_error(f"the row of video {video}")
        return VideoRecord(video_id, fingerprint, duration, json.loads(facts), num_segments, bool(complete), salvaged)

    def find(self, filters: Filters = ALL_VIDEOS, *, ids: Sequence[int] | None = None) -> list[StoredVideo]:
        """Return the videos with a live path that matches, of ``ids`` if given, by the least path of each.

        The paths of a video have the order of ``rank_path``.
        """
        stored = "(SELECT count(*) FROM segments WHERE segments.video = videos.id)"
        num_segments = f"iif(num_segments = 0, {stored}, num_segments)"  # 0 while a video is open-ended
        columns = f"path, videos.id, duration, facts, complete, salvaged, {num_segments}, mtime_ns"
        one, values = "", list[object](filter_values(filters))
        if ids is not None:
            one = "AND video IN (SELECT value FROM json_each(?7))"
            values.append(ids_to_json(ids))
        intact = f"{INTACT['files']} AND {INTACT['videos']}"
        asks_facts = has_fact_filters(filters)
        facts_asked = f"{FACT_VALUES}, " if asks_facts else ""
        sql = f"SELECT {columns}, {facts_asked}{intact} {MATCHING} {one} ORDER BY path"
        rows = [
            row
            for row in self._tables.drop_damaged("files", self._database.rows(sql, *values))
            if has_name(row[0], filters)
        ]
        if asks_facts:
            known_facts = stack_facts([row[8:-1] for row in rows])
            matching = match_facts(filters, known_facts, to_seconds([row[7] for row in rows]))
            rows = [row for row, matches in zip(rows, matching.tolist(), strict=True) if matches]
        by_video: dict[int, list[Any]] = {}
        for row in rows:
            by_video.setdefault(row[1], []).append(row)
        return [_read_video(video_rows) for video_rows in by_video.values()]

    def find_intact(self, ids: Iterable[int]) -> set[int]:
        """Return those of the ids whose rows are intact; damaged rows are left out, with a warning."""
        sql = f"SELECT id, {INTACT['videos']} FROM videos WHERE id IN {IN_IDS}"
        return {row[0] for row in self._tables.drop_damaged("videos", self._database.rows(sql, ids_to_json(list(ids))))}

    def fingerprints(self) -> dict[int, str]:
        """Return the fingerprints of all videos, by id.

        Raises:
            StoreError: A row is damaged. If it were left out, its video and all its data would seem deleted.
        """
        rows = self._database.rows(f"SELECT id, fingerprint, {INTACT['videos']} FROM videos ORDER BY id")
        for video, _, intact in rows:
            if not intact:
                raise self._tables.damage_error(f"the row of video {video}")
        return {video: fingerprint for video, fingerprint, _ in rows}

    def find_complete(self, fingerprint: str) -> int | None:
        """Return the id of the video with a fingerprint if it is completely stored, else None."""
        intact = INTACT["videos"]
        sql = f"SELECT id FROM videos WHERE fingerprint = ? AND complete AND {intact}"
        video_id: int | None = self._database.value(sql, fingerprint)
        return video_id

    def completeness(self) -> dict[int, bool]:
        """Return whether each video is complete, by id, searchable or not."""
        return {
            video: bool(complete)
            for video, complete in self._database.rows("SELECT id, complete FROM videos ORDER BY id")
        }

    def begin(self, fingerprint: str, duration: float, facts: Mapping[str, object], num_segments: int | None) -> int:
        """Return the id of a video, adding it if new; with another number of segments it starts over.

        Without a number, it is open-ended and keeps its segments, of a planned one those before the first that is lost:
        the next reading may cut the rest elsewhere.
        """
        with self._database.transaction():
            columns = f"id, num_segments, complete, {INTACT['videos']}"
            rows = self._database.rows(f"SELECT {columns} FROM videos WHERE fingerprint = ?", fingerprint)
            video_id, planned, complete, intact = rows[0] if rows else (0, 0, 0, 0)
            if intact and (planned == num_segments or num_segments is None):
                if num_segments is None and planned and not complete:
                    self._database.run(
                        f"UPDATE videos SET num_segments = 0, facts = {MARK_SHOTS} WHERE id = ?", video_id
                    )
                    self._tables.update_checksums("videos", "id = ?", video_id)
                    sql = f"DELETE FROM segments WHERE video = ?1 AND number >= ({FIRST_AFTER_GAP})"
                    if self._database.run(sql, video_id):
                        self._tables.increment_generation()
                return int(video_id)
            if rows:
                self._database.run("DELETE FROM segments WHERE video = ?", video_id)
                self._tables.increment_generation()
            facts = facts if num_segments else {**facts, SEGMENTS: FOLLOW_SHOTS}
            values = (fingerprint, duration, json.dumps(facts), num_segments or 0)
            video_id = self._database.value(
                "INSERT INTO videos (fingerprint, duration, facts, num_segments) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (fingerprint) DO UPDATE SET duration = excluded.duration, facts = excluded.facts,"
                " num_segments = excluded.num_segments, complete = 0, salvaged = '' RETURNING id",
                *values,
            )
            self._tables.update_checksums("videos", "id = ?", video_id)
            return int(video_id)

    def read_fact(self, name: str) -> dict[str, tuple[int, str]]:
        """Return each video's id and value of a fact, '' if it has none, by fingerprint."""
        noted = f"iif(json_valid(facts), ifnull(json_extract(facts, '$.{name}'), ''), '')"
        rows = self._database.rows(f"SELECT id, fingerprint, {noted}, {INTACT['videos']} FROM videos")
        return {row[1]: (row[0], row[2]) for row in self._tables.drop_damaged("videos", rows)}

    def note_fact(self, name: str, values: Mapping[int, str]) -> None:
        """Set a fact of videos, given its values by id."""
        with self._database.transaction():
            for video, value in values.items():
                sql = f"UPDATE videos SET facts = json_set(facts, '$.{name}', ?) WHERE id = ? AND {INTACT['videos']}"
                if self._database.run(sql, value, video):
                    self._tables.update_checksums("videos", "id = ?", video)

    def finish(self, video: int, salvaged: str, *, num_segments: int | None = None) -> None:
        """Mark a video as complete; ``salvaged`` describes its losses, ``num_segments`` replaces the planned number."""
        with self._database.transaction():
            planned = self.get(video).num_segments  # raises for a damaged row, which must not get a valid checksum
            num_segments = planned if num_segments is None else num_segments
            sql = "UPDATE videos SET complete = 1, salvaged = ?, num_segments = ? WHERE id = ?"
            self._database.run(sql, _clean(salvaged), num_segments, video)
            self._tables.update_checksums("videos", "id = ?", video)

    def mark_incomplete(self, where: str, values: str) -> None:
        """Mark videos and their files as not done, for the next run to encode again; damaged rows stay unchanged."""
        videos, files = INTACT["videos"], INTACT["files"]
        self._database.run(f"UPDATE videos SET complete = 0, checksum = NULL WHERE id IN {where} AND {videos}", values)
        sql = (
            f"UPDATE files SET state = 'pending', checksum = NULL WHERE state = 'done' AND video IN {where} AND {files}"
        )
        self._database.run(sql, values)
        for table in ("videos", "files"):
            self._tables.update_checksums(table, "checksum IS NULL")


def _read_file_row(row: Sequence[Any]) -> FileRecord:
    return FileRecord(os.fsdecode(row[0]), *row[1:6])


def _read_video(rows: Sequence[Sequence[Any]]) -> StoredVideo:
    """Return a video, given the rows of its paths."""
    paths = {os.fsdecode(row[0]): row for row in rows}
    ranked = sorted(paths, key=rank_path)
    _, video_id, duration, facts, complete, salvaged, num_segments, mtime_ns, *_ = paths[ranked[0]]
    return StoredVideo(
        id=video_id,
        paths=tuple(ranked),
        duration=duration,
        facts=json.loads(facts),
        complete=bool(complete),
        salvaged=salvaged,
        num_segments=num_segments,
        changed=None if mtime_ns is None or mtime_ns <= NO_TIME else mtime_ns / 1e9,
    )


def _searchable_video(record: FileRecord) -> int | None:
    """Return the id of the video that a path makes searchable, if any."""
    return record.video if record.live else None


def _clean(text: str) -> str:
    """Return text that SQLite can store; reasons may quote file names that are not valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
