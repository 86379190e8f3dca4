"""A SQLite file: one connection that all threads share, one statement or transaction at a time.

Nothing else knows SQLite. The file has a write-ahead log, so that readers go on while a writer commits.
"""

import contextlib
import os
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vidret.errors import StoreError

T = TypeVar("T")
State = tuple[int, int, int]

WAIT_S = 30.0  # for another process's transaction
GUEST_WAIT_S = 3.0  # for a writer that is just opening or closing the file
PAUSE_S = 0.005
LOGGED: State = (0, 0, 0)  # the state of any file with a log
PASSING = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)  # errors of a guest while a writer opens the file
REPAIR = "run vidret info --repair"


class Database:
    """One connection, to a file or, without a path, to a temporary database.

    A reader that may not write to the folder is a guest. SQLite follows a log by a file beside it, which only a process
    that may write there can make. While there is no log nobody writes, so a guest reads the file as immutable, and
    looks before and after each statement whether it still was. While there is a log, its writer has made the other
    file, and SQLite sees every commit.

    SQL may call ``crc(kinds, ...)``, which is ``checksum_values`` below.
    """

    def __init__(self, path: Path | None, *, write: bool, create: bool = False, lenient: bool = False) -> None:
        """Open it; ``lenient`` reads what it can where the statements of some tables are damaged.

        Raises:
            StoreError: It cannot be opened, or does not exist and is not to be created.
        """
        self.path = path or Path("temporary database")
        self._write = write
        self._lock = threading.RLock()
        self._guest = not write and not (os.access(self.path.parent, os.W_OK) and os.access(self.path, os.W_OK))
        self._state = self._look() if self._guest else LOGGED
        with as_store_error(self.path):
            if path is None:
                self._connection = _connect("", write=True, lenient=lenient)
            elif self._guest:
                self._connection = self._connect_guest()
            else:  # a reader may have to replay the log of a killed writer, so it too opens for writing
                self._connection = _connect(
                    _uri(path, "mode=rwc" if create else "mode=rw"), write=write, lenient=lenient
                )

    def close(self) -> None:
        """Close the connection."""
        with self._lock, contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            if self._write:  # empty the log, so that guests need not read it anew for each statement
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit all of it or nothing; ``durable`` waits for the disk, with every commit before it."""
        with self._lock, as_store_error(self.path):
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

    def read(self, take: Callable[[sqlite3.Cursor], T], sql: str, *values: object) -> T:
        """Return what ``take`` makes of the rows of a query; a guest may call it again."""
        with self._lock, as_store_error(self.path):
            if self._guest:
                return self._read_as_guest(take, sql, values)
            return take(self._connection.execute(sql, values))

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        return self.read(sqlite3.Cursor.fetchall, sql, *values)

    def each(self, sql: str) -> Iterator[Any]:
        """Yield the rows of a query one by one."""
        with self._lock, as_store_error(self.path):
            yield from self._connection.execute(sql)

    def value(self, sql: str, *values: object) -> Any:
        """Return the first value of a query, None when there is no row."""
        rows = self.rows(sql, *values)
        return rows[0][0] if rows else None

    def run(self, sql: str, *values: object) -> int:
        """Change rows; return how many."""
        with self._lock, as_store_error(self.path):
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement for many rows of values."""
        with self._lock, as_store_error(self.path):
            self._connection.executemany(sql, values)

    def replace(self, target: "Database") -> None:
        """Replace all that another database holds by what this one holds, in one transaction, and wait for the disk."""
        with target._lock, as_store_error(target.path):
            target._connection.execute("PRAGMA synchronous = FULL")
            self._connection.backup(target._connection)
            target._connection.execute("PRAGMA synchronous = NORMAL")

    def _read_as_guest(self, take: Callable[[sqlite3.Cursor], T], sql: str, values: Sequence[object]) -> T:
        deadline = time.monotonic() + GUEST_WAIT_S
        while True:
            state, passing = self._look(), True
            try:
                if state != self._state:
                    self._connection.close()
                    self._state = state
                    self._connection = self._connect_guest()
                found = take(self._connection.execute(sql, values))
                if self._look() == state:
                    return found
            except sqlite3.Error as error:
                passing = self._look() != state or _code(error) in PASSING
                if not passing or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _connect_guest(self) -> sqlite3.Connection:
        how = "readonly_shm=1" if self._state == LOGGED else "immutable=1"
        return _connect(_uri(self.path, f"mode=ro&{how}"), write=False)

    def _look(self) -> State:
        if self.path.with_name(f"{self.path.name}-wal").exists():
            return LOGGED
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


def checksum_values(kinds: str, *values: float | bytes | None) -> int | None:
    """Compute the CRC-32 of numbers, packed as ``kinds`` says (see ``struct``), and of the bytes that follow.

    None where a value is of another kind, as in a damaged row.
    """
    try:
        found = zlib.crc32(struct.pack(f"<{kinds}", *values[: len(kinds)]))
        for data in values[len(kinds) :]:
            found = zlib.crc32(data, found + len(data))  # type: ignore[arg-type]
    except (struct.error, TypeError):
        return None
    return found


@contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """Turn what SQLite says into a sentence with the path."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # damaged bytes may be in SQLite's own sentence
        damaged = isinstance(error, UnicodeDecodeError) or _code(error) == sqlite3.SQLITE_CORRUPT
        damaged |= "no such" in str(error)  # a column or table that every catalog has
        raise StoreError(f"{path}: {error}" + (f"; {REPAIR}" if damaged else "")) from error


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary code, 0 for what Python's own module raises, such as for a closed connection."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


def _connect(uri: str, *, write: bool, lenient: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")  # that of a damaged row
        connection.create_function("crc", -1, checksum_values, deterministic=True)
        pragmas = ["writable_schema = ON"] if lenient else []
        pragmas += [
            "synchronous = NORMAL",
            *(("journal_mode = WAL", "foreign_keys = ON") if write else ("query_only = ON",)),
        ]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
