"""The truth about an index, in SQLite: which files, which videos, which segments, and where their vectors lie.

A segment exists from the moment its row is committed; its vectors were on disk before. Every row carries a checksum of
its values. What is read of a row is held against it, except where ids are listed by the thousand.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vidret.errors import StoreError
from vidret.store.database import REPAIR, Database
from vidret.store.matching import ASKED, LIVE_VIDEOS, MATCHING, Ids, as_json, as_values, in_order
from vidret.store.records import FileRecord, Place, StoredRow, StoredVideo, VideoRecord
from vidret.store.schema import (
    CHECKSUM,
    COLUMNS,
    FORMAT,
    PLACE,
    WHOLE,
    add_checksums,
    last_segment,
    make_tables,
    read_format,
    set_fact,
)
from vidret.types import NO_TIME, Filters, Segment

logger = logging.getLogger(__name__)


FILE = COLUMNS["files"]
EPOCH = "(SELECT value FROM meta WHERE key = 'epoch')"  # within a statement: of the same moment


class Catalog:
    """The rows of an index; ``rows``, ``value``, ``run``, ``run_many`` and ``transaction`` are the database's own."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open a catalog that exists; a writer gives one of format 1 its checksums.

        Raises:
            StoreError: it is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self.database = database = Database(path, write=write)
        self.transaction, self.run, self.run_many = database.transaction, database.run, database.run_many
        self.rows, self.value = database.rows, database.value
        self._left_out: set[tuple[str, object]] = set()
        try:
            self.format = read_format(database)
            if not self.format:
                raise self._damaged("the fact 'format'")
            if write and self.format < FORMAT:
                logger.info("%s: adding checksums to its rows", path)
                self.format = add_checksums(database)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str | int]) -> "Catalog":
        """Make an empty catalog in one transaction, so that a crash leaves all of it or none; then open it."""
        database = Database(path, write=True, create=True)
        try:
            with database.transaction():
                make_tables(database)
                for key, value in {**facts, "generation": 0, "epoch": 0, "tail": "[0, 0, 0, 0]"}.items():
                    set_fact(database, key, value)
        finally:
            database.close()
        return cls(path, write=True)

    @staticmethod
    def exists(path: Path) -> bool:
        """Say whether a catalog was ever finished here.

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

    # Checksums

    def whole(self, table: str) -> str:
        """Return the condition, in SQL, that a row of a table is as it was written; format 1 cannot tell."""
        return WHOLE[table] if self.format > 1 else "1"

    def _seal(self, table: str, where: str, *values: object) -> None:
        """Write the checksums of rows that have just been written."""
        self.run(f"UPDATE {table} SET checksum = {CHECKSUM[table]} WHERE {where}", *values)

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.path}: {what} is damaged (checksum); {REPAIR}")

    def _keep_whole(self, table: str, rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Leave out rows whose last value says that they are damaged, and say so once of each."""
        kept = []
        for row in rows:
            if row[-1]:
                kept.append(row)
            elif (table, row[0]) not in self._left_out:
                self._left_out.add((table, row[0]))
                logger.warning("left out: %s", self._damaged(f"the row of {row[0]!r} in {table}"))
        return kept

    # What the index is

    def meta(self, key: str) -> Any:
        """Look up one fact about the index, None where it was never set.

        Raises:
            StoreError: it is damaged.
        """
        rows = self.rows(f"SELECT value, {self.whole('meta')} FROM meta WHERE key = ?", key)
        if not rows:
            return None
        value, whole = rows[0]
        if not whole:
            raise self._damaged(f"the fact {key!r}")
        return value

    def fact(self, key: str) -> Any:
        """Look up a fact that every index has."""
        value = self.meta(key)
        if value is None:
            raise StoreError(f"{self.path}: the fact {key!r} is lost; {REPAIR}")
        return value

    def derived(self, *keys: str) -> list[Any]:
        """Look up, of one moment, what can be derived again: None where it was never set or is damaged."""
        sql = f"SELECT key, value FROM meta WHERE key IN (SELECT value FROM json_each(?)) AND {self.whole('meta')}"
        found = dict(self.rows(sql, json.dumps(keys)))
        return [found.get(key) for key in keys]

    def set_meta(self, key: str, value: str | int | bytes) -> None:
        """Set one fact about the index."""
        set_fact(self.database, key, value)

    def meta_keys(self, prefix: str, *, skip: int) -> list[str]:
        """List the keys that begin with a prefix, in order, without their first characters."""
        sql = "SELECT substr(key, ?2 + 1) FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key"
        return [key for (key,) in self.rows(sql, prefix, skip)]

    def encoder(self) -> tuple[str, str, int]:
        """Give the name, fingerprint and dim of the encoder that the index is built with."""
        return str(self.fact("encoder_name")), str(self.fact("encoder_fingerprint")), int(self.fact("dim"))

    def tail(self) -> tuple[int, int, int]:
        """Give the first rows never used, in the video file, in the frame file and in the token file."""
        row, frame_row, token_byte = json.loads(self.fact("tail"))[:3]
        return row, frame_row, token_byte

    def set_tail(self, row: int, frame_row: int, token_byte: int) -> None:
        """Set the first rows never used; the last id given to a segment is kept with them."""
        self.set_meta("tail", json.dumps([row, frame_row, token_byte, last_segment(self.database)]))

    # Files

    def file(self, path: str) -> FileRecord | None:
        """Look up one path."""
        rows = self.rows(f"SELECT {FILE}, {self.whole('files')} FROM files WHERE path = ?", os.fsencode(path))
        return next(map(_file, self._keep_whole("files", rows)), None)

    def files(self, state: str | None) -> list[FileRecord]:
        """List the paths, in order, all or those in one state."""
        sql = f"SELECT {FILE}, {self.whole('files')} FROM files WHERE ?1 IS NULL OR state = ?1"
        return [_file(row) for row in self._keep_whole("files", self.rows(sql, state))]

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
            self._seal("files", "path = ?", values[0])
            if _shown(old) != _shown(new):
                self.bump()

    def paths(self, videos: Sequence[int], filters: Filters) -> dict[int, list[str]]:
        """List the live paths of each video that match, in order."""
        found: dict[int, list[str]] = {int(video): [] for video in videos}
        asked = f"{MATCHING} AND video IN (SELECT value FROM json_each(?7)) ORDER BY path"
        rows = self.rows(f"SELECT path, video, {self.whole('files')} {asked}", *as_values(filters), as_json(videos))
        for path, video, _ in self._keep_whole("files", rows):
            found[video].append(os.fsdecode(path))
        return found

    # Videos

    def video(self, video: int) -> VideoRecord:
        """Look up one content."""
        rows = self.rows(f"SELECT {COLUMNS['videos']}, {self.whole('videos')} FROM videos WHERE id = ?", int(video))
        if not rows:
            raise StoreError(f"video must be one of this index, got {video}")
        number, fingerprint, duration, facts, num_segments, complete, salvaged, whole = rows[0]
        if not whole:
            raise self._damaged(f"the row of video {video}")
        return VideoRecord(number, fingerprint, duration, json.loads(facts), num_segments, bool(complete), salvaged)

    def stored_videos(self, filters: Filters, video: int | None) -> list[StoredVideo]:
        """List contents with the live paths that match, all or one, in the order of their first paths."""
        columns = "path, videos.id, duration, facts, complete, salvaged, num_segments, mtime_ns"
        one, values = ("", as_values(filters)) if video is None else ("AND video = ?7", (*as_values(filters), video))
        found: dict[int, StoredVideo] = {}
        whole = f"{self.whole('files')} AND {self.whole('videos')}"
        rows = self.rows(f"SELECT {columns}, {whole} {MATCHING} {one} ORDER BY path", *values)
        for path, number, duration, facts, complete, salvaged, num_segments, mtime_ns, _ in self._keep_whole(
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
        rows = self.rows(f"SELECT id, fingerprint, {self.whole('videos')} FROM videos WHERE {where} ORDER BY id")
        for video, _, whole in rows:
            if not whole:  # what is missing in a list of all would be taken for gone
                raise self._damaged(f"the row of video {video}")
        return [(video, fingerprint) for video, fingerprint, _ in rows]

    def complete_video(self, fingerprint: str) -> int | None:
        """Find a content of which everything is stored."""
        whole = self.whole("videos")
        sql = f"SELECT id FROM videos WHERE fingerprint = ? AND complete AND {whole}"
        found: int | None = self.value(sql, fingerprint)
        return found

    def begin_video(self, fingerprint: str, duration: float, facts: Mapping[str, object], num_segments: int) -> int:
        """Find or add a content; one that was cut into another number of segments starts over."""
        with self.transaction():
            sql = f"SELECT id, num_segments, {self.whole('videos')} FROM videos WHERE fingerprint = ?"
            rows = self.rows(sql, fingerprint)
            if rows and rows[0][1] == num_segments and rows[0][2]:
                return int(rows[0][0])
            if rows:
                self.run("DELETE FROM segments WHERE video = ?", rows[0][0])
                self.bump()
            values = (fingerprint, duration, json.dumps(facts), num_segments)
            found = self.value(
                "INSERT INTO videos (fingerprint, duration, facts, num_segments) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (fingerprint) DO UPDATE SET duration = excluded.duration, facts = excluded.facts,"
                " num_segments = excluded.num_segments, complete = 0, salvaged = '' RETURNING id",
                *values,
            )
            self._seal("videos", "id = ?", found)
            return int(found)

    def finish_video(self, video: int, salvaged: str) -> None:
        """Mark a content as stored whole, or as far as it could be salvaged."""
        with self.transaction():
            self.video(video)  # or a damaged row would be sealed
            self.run("UPDATE videos SET complete = 1, salvaged = ? WHERE id = ?", _clean(salvaged), video)
            self._seal("videos", "id = ?", video)

    # Segments

    def add_segments(self, stored: Sequence[tuple[Segment, Place, Float64[np.ndarray, " frame"]]]) -> list[int]:
        """Make stored segments visible, all at once; return their ids."""
        if not stored:
            return []
        ids = []
        with self.transaction():
            for segment, place, times in stored:
                where = astuple(place)
                found = self.value(
                    f'INSERT INTO segments (video, number, start, "end", {PLACE}, times)'
                    f" VALUES (?, ?, ?, ?, {', '.join('?' * len(where))}, ?) RETURNING id",
                    *(segment.video, segment.number, segment.start, segment.end, *where, times.tobytes()),
                )
                ids.append(int(found))
            self._seal("segments", "id >= ?", ids[0])
            self.set_tail(place.row + 1, place.frame_row + place.num_frames, place.token_byte + place.num_bytes)
            self.bump()
        return ids

    def video_segments(self, video: int) -> dict[int, int]:
        """Map the numbers of a video's stored segments to their ids, in time order."""
        return dict(self.rows("SELECT number, id FROM segments WHERE video = ? ORDER BY number", int(video)))

    def segment_id(self, video: int, number: int) -> int | None:
        """Find a stored segment by its number in its video."""
        found: int | None = self.value(
            "SELECT id FROM segments WHERE video = ? AND number = ?", int(video), int(number)
        )
        return found

    def segments(self, ids: Sequence[int] | Ids) -> list[Segment]:
        """Look up segments, in the order asked."""
        found = {row[0]: Segment(*row[1:]) for row in self._segment_rows('id, video, number, start, "end"', ids)}
        return in_order(found, ids)

    def owners(self, ids: Sequence[int] | Ids) -> dict[int, int]:
        """Map segments to their videos, as far as they are in the index."""
        return dict(self.rows(f"SELECT id, video FROM segments WHERE id IN {ASKED}", as_json(ids)))

    def stored(self, ids: Sequence[int] | Ids) -> tuple[int, dict[int, StoredRow | None]]:
        """Look up, of one moment, all about those segments that are in the index, None for a damaged row.

        Returns:
            The epoch of the feature files that they are in, and the rows by id.
        """
        columns = f'{EPOCH}, id, {self.whole("segments")}, video, number, start, "end", times, {PLACE}'
        rows = self.rows(f"SELECT {columns} FROM segments WHERE id IN {ASKED}", as_json(ids))
        found = {
            row[1]: StoredRow(Segment(*row[3:7]), np.frombuffer(row[7], np.float64), Place(*row[8:]))
            if row[2]
            else None
            for row in rows
        }
        return (rows[0][0] if rows else self.fact("epoch")), found

    def _segment_rows(self, columns: str, ids: Sequence[int] | Ids) -> list[Any]:
        rows = self.rows(f"SELECT {columns}, {self.whole('segments')} FROM segments WHERE id IN {ASKED}", as_json(ids))
        for row in rows:
            if not row[-1]:
                raise self._damaged(f"the row of segment {row[0]}")
        return [row[:-1] for row in rows]

    def searchable(self) -> Ids:
        """List the ids a search may return, rising."""
        sql = f"SELECT id FROM segments WHERE video IN {LIVE_VIDEOS}"
        return np.sort(self.database.read(lambda rows: np.fromiter((row[0] for row in rows), np.int64), sql))

    def matching(self, filters: Filters) -> Ids:
        """List the ids of the searchable segments of videos that match, rising."""
        sql = f"SELECT id FROM segments WHERE video IN (SELECT files.video {MATCHING}) ORDER BY id"
        return np.array([row[0] for row in self.rows(sql, *as_values(filters))], np.int64)

    def count_videos(self, filters: Filters) -> int:
        """Count the videos that match and have a searchable segment."""
        sql = f"SELECT count(*) FROM videos WHERE id IN (SELECT files.video {MATCHING})"
        stored = "EXISTS (SELECT 1 FROM segments WHERE segments.video = videos.id)"
        return int(self.value(f"{sql} AND {stored}", *as_values(filters)))

    def count_searchable(self) -> int:
        """Count the segments a search may return."""
        return int(self.value(f"SELECT count(*) FROM segments WHERE video IN {LIVE_VIDEOS}"))

    def places(self, ids: Sequence[int] | Ids | None = None) -> tuple[int, dict[int, Place]]:
        """Locate segments (all by default, in id order), with the epoch of the feature files they are in."""
        asked = "" if ids is None else f" WHERE id IN {ASKED}"
        rows = self.rows(
            f"SELECT {EPOCH}, id, {PLACE} FROM segments{asked} ORDER BY id", *(() if ids is None else (as_json(ids),))
        )
        return (rows[0][0] if rows else self.fact("epoch")), {row[1]: Place(*row[2:]) for row in rows}

    def video_rows(self, ids: Ids) -> tuple[int, Int64[np.ndarray, "segment 3"]]:
        """Give segments' ids, video rows and their checksums, in id order, with the epoch; unknown ones are left out.

        What ``places`` does, for thousands of segments in milliseconds.
        """
        rows = self.rows(
            f"SELECT {EPOCH}, id, row, row_sum FROM segments WHERE id IN {ASKED} ORDER BY id", as_json(ids)
        )
        table = np.array(rows, np.int64).reshape(-1, 4)
        return (int(table[0, 0]) if len(table) else self.fact("epoch")), table[:, 1:]

    def times(self, ids: Sequence[int] | Ids) -> list[Float64[np.ndarray, " frame"]]:
        """Look up the times of segments' frames, in the order asked."""
        rows = self._segment_rows("id, times", ids)
        return in_order({key: np.frombuffer(times, np.float64) for key, times in rows}, ids)

    # Changes

    def bump(self) -> None:
        """Count one change of what a search returns; part of the transaction that makes it."""
        change = "UPDATE meta SET value = value + 1 WHERE key = 'generation' AND"
        if not self.run(f"{change} {self.whole('meta')}"):
            raise self._damaged("the fact 'generation'")
        self._seal("meta", "key = 'generation'")

    def unfinish(self, where: str, values: str) -> None:
        """Have the next run encode some videos again; damaged rows stay as they are."""
        videos, files = self.whole("videos"), self.whole("files")
        self.run(f"UPDATE videos SET complete = 0, checksum = NULL WHERE id IN {where} AND {videos}", values)
        sql = (
            f"UPDATE files SET state = 'pending', checksum = NULL WHERE state = 'done' AND video IN {where} AND {files}"
        )
        self.run(sql, values)
        for table in ("videos", "files"):
            self._seal(table, "checksum IS NULL")

    def move_segments(self, places: Iterable[tuple[int, int, int, int]]) -> None:
        """Give segments other rows: video row, frame row, token byte and id of each; damaged rows stay as they are."""
        sql = "UPDATE segments SET row = ?, frame_row = ?, token_byte = ?, checksum = NULL WHERE id = ?"
        self.run_many(f"{sql} AND {self.whole('segments')}", places)
        self._seal("segments", "checksum IS NULL")


def _file(row: Sequence[Any]) -> FileRecord:
    return FileRecord(os.fsdecode(row[0]), *row[1:6])


def _shown(record: FileRecord) -> int | None:
    """Name the video that a path makes searchable, if any."""
    return record.video if record.live else None


def _clean(text: str) -> str:
    """Make any text storable: reasons may quote file names that are not valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
