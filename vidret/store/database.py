"""Access to a SQLite file through one connection shared by all threads.

Only this module opens files with sqlite3. The file has a write-ahead log (WAL), so that readers are not blocked
while a writer commits.
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

WAIT_S = 30.0  # for a transaction of another process
READ_ONLY_WAIT_S = 3.0  # for a writer that is opening or closing the file
PAUSE_S = 0.005
WAL_STATE: State = (0, 0, 0)  # the state of a file with a log
FULL_ERRORS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)  # also of a full disk
TRANSIENT_ERRORS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)  # while a writer opens the file
REPAIR = "run vidret info --repair"


class Database:
    """One connection, to a file or, without a path, to a temporary database.

    A process without write permission for the folder, or on a full disk, cannot create the shared memory file that
    SQLite needs to read a log. Without a log there is no writer, so such a reader opens the file as immutable, and
    checks before and after each statement that it has not changed. With a log, the writer has created the shared memory
    file, and SQLite reads every commit.

    SQL may call ``crc(kinds, ...)``, which is ``checksum_values``.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        write: bool,
        create: bool = False,
        lenient: bool = False,
        prepare: Sequence[str] = (),
    ) -> None:
        """Open the file.

        Args:
            path: The file; None for a temporary database.
            write: Whether it may be changed.
            create: Whether to create a missing file.
            lenient: Whether to tolerate damaged CREATE statements.
            prepare: Statements that each connection begins with, such as those that create temporary tables.

        Raises:
            StoreError: The file cannot be opened, or does not exist and ``create`` is False.
        """
        self.path = path or Path("temporary database")
        self._write, self._prepare = write, prepare
        self._lock = threading.RLock()
        self._read_only = not write and path is not None and not _can_share_memory(path)
        self._state = WAL_STATE
        with as_store_error(self.path):
            if path is None:
                self._connection = _connect("", write=True, lenient=lenient, prepare=prepare)
            elif self._read_only:
                self._connection = self._open_read_only()
            else:  # a reader may have to replay the log of a killed writer, so it also opens for writing
                uri = _uri(path, "mode=rwc" if create else "mode=rw")
                self._connection = _connect(uri, write=write, lenient=lenient, prepare=prepare)

    def close(self) -> None:
        """Close the connection."""
        with self._lock, contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            if self._write:  # empty the log: reading it without write permission is slow
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit everything in the block, or nothing; ``durable`` waits until all commits so far are on disk."""
        with self._lock, as_store_error(self.path):
            if durable:
                self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # on a full disk SQLite has already rolled back
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def read(self, take: Callable[[sqlite3.Cursor], T], sql: str, *values: object) -> T:
        """Return ``take(cursor)`` for a query; a read-only connection may call it more than once."""
        with self._lock, as_store_error(self.path):
            if self._read_only:
                return self._read_without_lock(take, sql, values)
            return take(self._connection.execute(sql, values))

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        return self.read(sqlite3.Cursor.fetchall, sql, *values)

    def each(self, sql: str) -> Iterator[Any]:
        """Iterate over the rows of a query."""
        with self._lock, as_store_error(self.path):
            yield from self._connection.execute(sql)

    def value(self, sql: str, *values: object) -> Any:
        """Return the first value of a query, None when there is no row."""
        rows = self.rows(sql, *values)
        return rows[0][0] if rows else None

    def version(self) -> object:
        """Return what changes with every commit to the file, by this connection or another one."""
        with self._lock:
            return self.value("PRAGMA data_version"), self._connection.total_changes, self._state

    def run(self, sql: str, *values: object) -> int:
        """Execute a statement; return the number of changed rows."""
        with self._lock, as_store_error(self.path):
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Execute a statement for many rows of values."""
        with self._lock, as_store_error(self.path):
            self._connection.executemany(sql, values)

    def replace(self, target: "Database") -> None:
        """Replace the content of another database by this one's, in one transaction, and wait for the disk."""
        with target._lock, as_store_error(target.path):
            target._connection.execute("PRAGMA synchronous = FULL")
            self._connection.backup(target._connection)
            target._connection.execute("PRAGMA synchronous = NORMAL")

    def _read_without_lock(self, take: Callable[[sqlite3.Cursor], T], sql: str, values: Sequence[object]) -> T:
        deadline = time.monotonic() + READ_ONLY_WAIT_S
        while True:
            state = self._read_state()
            try:
                if state != self._state:
                    connection = self._connect_read_only(state)  # if this fails, the next attempt opens again
                    self._connection.close()
                    self._connection, self._state = connection, state
                result = take(self._connection.execute(sql, values))
                if self._read_state() == state:
                    return result
            except sqlite3.Error as error:
                transient = self._read_state() != state or _code(error) in TRANSIENT_ERRORS
                if not transient or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _open_read_only(self) -> sqlite3.Connection:
        """Open the file, once more if a writer closes it meanwhile, whose log is then gone."""
        deadline = time.monotonic() + READ_ONLY_WAIT_S
        while True:
            self._state = self._read_state()
            try:
                return self._connect_read_only(self._state)
            except sqlite3.Error as error:
                transient = self._state == WAL_STATE and _code(error) in TRANSIENT_ERRORS
                if not (transient or self._read_state() != self._state) or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _connect_read_only(self, state: State) -> sqlite3.Connection:
        option = "readonly_shm=1" if state == WAL_STATE else "immutable=1"
        return _connect(_uri(self.path, f"mode=ro&{option}"), write=False, prepare=self._prepare)

    def _read_state(self) -> State:
        log = self.path.with_name(f"{self.path.name}-wal")
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size:
                return WAL_STATE
        try:
            stat = self.path.stat()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror})") from error
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def checksum_values(kinds: str, *values: float | bytes | None) -> int | None:
    """Compute the CRC-32 of numbers, packed in the format ``kinds`` (see ``struct``), and of the bytes that follow.

    Returns None where a value has the wrong type, as in a damaged row.
    """
    try:
        crc = zlib.crc32(struct.pack(f"<{kinds}", *values[: len(kinds)]))
        for data in values[len(kinds) :]:
            crc = zlib.crc32(data, crc + len(data))  # type: ignore[arg-type]
    except (struct.error, TypeError):
        return None
    return crc


@contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """Convert errors of SQLite to ``StoreError`` with the path."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's message may contain damaged bytes
        damaged = isinstance(error, UnicodeDecodeError) or _code(error) == sqlite3.SQLITE_CORRUPT
        damaged |= "no such" in str(error)  # every catalog has the column or table
        raise StoreError(f"{path}: {error}" + (f"; {REPAIR}" if damaged else "")) from error


def _can_share_memory(path: Path) -> bool:
    """Return whether this process can make the file of shared memory beside a database."""
    if not (os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)):
        return False
    try:
        with contextlib.closing(_connect(_uri(path, "mode=rw"), write=False)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        return _code(error) not in FULL_ERRORS
    return True


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 for errors of Python's module, such as a closed connection."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


class ClosingConnection(sqlite3.Connection):
    """A connection that closes silently when it is dropped; from Python 3.13 on, Python's own warns."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was never opened
            self.close()


def _connect(uri: str, *, write: bool, lenient: bool = False, prepare: Sequence[str] = ()) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False, factory=ClosingConnection
    )
    try:
        connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")  # of damaged rows
        connection.create_function("crc", -1, checksum_values, deterministic=True)
        for statement in prepare:
            connection.execute(statement)
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
