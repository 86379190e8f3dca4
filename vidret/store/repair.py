"""Damage in the catalog: finding every row that is not what was written, and making a catalog of the rows that are."""

import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.database import Database
from vidret.store.schema import (
    CHECKSUM,
    COLUMNS,
    COPY,
    ESSENTIAL,
    SCHEMA,
    WHOLE,
    create_tables,
    find_schema_checksum,
    read_format,
    set_fact,
)

NO_VIDEO = "video NOT IN (SELECT id FROM videos)"
# What is left of a video or of its files after rows were lost: the next run over the files encodes the rest again.
MEND = (
    "DELETE FROM segments WHERE " + NO_VIDEO,
    "UPDATE files SET video = NULL, state = iif(state = 'done', 'pending', state) WHERE " + NO_VIDEO,
    "UPDATE videos SET complete = 0 WHERE num_segments > (SELECT count(*) FROM segments WHERE video = videos.id)",
    "UPDATE files SET state = 'pending' WHERE state = 'done' AND video IN (SELECT id FROM videos WHERE NOT complete)",
)


def find_bad_rows(database: Database) -> list[str]:
    """Read a whole catalog, and say of each damage what it is: of SQLite's structure, of a row, of a table's statement.

    Raises:
        StoreError: It is of a newer format, or no catalog.
    """
    read_format(database)
    whole = _whole(database)
    bad = []
    try:
        bad += [message for (message,) in database.rows("PRAGMA integrity_check") if message != "ok"]
        for table, columns in COLUMNS.items():
            key = columns.split(",")[0]
            rows = database.rows(f"SELECT {key} FROM {table} NOT INDEXED WHERE NOT {whole[table]}")
            bad += [f"the row of {key!r} in {table} is damaged (checksum)" for (key,) in rows]
    except StoreError as error:
        bad.append(str(error))
    if bad or whole != WHOLE:
        return bad
    if database.value("SELECT value FROM meta WHERE key = 'schema'") != find_schema_checksum(database):
        bad.append("the statements that made its tables are damaged (checksum)")
    told = "SELECT json_extract(value, '$[3]') FROM meta WHERE key = 'tail'"
    given = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'segments'"
    if not database.value(f"SELECT ({told}) IS ({given})"):  # of one moment: another process may be writing
        bad.append("the number of the last segment is damaged")
    return bad


def repair_catalog(path: Path) -> list[str]:
    """Make a damaged catalog anew of the rows that are whole, in one transaction; return what was damaged.

    Whoever has it open sees the new one. What a lost row said is found again by the next run over the same files.

    Raises:
        StoreError: What is needed to use the index at all is lost, or SQLite cannot read the file.
    """
    with closing(Database(path, write=True, lenient=True)) as old:
        bad = find_bad_rows(old)
        if bad:
            try:
                with closing(Database(None, write=True)) as fresh:
                    _salvage(old, fresh)
                    fresh.replace(old)
            except StoreError as error:
                raise StoreError(f"{path}: cannot be repaired, so index anew elsewhere ({error})") from error
    return bad


def _salvage(old: Database, fresh: Database) -> None:
    _mend_statements(old)
    fresh.run("PRAGMA foreign_keys = OFF")
    create_tables(fresh)
    whole = _whole(old)
    for table in COLUMNS:
        _copy_rows(old, fresh, table, whole[table])
    for statement in MEND:
        fresh.run(statement)
    _mend_facts(old, fresh)
    for table, found in CHECKSUM.items():
        fresh.run(f"UPDATE {table} SET checksum = {found}")


def _mend_statements(old: Database) -> None:
    """Write the statements of the tables anew, or SQLite could not read a table whose own is damaged."""
    if _whole(old) != WHOLE:
        return
    changed = 0
    for statement in SCHEMA:
        _, kind, name, *_ = statement.split()
        sql = "UPDATE sqlite_master SET sql = ?1 WHERE type = ?2 AND name = ?3 AND sql IS NOT ?1"
        changed += old.run(sql, statement, kind.lower(), name)
    if changed:  # have SQLite read them
        old.run(f"PRAGMA schema_version = {old.value('PRAGMA schema_version') + 1}")


def _copy_rows(old: Database, fresh: Database, table: str, whole: str) -> None:
    """Copy the rows that are whole, from either end as far as SQLite can read."""
    columns = COLUMNS[table]
    key, *others = columns.split(",")
    sql = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES (?{', ?' * len(others)})"
    for order in ("ASC", "DESC"):
        try:
            rows = old.each(f"SELECT {columns} FROM {table} NOT INDEXED WHERE {whole} ORDER BY {key} {order}")
            fresh.run_many(sql, rows)
            return
        except StoreError:  # at a damaged page
            continue


def _mend_facts(old: Database, fresh: Database) -> None:
    """Take essential facts from their copies, and compute anew what can be; the rest of what was lost is done without.

    Raises:
        StoreError: An essential fact is lost with its copy.
    """
    facts = dict(fresh.rows("SELECT key, value FROM meta"))
    for key in ESSENTIAL:
        value = facts.get(key, facts.get(f"{COPY}{key}"))
        if value is not None:
            set_fact(fresh, key, value)
        elif not key.startswith("user."):
            raise StoreError(f"the fact {key!r} is lost")
    # A number that no generation had, so that nobody takes for current what was of before.
    set_fact(fresh, "generation", facts["generation"] + 1 if "generation" in facts else time.time_ns() // 10**6)
    ends = "max(row) + 1, max(frame_row + num_frames), max(token_byte + num_bytes)"
    tail = [end or 0 for end in fresh.rows(f"SELECT {ends} FROM segments")[0]]
    last = {table: _find_last_id(old, fresh, table) for table in ("videos", "segments")}
    if "tail" in facts:
        *tail, last["segments"] = [*json.loads(facts["tail"]), last["segments"]][:4]
    set_fact(fresh, "tail", json.dumps([*tail, last["segments"]]))
    fresh.run("DELETE FROM sqlite_sequence")
    fresh.run_many("INSERT INTO sqlite_sequence VALUES (?, ?)", last.items())


def _find_last_id(old: Database, fresh: Database, table: str) -> int:
    """Return the last id that was given in a table, which may be gone; one that cannot be true is not believed."""
    least = int(fresh.value(f"SELECT coalesce(max(id), 0) FROM {table}"))
    try:
        found = old.value("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
    except StoreError:
        return least
    return found if isinstance(found, int) and least <= found < least + 2**32 else least


def _whole(database: Database) -> Mapping[str, str]:
    """Return for each table the condition that a row is as it was written; catalogs of format 1 cannot tell."""
    known = database.value("SELECT count(*) FROM sqlite_master WHERE sql LIKE '%checksum INTEGER%'")
    return WHOLE if known else dict.fromkeys(WHOLE, "1")
