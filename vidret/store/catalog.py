"""The truth about an index, in SQLite: which files, which videos, which segments, and where their vectors lie.

Nothing else here knows SQLite. A segment exists from the moment its row is committed; its vectors were on disk before.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from vidret.errors import StoreError
from vidret.store.records import DEAD_STATES, FileRecord, Place, StoredVideo, VideoRecord
from vidret.types import NO_TIME, Filters, Segment

T = TypeVar("T")

FORMAT = 1
WAIT_SECONDS = 30.0
Ids = Int64[np.ndarray, " id"]

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE, duration REAL NOT NULL, facts TEXT NOT NULL,
    num_segments INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0, salvaged TEXT NOT NULL DEFAULT '');
CREATE TABLE files (
    path BLOB PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, video INTEGER REFERENCES videos,
    num_bytes INTEGER, mtime_ns INTEGER) WITHOUT ROWID;
CREATE INDEX files_by_video ON files (video);
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, video INTEGER NOT NULL REFERENCES videos, number INTEGER NOT NULL,
    start REAL NOT NULL, "end" REAL NOT NULL, row INTEGER NOT NULL, frame_row INTEGER NOT NULL,
    num_frames INTEGER NOT NULL, token_byte INTEGER NOT NULL, num_bytes INTEGER NOT NULL, row_sum INTEGER NOT NULL,
    frames_sum INTEGER NOT NULL, tokens_sum INTEGER NOT NULL, times BLOB NOT NULL,
    UNIQUE (video, number));
"""
FILE = "path, state, reason, video, num_bytes, mtime_ns"
PLACE = "row, frame_row, num_frames, token_byte, num_bytes, row_sum, frames_sum, tokens_sum"
LIVE = f"state NOT IN {DEAD_STATES}"
LIVE_VIDEOS = f"(SELECT video FROM files WHERE video IS NOT NULL AND {LIVE})"
# Files that make a video findable, as ``as_values`` of filters ask for it; NULL asks for nothing.
MATCHING = f"""
    FROM files JOIN videos ON videos.id = files.video WHERE {LIVE}
    AND (?1 IS NULL OR path = ?1 OR substr(path, 1, length(?2)) = ?2)
    AND (?3 IS NULL OR duration >= ?3) AND (?4 IS NULL OR duration <= ?4)
    AND (?5 IS NULL OR mtime_ns >= ?5) AND (?6 IS NULL OR mtime_ns > {NO_TIME} AND mtime_ns < ?6)"""
ASKED = "(SELECT value FROM json_each(?))"  # one statement for any number of ids


class Catalog:
    """One connection that all threads share, one statement or transaction at a time."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open a catalog that exists.

        Raises:
            StoreError: it is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self._lock = threading.RLock()
        self._connection = _connect(path, write=write)
        try:
            found = self.value("SELECT value FROM meta WHERE key = 'format'")
            if not isinstance(found, int) or found > FORMAT:
                reads = f"this version of vidret reads up to {FORMAT}"
                raise StoreError(f"{path.parent}: the index has format {found}, {reads}; update vidret")
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str | int]) -> "Catalog":
        """Make an empty catalog in one transaction, so that a crash leaves all of it or none; then open it."""
        rows = {**facts, "format": FORMAT, "generation": 0, "epoch": 0, "tail": "[0, 0, 0]"}
        connection = _connect(path, write=True, create=True)
        try:
            with _as_store_error(path):
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
                connection.execute("COMMIT")
        finally:
            connection.close()
        return cls(path, write=True)

    @staticmethod
    def exists(path: Path) -> bool:
        """Say whether a catalog was ever finished here.

        Raises:
            StoreError: something else is here.
        """
        if not path.is_file():
            return False
        connection = _connect(path, write=False)
        try:
            with _as_store_error(path):
                return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0])
        finally:
            connection.close()

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit all of it or nothing; ``durable`` waits for the disk, with every commit before it."""
        with self._lock, _as_store_error(self.path):
            if durable:
                self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has SQLite roll back by itself
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    # What the index is

    def meta(self, key: str) -> Any:
        """Look up one fact about the index, None where it was never set."""
        return self.value("SELECT value FROM meta WHERE key = ?", key)

    def set_meta(self, key: str, value: str | int | bytes) -> None:
        """Set one fact about the index."""
        self.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", key, value)

    def meta_keys(self, prefix: str, *, skip: int) -> list[str]:
        """List the keys that begin with a prefix, in order, without their first characters."""
        sql = "SELECT substr(key, ?2 + 1) FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key"
        return [key for (key,) in self.rows(sql, prefix, skip)]

    def encoder(self) -> tuple[str, str, int]:
        """Give the name, fingerprint and dim of the encoder that the index is built with."""
        return str(self.meta("encoder_name")), str(self.meta("encoder_fingerprint")), int(self.meta("dim"))

    def tail(self) -> tuple[int, int, int]:
        """Give the first rows never used, in the video file, in the frame file and in the token file."""
        row, frame_row, token_byte = json.loads(self.meta("tail"))
        return row, frame_row, token_byte

    # Files

    def file(self, path: str) -> FileRecord | None:
        """Look up one path."""
        rows = self.rows(f"SELECT {FILE} FROM files WHERE path = ?", os.fsencode(path))
        return _file(rows[0]) if rows else None

    def files(self, state: str | None) -> list[FileRecord]:
        """List the paths, in order, all or those in one state."""
        return [_file(row) for row in self.rows(f"SELECT {FILE} FROM files WHERE ?1 IS NULL OR state = ?1", state)]

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
            if _shown(old) != _shown(new):
                self.bump()

    def paths(self, videos: Sequence[int], filters: Filters) -> dict[int, list[str]]:
        """List the live paths of each video that match, in order."""
        found: dict[int, list[str]] = {int(video): [] for video in videos}
        sql = f"SELECT video, path {MATCHING} AND video IN (SELECT value FROM json_each(?7)) ORDER BY path"
        for video, path in self.rows(sql, *as_values(filters), as_json(videos)):
            found[video].append(os.fsdecode(path))
        return found

    # Videos

    def video(self, video: int) -> VideoRecord:
        """Look up one content."""
        rows = self.rows("SELECT * FROM videos WHERE id = ?", int(video))
        if not rows:
            raise StoreError(f"video must be one of this index, got {video}")
        number, fingerprint, duration, facts, num_segments, complete, salvaged = rows[0]
        return VideoRecord(number, fingerprint, duration, json.loads(facts), num_segments, bool(complete), salvaged)

    def stored_videos(self, filters: Filters, video: int | None) -> list[StoredVideo]:
        """List contents with the live paths that match, all or one, in the order of their first paths."""
        columns = "videos.id, path, duration, facts, complete, salvaged, num_segments, mtime_ns"
        one, values = ("", as_values(filters)) if video is None else ("AND video = ?7", (*as_values(filters), video))
        found: dict[int, StoredVideo] = {}
        sql = f"SELECT {columns} {MATCHING} {one} ORDER BY path"
        for number, path, duration, facts, complete, salvaged, num_segments, mtime_ns in self.rows(sql, *values):
            if (known := found.get(number)) is not None:
                found[number] = replace(known, paths=(*known.paths, os.fsdecode(path)))
                continue
            changed = None if mtime_ns is None or mtime_ns <= NO_TIME else mtime_ns / 1e9
            about = json.loads(facts), bool(complete), salvaged, num_segments, changed
            found[number] = StoredVideo(number, (os.fsdecode(path),), duration, *about)
        return list(found.values())

    def contents(self) -> dict[str, int]:
        """Map fingerprints to ids, of the contents that have a live path."""
        return dict(self.rows(f"SELECT fingerprint, id FROM videos WHERE id IN {LIVE_VIDEOS} ORDER BY id"))

    def fingerprints(self) -> dict[int, str]:
        """Map ids to fingerprints, of all contents."""
        return dict(self.rows("SELECT id, fingerprint FROM videos ORDER BY id"))

    def complete_video(self, fingerprint: str) -> int | None:
        """Find a content of which everything is stored."""
        found: int | None = self.value("SELECT id FROM videos WHERE fingerprint = ? AND complete", fingerprint)
        return found

    def begin_video(self, fingerprint: str, duration: float, facts: Mapping[str, object], num_segments: int) -> int:
        """Find or add a content; one that was cut into another number of segments starts over."""
        with self.transaction():
            rows = self.rows("SELECT id, num_segments FROM videos WHERE fingerprint = ?", fingerprint)
            if rows and rows[0][1] == num_segments:
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
            return int(found)

    def finish_video(self, video: int, salvaged: str) -> None:
        """Mark a content as stored whole, or as far as it could be salvaged."""
        self.run("UPDATE videos SET complete = 1, salvaged = ? WHERE id = ?", _clean(salvaged), video)

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
            tail = [place.row + 1, place.frame_row + place.num_frames, place.token_byte + place.num_bytes]
            self.set_meta("tail", json.dumps(tail))
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
        rows = self.rows(f'SELECT id, video, number, start, "end" FROM segments WHERE id IN {ASKED}', as_json(ids))
        found = {row[0]: Segment(*row[1:]) for row in rows}
        return in_order(found, ids)

    def searchable(self) -> Ids:
        """List the ids a search may return, rising."""
        with self._lock, _as_store_error(self.path):
            rows = self._connection.execute(f"SELECT id FROM segments WHERE video IN {LIVE_VIDEOS}")
            return np.sort(np.fromiter((row[0] for row in rows), np.int64))

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
        epoch = "(SELECT value FROM meta WHERE key = 'epoch')"  # read in the same statement: one moment in time
        asked = "" if ids is None else f" WHERE id IN {ASKED}"
        rows = self.rows(
            f"SELECT {epoch}, id, {PLACE} FROM segments{asked} ORDER BY id", *(() if ids is None else (as_json(ids),))
        )
        return (rows[0][0] if rows else self.meta("epoch")), {row[1]: Place(*row[2:]) for row in rows}

    def video_rows(self, ids: Ids) -> tuple[int, Int64[np.ndarray, "segment 3"]]:
        """Give segments' ids, video rows and their checksums, in id order, with the epoch; unknown ones are left out.

        What ``places`` does, for thousands of segments in milliseconds.
        """
        epoch = "(SELECT value FROM meta WHERE key = 'epoch')"
        rows = self.rows(
            f"SELECT {epoch}, id, row, row_sum FROM segments WHERE id IN {ASKED} ORDER BY id", as_json(ids)
        )
        table = np.array(rows, np.int64).reshape(-1, 4)
        return (int(table[0, 0]) if len(table) else self.meta("epoch")), table[:, 1:]

    def times(self, ids: Sequence[int] | Ids) -> list[Float64[np.ndarray, " frame"]]:
        """Look up the times of segments' frames, in the order asked."""
        rows = self.rows(f"SELECT id, times FROM segments WHERE id IN {ASKED}", as_json(ids))
        return in_order({row[0]: np.frombuffer(row[1], np.float64) for row in rows}, ids)

    # Any statement

    def bump(self) -> None:
        """Count one change of what a search returns; part of the transaction that makes it."""
        self.run("UPDATE meta SET value = value + 1 WHERE key = 'generation'")

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Give all rows of a query."""
        with self._lock, _as_store_error(self.path):
            return self._connection.execute(sql, values).fetchall()

    def value(self, sql: str, *values: object) -> Any:
        """Give the first value of a query, None when there is no row."""
        rows = self.rows(sql, *values)
        return rows[0][0] if rows else None

    def run(self, sql: str, *values: object) -> int:
        """Change rows; return how many."""
        with self._lock, _as_store_error(self.path):
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement for many rows of values."""
        with self._lock, _as_store_error(self.path):
            self._connection.executemany(sql, values)


def _connect(path: Path, *, write: bool, create: bool = False) -> sqlite3.Connection:
    # A reader may have to replay the log of a killed writer, so it too opens for writing; query_only keeps it honest.
    flags = "mode=rwc" if create else "mode=rw"
    log = path.with_name(path.name + "-wal")
    if not write and not os.access(path.parent, os.W_OK) and not log.exists():
        flags = "mode=ro&immutable=1"  # a finished index on a read-only disk
    with _as_store_error(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{flags}",
            uri=True,
            timeout=WAIT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            if write:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA foreign_keys = ON")
            else:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


def as_values(
    filters: Filters,
) -> tuple[bytes | None, bytes | None, float | None, float | None, int | None, int | None]:
    """Give what ``MATCHING`` asks for."""
    folder = None if filters.folder is None else os.fsencode(filters.folder.rstrip("/") or "/")
    inside = None if folder is None else folder.rstrip(b"/") + b"/"
    after, before = (None if each is None else int(each * 1e9) for each in (filters.after, filters.before))
    return folder, inside, filters.min_seconds, filters.max_seconds, after, before


def _file(row: Sequence[Any]) -> FileRecord:
    return FileRecord(os.fsdecode(row[0]), *row[1:])


def _shown(record: FileRecord) -> int | None:
    """Name the video that a path makes searchable, if any."""
    return record.video if record.live else None


def _clean(text: str) -> str:
    """Make any text storable: reasons may quote file names that are not valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def in_order(found: Mapping[int, T], ids: Sequence[int] | Ids) -> list[T]:
    """Give what was found of segments, in the order asked.

    Raises:
        StoreError: a segment is not among them.
    """
    try:
        return [found[int(number)] for number in ids]
    except KeyError as error:
        raise StoreError(f"segment {error.args[0]} is not in the index") from None


def as_json(ids: Sequence[int] | Ids) -> str:
    """Write ids the way that ``ASKED`` reads them."""
    return json.dumps(np.asarray(ids, np.int64).tolist())
