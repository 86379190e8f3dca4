"""The change log of a catalog, from which a reader learns which files and videos to read again.

SQLite triggers append to it in the transaction of each change. For segments, it records only the videos that lost some:
new segments are found by their growing ids. The end of an indexing run saves columns of all segments and trims the log;
a reader that has missed trimmed entries starts again from these columns. The log is derived: a repair makes a new one.
"""

import time
from typing import NamedTuple

from vidret.store.catalog.database import Database

FILE, VIDEO, SEGMENTS = "file", "video", "segments"  # the kinds of rows: a path, a video, a video that lost segments
# Events, and the kind and key that each logs. REPLACE removes the old row of a path without firing a trigger.
TRIGGERS = (
    ("INSERT ON files", FILE, "NEW.path"),
    ("UPDATE OF state, video, mtime_ns ON files", FILE, "NEW.path"),
    ("DELETE ON files", FILE, "OLD.path"),
    ("INSERT ON videos", VIDEO, "NEW.id"),
    ("UPDATE OF duration, facts, complete ON videos", VIDEO, "NEW.id"),
    ("DELETE ON videos", VIDEO, "OLD.id"),
    ("DELETE ON segments", SEGMENTS, "OLD.video"),
)
# Short, so that all CREATE statements of a catalog fit one page. ``twin`` is a checksum that SQL computes, since other
# programs may write. The logged value of a path need not be right for readers that open an index later.
TWIN = {FILE: "length({})", VIDEO: "-{}", SEGMENTS: "-{}"}
LOG = {
    "changes": "CREATE TABLE changes (number INTEGER PRIMARY KEY, kind TEXT, key, twin INTEGER)",
    **{
        f"changes_{index}": f"CREATE TRIGGER changes_{index} AFTER {event} BEGIN"
        f" INSERT INTO changes (kind, key, twin) VALUES ('{kind}', {key}, {TWIN[kind].format(key)}); END"
        for index, (event, kind, key) in enumerate(TRIGGERS)
    },
}


class Position(NamedTuple):
    """A reader's position in a catalog: the first and the last number of its log, and the last segment."""

    start: int
    last: int
    segment: int


class TrimmedLogError(Exception):
    """The requested entries were trimmed from the log, so the reader has to start again."""


class Changes(NamedTuple):
    """Changes of a catalog: paths, videos, and videos that lost segments."""

    paths: list[bytes]
    videos: list[int]
    shortened: list[int]


def create_log(database: Database) -> None:
    """Create the log of a new catalog, within the caller's transaction."""
    for statement in LOG.values():
        database.run(statement)
    restart_log(database)


def restart_log(database: Database) -> None:
    """Empty the log, so that every reader starts again."""
    last = database.value("SELECT max(number) FROM changes") or 0
    database.run("DELETE FROM changes")
    # Above all numbers of an earlier log.
    database.run("INSERT INTO changes VALUES (?, ?, 0, 0)", max(time.time_ns(), last + 1), VIDEO)


def trim_log(database: Database, last: int) -> None:
    """Delete the entries of the log before a number."""
    database.run("DELETE FROM changes WHERE number < ?", last)


def read_position(database: Database) -> Position:
    """Return the position of the end of the log."""
    numbers = "(SELECT min(number) FROM changes), (SELECT max(number) FROM changes)"
    last_segment = "SELECT seq FROM sqlite_sequence WHERE name = 'segments'"
    row = database.rows(f"SELECT {numbers}, ifnull(({last_segment}), 0)")[0]
    return Position(*(int(value or 0) for value in row))


def read_changes(database: Database, after: Position) -> Changes:
    """Return the changes after a position; reading them twice is harmless.

    Raises:
        TrimmedLogError: A writer has trimmed some of them, perhaps just now.
    """
    first = "(SELECT min(number) FROM changes)"  # one statement, since the log may be trimmed between two
    rows = database.rows(f"SELECT DISTINCT kind, key, {first} FROM changes WHERE number > ?", after.last)
    if rows and rows[0][2] > after.last:
        raise TrimmedLogError
    paths, *videos = ([key for row_kind, key, _ in rows if row_kind == kind] for kind in (FILE, VIDEO, SEGMENTS))
    return Changes(paths, *videos)


def find_log_damage(database: Database) -> list[str]:
    """Return descriptions of the damage in the log of a catalog."""
    if has_damaged_statements(database):
        return ["the CREATE statements of the log are damaged"]
    twins = " OR ".join(f"kind = '{kind}' AND twin = {twin.format('key')}" for kind, twin in TWIN.items())
    is_complete = "(SELECT count(*) > 0 AND max(number) - min(number) + 1 = count(*) FROM changes)"
    is_intact = database.value(f"SELECT {is_complete} AND NOT EXISTS (SELECT 1 FROM changes WHERE ({twins}) IS NOT 1)")
    return [] if is_intact else ["a row of the log is damaged (checksum)"]


def has_damaged_statements(database: Database) -> bool:
    """Return whether the CREATE statements of the log differ from the original ones."""
    rows = database.rows("SELECT name, tbl_name, rootpage <> 0, sql FROM sqlite_master WHERE name LIKE 'changes%'")
    tables = {"changes": "changes", **{f"changes_{i}": event.split()[-1] for i, (event, *_) in enumerate(TRIGGERS)}}
    return set(rows) != {(name, tables[name], name == "changes", sql) for name, sql in LOG.items()}


def drop_log(database: Database) -> None:
    """Delete the statements of a damaged log, so that SQLite can read the other tables."""
    is_own = "name = 'changes' AND sql = ?"  # its page would be lost
    database.run(f"DELETE FROM sqlite_master WHERE name LIKE 'changes%' AND NOT ({is_own})", LOG["changes"])
    database.run(f"PRAGMA schema_version = {database.value('PRAGMA schema_version') + 1}")
