"""The schema of a catalog, the checksums of its rows, the SQL conditions on files, and the metadata."""

import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vidret.errors import MovedError, StoreError, VidretError, read_fault
from vidret.store.catalog.database import NEW_INDEX, REPAIR, Database
from vidret.store.folder import WriteAccess
from vidret.store.records import DEAD_STATES, SEGMENTS
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.changes import LOG
from vidret.text import has_words, with_slashes
from vidret.types import NO_TIME, Filters

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIVE = f"state NOT IN {DEAD_STATES}"
# Files that make a video searchable; the parameters are ``filter_values``, of which NULL disables a condition.
MATCHING = f"""
    FROM files JOIN videos ON videos.id = files.video WHERE {LIVE}
    AND (?1 IS NULL OR path = ?1 OR substr(path, 1, length(?2)) = ?2)
    AND (?3 IS NULL OR duration >= ?3) AND (?4 IS NULL OR duration <= ?4)
    AND (?5 IS NULL OR mtime_ns >= ?5) AND (?6 IS NULL OR mtime_ns > {NO_TIME} AND mtime_ns < ?6)"""
IN_IDS = "(SELECT value FROM json_each(?))"  # the same statement for any number of ids


def filter_values(
    filters: Filters,
) -> tuple[bytes | None, bytes | None, float | None, float | None, int | None, int | None]:
    """Return the parameters of ``MATCHING``: times in nanoseconds."""
    folder = None if filters.folder is None else os.fsencode(with_slashes(filters.folder).rstrip("/") or "/")
    inside = None if folder is None else folder.rstrip(b"/") + b"/"
    after, before = (
        None if bound is None else int(max(NO_TIME + 1, min(bound * 1e9, -NO_TIME)))
        for bound in (filters.after, filters.before)
    )
    return folder, inside, filters.min_seconds, filters.max_seconds, after, before


def ids_to_json(ids: Sequence[int] | Ids) -> str:
    """Return ids as JSON, the parameter of ``IN_IDS``."""
    return json.dumps(np.asarray(ids, np.int64).tolist())


def has_name(path: bytes, filters: Filters) -> bool:
    """Return whether a path contains the words that filters ask for, which SQL does not compare."""
    return filters.name is None or has_words(os.fsdecode(path), filters.name)


FORMAT = 1
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value, checksum INTEGER) WITHOUT ROWID",
    """CREATE TABLE videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE, duration REAL NOT NULL, facts TEXT NOT NULL,
    num_segments INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0, salvaged TEXT NOT NULL DEFAULT '',
    checksum INTEGER)""",
    """CREATE TABLE files (
    path BLOB PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, video INTEGER REFERENCES videos,
    num_bytes INTEGER, mtime_ns INTEGER, checksum INTEGER) WITHOUT ROWID""",
    "CREATE INDEX files_by_video ON files (video)",
    """CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, video INTEGER NOT NULL REFERENCES videos, number INTEGER NOT NULL,
    start REAL NOT NULL, "end" REAL NOT NULL, row INTEGER NOT NULL, frame_row INTEGER NOT NULL,
    num_frames INTEGER NOT NULL, token_byte INTEGER NOT NULL, num_bytes INTEGER NOT NULL, row_sum INTEGER NOT NULL,
    frames_sum INTEGER NOT NULL, tokens_sum INTEGER NOT NULL, times BLOB NOT NULL, checksum INTEGER,
    UNIQUE (video, number))""",
    """CREATE TABLE shots (
    segment INTEGER PRIMARY KEY REFERENCES segments ON DELETE CASCADE, changes TEXT NOT NULL, checksum INTEGER)""",
    """CREATE TABLE tracks (
    track INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE, content TEXT NOT NULL, source TEXT NOT NULL,
    model TEXT NOT NULL, until_s REAL NOT NULL, checksum INTEGER)""",
    "CREATE INDEX tracks_by_content ON tracks (content)",
    """CREATE TABLE texts (
    segment INTEGER PRIMARY KEY REFERENCES segments ON DELETE CASCADE, text BLOB NOT NULL, confidence REAL NOT NULL,
    language TEXT NOT NULL, checksum INTEGER)""",
)
LOCATION = "row, frame_row, num_frames, token_byte, num_bytes, row_sum, frames_sum, tokens_sum"
COLUMNS = {  # the first column is the key
    "meta": "key, value",
    "videos": "id, fingerprint, duration, facts, num_segments, complete, salvaged",
    "files": "path, state, reason, video, num_bytes, mtime_ns",
    "segments": f'id, video, number, start, "end", {LOCATION}, times',
    "shots": "segment, changes",
    "tracks": "track, content, source, model, until_s",
    "texts": "segment, text, confidence, language",
}
# Metadata that an index needs to be usable: each has a second row, under a key that begins with COPY.
ESSENTIAL = ("encoder_name", "encoder_fingerprint", "dim", "epoch", "user.ranker", f"user.{SEGMENTS}")
COPY = "copy."
NULL = -(2**63 - 1)  # replaces NULL in checksums


class RowLayout:
    """The columns of a table by type, for the checksum of a row, which is computed in SQL or in Python.

    Text is included as bytes, since Python cannot decode damaged text, and with its type, which one bit may change.
    """

    def __init__(self, integers: str, reals: str = "", texts: str = "", blobs: str = "") -> None:
        data = {**dict.fromkeys(texts.split(), "text"), **dict.fromkeys(blobs.split(), "blob")}
        whole, real = integers.split(), reals.split()
        types = [f"typeof({name}) = '{kind}'" for name, kind in data.items()]
        bodies = [f"CAST({name} AS BLOB)" for name in data]
        self.columns = ", ".join([*whole, *types, *real, *bodies, "checksum"])
        self._num_packed, self._num_values = len(whole + types + real), len(whole + types + real + bodies)
        kinds = "q" * len(whole + types) + "d" * len(real)
        self._pack = struct.Struct(f"<{kinds}").pack
        # NULL if a number has the wrong type, as in a damaged row.
        values = [f"iif(typeof({name}) = 'text', '', ifnull({name}, {NULL}))" for name in whole]
        values += [*types, *(f"iif(typeof({name}) = 'text', '', {name})" for name in real), *bodies]
        self.sql = f"crc('{kinds}', {', '.join(values)})"

    def is_intact(self, row: Sequence[Any]) -> bool:
        """Return whether the values of ``columns`` match their checksum; none may be NULL.

        Python checks many rows faster than SQLite, which would call Python, and take its lock, for each row.
        """
        try:
            crc = zlib.crc32(self._pack(*row[: self._num_packed]))
            for body in row[self._num_packed : self._num_values]:
                crc = zlib.crc32(body, crc + len(body))
        except (struct.error, TypeError):
            return False
        return bool(crc == row[self._num_values])


SEGMENT_ROW = RowLayout(f"id video number {LOCATION.replace(',', '')}", 'start "end"', blobs="times")
TEXT_ROW = RowLayout("segment", "confidence", texts="language", blobs="text")
CHECKSUM = {
    "meta": "crc('', CAST(key AS BLOB), CAST(typeof(value) AS BLOB), CAST(value AS BLOB))",
    "videos": RowLayout("id num_segments complete", "duration", texts="fingerprint facts salvaged").sql,
    "files": RowLayout("video num_bytes mtime_ns", texts="state reason", blobs="path").sql,
    "segments": SEGMENT_ROW.sql,
    "shots": RowLayout("segment", texts="changes").sql,
    "tracks": RowLayout("track", "until_s", texts="content source model").sql,
    "texts": TEXT_ROW.sql,
}
INTACT = {table: f"ifnull({table}.checksum = {expression}, 0)" for table, expression in CHECKSUM.items()}


def create_tables(database: Database) -> None:
    """Create the tables of an empty catalog, within the caller's transaction."""
    for statement in SCHEMA:
        database.run(statement)
    set_meta(database, "format", FORMAT)
    set_meta(database, "schema", find_schema_checksum(database))


def set_meta(database: Database, key: str, value: str | int | bytes) -> None:
    """Write a metadata value and, if it is essential, its copy, in one statement."""
    keys = [key, f"{COPY}{key}"] if key in ESSENTIAL else [key]
    rows = "SELECT each.value AS key, ?2 AS value FROM json_each(?1) each"
    sql = f"REPLACE INTO meta (key, value, checksum) SELECT key, value, {CHECKSUM['meta']} FROM ({rows})"
    database.run(sql, json.dumps(keys), value)


def read_format(database: Database) -> int:
    """Return the format of a catalog, 0 if it is damaged or lost.

    Raises:
        StoreError: The format is newer than this version supports, or the file has foreign SQL, which could run
            forever.
    """
    for kind, name, sql in database.rows("SELECT type, name, sql FROM sqlite_master WHERE type IN ('view', 'trigger')"):
        if LOG.get(name) != sql:
            advice = REPAIR if name in LOG else NEW_INDEX  # earlier ones with vectors in Milvus have triggers
            raise StoreError(f"{database.path}: must hold only tables and indexes, got the {kind} {name!r}; {advice}")
    file_format = database.value(f"SELECT value FROM meta WHERE key = 'format' AND {INTACT['meta']}")
    if not isinstance(file_format, int):
        return 0
    if file_format > FORMAT:
        rule = f"index format must be at most {FORMAT}, got {file_format}"
        raise StoreError(f"{database.path.parent}: {rule}; update vidret")
    return max(0, file_format)


def last_segment(database: Database) -> int:
    """Return the last segment id ever assigned, 0 if none; ids are never reused."""
    return int(database.value("SELECT seq FROM sqlite_sequence WHERE name = 'segments'") or 0)


def find_schema_checksum(database: Database) -> int:
    """Compute the checksum of the CREATE statements, except those of the log, which are derived."""
    condition = "name NOT LIKE 'changes%'"
    sql = f"SELECT type, name, tbl_name, sql FROM sqlite_master WHERE {condition} ORDER BY type, name"
    return zlib.crc32(json.dumps(database.rows(sql)).encode())


MAX_DIM = 1 << 16
SNAPSHOT = "snapshot of the catalog"  # key of the snapshot among a thread's pinned values


class CheckedTables:
    """A catalog's database with checksums of rows, and its table ``meta``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._warned: set[tuple[str, object]] = set()
        self._held = threading.local()

    # One state of the catalog

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Pin this thread to one state: each metadata value, and the snapshot, is read only once inside the context.

        Values are reused by the thread's next query unless another connection has committed since.
        """
        if self.held is not None:  # nested, in a part of a query
            yield
            return
        version = self.database.version()
        kept: tuple[int | None, dict[str, Any]] = getattr(self._held, "kept", (None, {}))
        self._held.values = values = kept[1] if version is not None and kept[0] == version else {}
        try:
            yield
        finally:
            values.pop(SNAPSHOT, None)  # it may be large
            self._held.values, self._held.kept = None, (version, values)

    @property
    def held(self) -> dict[str, Any] | None:
        """The values that this thread has read of its pinned state; None outside of ``hold``."""
        return getattr(self._held, "values", None)

    def forget_held(self) -> None:
        """Drop the values of this thread's pinned state, which are outdated."""
        if self.held is not None:
            self.held.clear()

    # Checksums

    def update_checksums(self, table: str, where: str, *values: object) -> None:
        """Compute the checksums of rows that have just been written."""
        self.database.run(f"UPDATE {table} SET checksum = {CHECKSUM[table]} WHERE {where}", *values)

    def damage_error(self, what: str) -> StoreError:
        """Return the error for damaged data."""
        return StoreError(f"{self.database.path}: {what} is damaged (checksum); {REPAIR}")

    def drop_damaged(self, table: str, rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return the rows whose last value is true, that is, intact; warn about each damaged row once."""
        kept = []
        for row in rows:
            if row[-1]:
                kept.append(row)
            elif (table, row[0]) not in self._warned:
                self._warned.add((table, row[0]))
                logger.warning("skipped: %s", self.damage_error(f"the row of {row[0]!r} in {table}"))
        return kept

    # Metadata

    def meta(self, key: str) -> Any:
        """Return a metadata value, None if it was never set."""
        held = self.held
        if held is not None and key in held:
            return held[key]
        rows = self.database.rows(f"SELECT value, {INTACT['meta']} FROM meta WHERE key = ?", key)
        value, intact = rows[0] if rows else (None, True)
        if not intact:
            raise self.damage_error(f"the metadata {key!r}")
        if held is not None:
            held[key] = value
        return value

    def fact(self, key: str) -> Any:
        """Return a metadata value that every index has.

        Raises:
            StoreError: The value is damaged or missing.
        """
        value = self.meta(key)
        if value is None:
            raise StoreError(f"{self.database.path}: the metadata {key!r} is lost; {REPAIR}")
        return value

    def derived(self, *keys: str) -> list[Any]:
        """Return metadata values that can be recomputed, read together; None where never set or damaged."""
        sql = f"SELECT key, value FROM meta WHERE key IN (SELECT value FROM json_each(?)) AND {INTACT['meta']}"
        values = dict(self.database.rows(sql, json.dumps(keys)))
        return [values.get(key) for key in keys]

    def set_meta(self, key: str, value: str | int | bytes) -> None:
        """Set a metadata value."""
        set_meta(self.database, key, value)

    def encoder(self) -> tuple[str, str, int]:
        """Return the name, fingerprint and dimension of the encoder of the index.

        Raises:
            StoreError: A value is damaged, missing or impossible.
        """
        dim = self.fact("dim")
        if not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
            raise StoreError(f"{self.database.path}: dim must be a number from 1 to {MAX_DIM}, got {dim!r}")
        return str(self.fact("encoder_name")), str(self.fact("encoder_fingerprint")), dim

    def check_fingerprint(self, fingerprint: str) -> None:
        """Check that the index still has the encoder that it was opened with.

        Raises:
            MovedError: Another process has moved the index to another encoder.
        """
        if self.fact("encoder_fingerprint") != fingerprint:
            name = self.fact("encoder_name")
            raise MovedError(f"{self.database.path.parent}: has moved to the encoder {name}; open it again")

    def tail(self) -> tuple[int, int, int]:
        """Return the next free segment row, frame row and token byte."""
        text = self.fact("tail")
        try:
            row, frame_row, token_byte = (max(0, int(number)) for number in json.loads(text)[:3])
        except (ValueError, TypeError) as error:
            raise StoreError(f"{self.database.path}: tail must be three numbers, got {text!r}") from error
        return row, frame_row, token_byte

    def set_tail(self, row: int, frame_row: int, token_byte: int) -> None:
        """Set the next free rows and byte; the last segment id is stored with them."""
        self.set_meta("tail", json.dumps([row, frame_row, token_byte, last_segment(self.database)]))

    def increment_generation(self) -> None:
        """Increment the generation, in the transaction that changes the results of searches."""
        update = "UPDATE meta SET value = value + 1 WHERE key = 'generation' AND"
        if not self.database.run(f"{update} {INTACT['meta']}"):
            raise self.damage_error("the metadata 'generation'")
        self.update_checksums("meta", "key = 'generation'")


@contextmanager
def reading_metadata(index: Path, what: str) -> Iterator[None]:
    """Convert errors of reading a metadata value inside the context; it may be any value in a foreign index.

    Raises:
        StoreError: The value cannot be read.
    """
    try:
        yield
    except VidretError:
        raise
    except Exception as error:  # JSON and numpy raise errors of many kinds
        raise StoreError(f"{index}: {what} cannot be read: {read_fault(error)}") from error


def parse_ranker(index: Path, stored: str | bytes | None) -> dict[str, str]:
    """Return the name, fingerprint and tokens of the ranker that an index records; empty if it records none.

    Raises:
        StoreError: The stored value does not describe a ranker.
    """
    with reading_metadata(index, "the recorded aligner"):
        recorded = json.loads(stored or "{}")
        return {name: str(recorded[name]) for name in ("name", "fingerprint", "tokens")} if recorded else {}


class Metadata:
    """The metadata that other packages keep in an index."""

    def __init__(self, tables: CheckedTables, access: WriteAccess) -> None:
        self._tables, self._access = tables, access

    def get(self, key: str) -> str | bytes | None:
        """Return a metadata value, None if it was never set."""
        value: str | bytes | None = self._tables.meta(f"user.{key}")
        return value

    def forget_held(self) -> None:
        """Drop the values of this thread's pinned state, which are outdated."""
        self._tables.forget_held()

    def keys(self, prefix: str) -> list[str]:
        """Return the sorted metadata keys that begin with a prefix."""
        sql = "SELECT key FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key"
        return [key.removeprefix("user.") for (key,) in self._tables.database.rows(sql, f"user.{prefix}")]

    def set(self, key: str, value: str | bytes) -> None:
        """Set a metadata value."""
        self.set_many({key: value})

    def set_many(self, facts: Mapping[str, str | bytes], *, durable: bool = False) -> None:
        """Set metadata values in one transaction; ``durable`` waits until they are on disk."""
        self._access.check()
        with self._tables.database.transaction(durable=durable):
            for key, value in facts.items():
                self._tables.set_meta(f"user.{key}", value)
