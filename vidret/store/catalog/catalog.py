"""The catalog of an index in SQLite: files, videos, segments, and the locations of their vectors; and its repair.

A segment exists once its row is committed; its vectors are on disk by then. Every row has a checksum of its values,
which is verified when the row is read, except where thousands of ids are listed. A repair keeps the intact rows.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.catalog.database import NEW_INDEX, REPAIR, Database
from vidret.store.catalog.schema import (
    CHECKSUM,
    COLUMNS,
    COPY,
    ESSENTIAL,
    FORMAT,
    INTACT,
    SCHEMA,
    CheckedTables,
    create_tables,
    find_schema_checksum,
    read_format,
    set_meta,
)
from vidret.store.catalog.segments import Segments
from vidret.store.catalog.texts import TextTables
from vidret.store.catalog.videos import Files, Videos
from vidret.store.folder import check_place, read_place
from vidret.store.records import FOLLOW_SHOTS, SEGMENTS
from vidret.store.snapshots.changes import create_log, drop_log, find_log_damage, has_damaged_statements
from vidret.store.snapshots.latest import Snapshots


class Catalog:
    """The tables of an index as attributes, its metadata in ``tables``, and its snapshots."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open an existing catalog.

        Raises:
            StoreError: The file is damaged, not a catalog, or of a newer format.
        """
        self.path = path
        self.place = read_place(path.parent)
        check = partial(check_place, path.parent, self.place)
        self.database = database = Database(path, write=write, check=check)
        try:
            self.tables = tables = CheckedTables(database)
            self.format = read_format(database)
            if self.format != FORMAT:
                raise tables.damage_error("the metadata 'format'")
        except BaseException:
            self.close()
            raise
        self.files, self.videos = Files(tables), Videos(tables)
        self.texts = TextTables(tables)
        self.segments, self.snapshots = Segments(tables, self.texts), Snapshots(tables)

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str | int]) -> "Catalog":
        """Create an empty catalog in one transaction, so that a crash leaves a complete one or none; then open it."""
        database = Database(path, write=True, create=True)
        try:
            with database.transaction():
                create_tables(database)
                create_log(database)
                for key, value in {**facts, "generation": 0, "epoch": 0, "tail": "[0, 0, 0, 0]"}.items():
                    set_meta(database, key, value)
        finally:
            database.close()
        return cls(path, write=True)

    @staticmethod
    def exists(path: Path) -> bool:
        """Return whether the path is a complete catalog.

        Raises:
            StoreError: The file is something else, or cannot be read.
        """
        if not path.is_file():
            return False
        if not os.access(path, os.R_OK):  # SQLite does not say why it cannot open a file
            raise StoreError(f"{path}: cannot be read (Permission denied)")
        database = Database(path, write=False)
        try:
            return bool(database.value("SELECT count(*) FROM sqlite_master WHERE name = 'meta' AND type = 'table'"))
        finally:
            database.close()

    def close(self) -> None:
        """Close the database."""
        self.database.close()


NO_VIDEO = "video NOT IN (SELECT id FROM videos)"
# Restore consistency after rows were lost: the next run over the files encodes them again.
CONSISTENCY_FIXES = (
    "DELETE FROM videos WHERE id NOT IN (SELECT track FROM tracks)"
    " AND id IN (SELECT video FROM segments JOIN texts ON segment = segments.id)",
    "DELETE FROM segments WHERE video IN (SELECT track FROM tracks) AND id NOT IN (SELECT segment FROM texts)",
    "DELETE FROM segments WHERE " + NO_VIDEO,
    "UPDATE files SET video = NULL, state = iif(state = 'done', 'pending', state) WHERE " + NO_VIDEO,
    *(f"DELETE FROM {table} WHERE segment NOT IN (SELECT id FROM segments)" for table in ("shots", "texts")),
    "DELETE FROM tracks WHERE track NOT IN (SELECT id FROM videos)",
    "UPDATE videos SET complete = 0 WHERE num_segments > (SELECT count(*) FROM segments WHERE video = videos.id)",
    "UPDATE files SET state = 'pending' WHERE state = 'done' AND video IN (SELECT id FROM videos WHERE NOT complete)",
)


def find_bad_rows(database: Database) -> list[str]:
    """Verify a whole catalog; return a description of each damage to SQLite's structure, rows and statements.

    Raises:
        StoreError: The file has a newer format, or is not a catalog.
    """
    read_format(database)
    bad = []
    try:
        bad += [message for (message,) in database.rows("PRAGMA integrity_check") if message != "ok"]
        for table in COLUMNS:
            key = COLUMNS[table].split(",")[0]
            rows = database.rows(f"SELECT {key} FROM {table} NOT INDEXED WHERE NOT {INTACT[table]}")
            bad += [f"the row of {key!r} in {table} is damaged (checksum)" for (key,) in rows]
        bad += find_log_damage(database)
    except StoreError as error:
        bad.append(str(error))
    if bad:
        return bad
    if database.value("SELECT value FROM meta WHERE key = 'schema'") != find_schema_checksum(database):
        bad.append("the CREATE statements of the tables are damaged (checksum)")
    stored = "SELECT json_extract(value, '$[3]') FROM meta WHERE key = 'tail'"
    actual = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'segments'"
    if not database.value(f"SELECT ({stored}) IS ({actual})"):  # one statement, since another process may be writing
        bad.append("the last segment id is damaged")
    return bad


def repair_catalog(path: Path) -> list[str]:
    """Rebuild a damaged catalog from its intact rows, in one transaction; return descriptions of the damage.

    Processes that have it open see the new content. The next run over the same files restores lost rows.

    Raises:
        StoreError: Essential metadata is lost, or SQLite cannot read the file.
    """
    try:
        with closing(Database(path, write=True, lenient=True)) as old:
            if has_damaged_statements(old):
                drop_log(old)
            bad = find_bad_rows(old)
            if bad:
                _rebuild(old)
    except StoreError as error:
        if str(error).endswith(REPAIR):
            raise _make_final(path, error) from error
        raise
    return bad


def _rebuild(old: Database) -> None:
    try:
        with closing(Database(None, write=True)) as fresh:
            _salvage(old, fresh)
            fresh.replace(old)
    except StoreError as error:
        raise _make_final(old.path, error) from error


def _make_final(path: Path, error: StoreError) -> StoreError:
    """Return an error with the reason why a catalog cannot be repaired, without the advice to repair it."""
    reason = str(error).removesuffix(f"; {REPAIR}").removeprefix(f"{path}: ")
    return StoreError(f"{path}: cannot be repaired ({reason}); {NEW_INDEX}")


def _salvage(old: Database, fresh: Database) -> None:
    _restore_statements(old)
    fresh.run("PRAGMA foreign_keys = OFF")
    create_tables(fresh)
    for table in COLUMNS:
        _copy_rows(old, fresh, table)
    _drop_segments_without_shots(old, fresh)
    for statement in CONSISTENCY_FIXES:
        fresh.run(statement)
    _restore_facts(old, fresh)
    for table, expression in CHECKSUM.items():
        fresh.run(f"UPDATE {table} SET checksum = {expression}")
    create_log(fresh)


def _restore_statements(old: Database) -> None:
    """Rewrite the CREATE statements, without which SQLite cannot read a table."""
    changed = 0
    for statement in SCHEMA:
        _, kind, name, *_ = statement.split()
        sql = "UPDATE sqlite_master SET sql = ?1 WHERE type = ?2 AND name = ?3 AND sql IS NOT ?1"
        changed += old.run(sql, statement, kind.lower(), name)
    if changed:  # makes SQLite reload them
        old.run(f"PRAGMA schema_version = {old.value('PRAGMA schema_version') + 1}")


def _copy_rows(old: Database, fresh: Database, table: str) -> None:
    """Copy the intact rows, from both ends up to where SQLite can read."""
    columns = COLUMNS[table]
    key, *others = columns.split(",")
    sql = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES (?{', ?' * len(others)})"
    for order in ("ASC", "DESC"):
        try:
            rows = old.each(f"SELECT {columns} FROM {table} NOT INDEXED WHERE {INTACT[table]} ORDER BY {key} {order}")
            fresh.run_many(sql, rows)
            return
        except StoreError:  # at a damaged page
            continue


def _drop_segments_without_shots(old: Database, fresh: Database) -> None:
    """Delete the segments whose shot changes are damaged or cannot be read, so that both are stored again."""
    lost, ends = set[int](), list[int | None]()
    for order in ("ASC", "DESC"):
        last = None
        try:
            for last, intact in old.each(f"SELECT segment, {INTACT['shots']} FROM shots ORDER BY segment {order}"):
                lost |= set() if intact else {last}
            break
        except StoreError:  # at a damaged page
            ends.append(last)
    fresh.run("DELETE FROM segments WHERE id IN (SELECT value FROM json_each(?))", json.dumps(sorted(lost)))
    follows_shots = f"SELECT 1 FROM meta WHERE key IN ('user.{SEGMENTS}', '{COPY}user.{SEGMENTS}') AND value = ?"
    if not fresh.value(follows_shots, FOLLOW_SHOTS):
        return
    if len(ends) == 2:  # any segment in between may have had shot changes
        fresh.run("DELETE FROM segments WHERE (?1 IS NULL OR id > ?1) AND (?2 IS NULL OR id < ?2)", *ends)
    elif _is_torn(old):  # rows may be missing without an error
        fresh.run("DELETE FROM segments WHERE id NOT IN (SELECT segment FROM shots)")


def _is_torn(database: Database) -> bool:
    """Return whether SQLite finds its own structure damaged."""
    try:
        return bool(database.value("PRAGMA integrity_check(1)") != "ok")
    except StoreError:
        return True


def _restore_facts(old: Database, fresh: Database) -> None:
    """Restore essential metadata from copies, and recompute derived metadata; other lost metadata is dropped."""
    facts = dict(fresh.rows("SELECT key, value FROM meta"))
    for key in ESSENTIAL:
        value = facts.get(key, facts.get(f"{COPY}{key}"))
        if value is not None:
            set_meta(fresh, key, value)
        elif not key.startswith("user."):
            raise StoreError(f"the metadata {key!r} is lost")
    # A number that was never a generation, so that nothing derived from an earlier one seems current.
    set_meta(fresh, "generation", facts["generation"] + 1 if "generation" in facts else time.time_ns() // 10**6)
    ends = "max(row) + 1, max(frame_row + num_frames), max(token_byte + num_bytes)"
    tail = [end or 0 for end in fresh.rows(f"SELECT {ends} FROM segments")[0]]
    last = {table: _find_last_id(old, fresh, table) for table in ("videos", "segments")}
    if "tail" in facts:
        *tail, last["segments"] = [*json.loads(facts["tail"]), last["segments"]][:4]
    set_meta(fresh, "tail", json.dumps([*tail, last["segments"]]))
    fresh.run("DELETE FROM sqlite_sequence")
    fresh.run_many("INSERT INTO sqlite_sequence VALUES (?, ?)", last.items())


def _find_last_id(old: Database, fresh: Database, table: str) -> int:
    """Return the last id assigned in a table, even if its row was deleted; an implausible value is ignored."""
    max_id = int(fresh.value(f"SELECT coalesce(max(id), 0) FROM {table}"))
    try:
        last_id = old.value("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
    except StoreError:
        return max_id
    return last_id if isinstance(last_id, int) and max_id <= last_id < max_id + 2**32 else max_id
