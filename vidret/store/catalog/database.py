"""Access to a SQLite file: a writer's threads share one connection, a reader's threads have one each.

Only this module opens files with sqlite3. The file has a write-ahead log (WAL), so that readers are not blocked
while a writer commits.
"""

import contextlib
import os
import sqlite3
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from vidret.errors import StoreError

T = TypeVar("T")
State = tuple[int, int, int]

WAIT_S = 30.0  # for a transaction of another process
READ_ONLY_WAIT_S = 3.0  # for a writer that is opening or closing the file
PAUSE_S = 0.005
MAPPED = 1 << 31  # bytes of a file that a reader maps: a query reads hundreds of scattered pages
WAL_STATE: State = (0, 0, 0)  # the state of a file with a log
FULL_ERRORS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)  # also of a full disk
TRANSIENT_ERRORS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)  # while a writer opens the file
SQL_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # SQLite's message may contain damaged bytes
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
REPAIR = "run vidret info --repair"
NEW_INDEX = "build a new index"


class DatabaseConnection:
    """A connection of one thread, or shared by all in turns; ``state`` is the file's when it was opened."""

    def __init__(self, handle: sqlite3.Connection, state: State = WAL_STATE) -> None:
        self.handle, self.state = handle, state
        self.turn = threading.RLock()

    def __del__(self) -> None:
        self.handle.close()  # in a cycle with its cache of statements, it would keep its files open until a collection


class Database:
    """A file or, without a path, a temporary database.

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
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the file.

        Args:
            path: The file; None for a temporary database.
            write: Whether it may be changed.
            create: Whether to create a missing file.
            lenient: Whether to tolerate damaged CREATE statements.
            prepare: Statements that each connection begins with, such as those that create temporary tables.
            check: Called after each connection is opened; raises StoreError if another file has replaced the first one.

        Raises:
            StoreError: The file cannot be opened, or does not exist and ``create`` is False.
        """
        self.path = path or Path("temporary database")
        self._write, self._lenient, self._prepare, self._check = write, lenient, prepare, check
        self._read_only = not write and path is not None and not _may_write(path)
        self._is_closed = False
        self._own = threading.local()  # a connection is closed when its thread ends
        self._opened = weakref.WeakSet[DatabaseConnection]()
        self._opening = threading.Lock()  # for adding to ``_opened``, and for closing
        self._shared: DatabaseConnection | None = None  # that of a writer, or of a temporary database
        with as_store_error(self.path):
            if path is None:
                self._shared = DatabaseConnection(_connect("", write=True, lenient=lenient, prepare=prepare))
                self._opened.add(self._shared)
            elif write:
                self._shared = self._open_writer(create=create)
            else:
                self._own.connection = self._open_first()

    def _open_writer(self, *, create: bool) -> DatabaseConnection:
        try:
            return self._open(create=create)
        except sqlite3.Error as error:
            if _code(error) in TRANSIENT_ERRORS:  # on a read-only disk SQLite says only that it cannot open the file
                raise StoreError(f"{self.path}: cannot be written ({error})") from error
            raise

    def _open_first(self) -> DatabaseConnection:
        """Open the file for reading; as read-only if this process cannot create the shared memory file beside it."""
        if not self._read_only:
            try:
                connection = self._open()
                connection.handle.execute("SELECT count(*) FROM sqlite_master").fetchall()
                return connection
            except sqlite3.Error as error:
                if _code(error) not in FULL_ERRORS:
                    raise
            self._read_only = True
        return self._open()

    def _open(self, *, create: bool = False) -> DatabaseConnection:
        if self._read_only:
            connection = self._use_unchanged(lambda state: DatabaseConnection(self._connect_read_only(state), state))
        else:  # a reader may have to replay the log of a killed writer, so it also opens for writing
            uri = _uri(self.path, "mode=rwc" if create else "mode=rw")
            connection = DatabaseConnection(
                _connect(uri, write=self._write, lenient=self._lenient, prepare=self._prepare)
            )
        self._check()
        with self._opening:
            self._check_open()
            self._opened.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    @contextmanager
    def access(self) -> Iterator[DatabaseConnection]:
        """Lock this thread's connection inside the context, and return it."""
        with as_store_error(self.path):
            connection = self._connect()
            with connection.turn:
                yield connection

    def _connect(self) -> DatabaseConnection:
        """Return the connection of this thread."""
        connection: DatabaseConnection | None = self._shared or getattr(self._own, "connection", None)
        if connection is None:
            self._check_open()
            self._own.connection = connection = self._open()
        return connection

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has begun a transaction."""
        with self.access() as connection:
            return connection.handle.in_transaction

    def close(self) -> None:
        """Close all connections, each once no thread uses it."""
        with self._opening:
            self._is_closed = True
            connections = list(self._opened)
        for connection in connections:
            with connection.turn:  # SQLite crashes if a connection is closed while a thread reads from it
                with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                    if self._write:  # empty the log, since reading it without write permission is slow
                        connection.handle.execute("PRAGMA busy_timeout = 0")
                        connection.handle.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                connection.handle.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit everything in the block, or nothing; ``durable`` waits until all commits so far are on disk."""
        with self.access() as connection:
            handle = connection.handle
            if durable:
                handle.execute("PRAGMA synchronous = FULL")
            handle.execute("BEGIN IMMEDIATE")
            try:
                yield
                handle.execute("COMMIT")
            except BaseException:
                if handle.in_transaction:  # on a full disk SQLite has already rolled back
                    handle.execute("ROLLBACK")
                raise
            finally:
                handle.execute("PRAGMA synchronous = NORMAL")

    def read(self, take: Callable[[sqlite3.Cursor], T], sql: str, *values: object) -> T:
        """Return ``take(cursor)`` for a query; a read-only connection may call it more than once."""
        try:  # like ``access``, in half the time
            connection = self._connect()
            with connection.turn:
                if self._read_only:
                    return self._read_without_lock(connection, take, sql, values)
                return take(connection.handle.execute(sql, values))
        except SQL_ERRORS as error:
            raise to_store_error(self.path, error) from error

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        return self.read(sqlite3.Cursor.fetchall, sql, *values)

    def each(self, sql: str) -> Iterator[Any]:
        """Iterate over the rows of a query."""
        with self.access() as connection:
            yield from connection.handle.execute(sql)

    def value(self, sql: str, *values: object) -> Any:
        """Return the first value of a query, None when there is no row."""
        rows = self.rows(sql, *values)
        return rows[0][0] if rows else None

    def version(self) -> int | None:
        """Return a number that changes when another connection commits; None for a writer or a read-only file."""
        return None if self._write or self._read_only else int(self.value("PRAGMA data_version"))

    def run(self, sql: str, *values: object) -> int:
        """Execute a statement; return the number of changed rows."""
        with self.access() as connection:
            return connection.handle.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Execute a statement for many rows of values."""
        with self.access() as connection:
            connection.handle.executemany(sql, values)

    def replace(self, target: "Database") -> None:
        """Replace the content of another database by this one's, in one transaction, and wait for the disk."""
        with target.access() as destination, self.access() as source:
            destination.handle.execute("PRAGMA synchronous = FULL")
            source.handle.backup(destination.handle)
            destination.handle.execute("PRAGMA synchronous = NORMAL")

    def _read_without_lock(
        self, connection: DatabaseConnection, take: Callable[[sqlite3.Cursor], T], sql: str, values: Sequence[object]
    ) -> T:
        def read(state: State) -> T:
            if state != connection.state:
                self._check()
                handle = self._connect_read_only(state)  # if this fails, the next attempt opens again
                connection.handle.close()
                connection.handle, connection.state = handle, state
            return take(connection.handle.execute(sql, values))

        return self._use_unchanged(read)

    def _use_unchanged(self, use: Callable[[State], T]) -> T:
        """Return the result of ``use`` for a state of the file; retry while a writer opens, changes or closes it."""
        deadline = time.monotonic() + READ_ONLY_WAIT_S
        while True:
            state = self._read_state()
            try:
                result = use(state)
                if self._read_state() == state:
                    return result
            except sqlite3.Error as error:
                transient = state == WAL_STATE and _code(error) in TRANSIENT_ERRORS
                if not (transient or self._read_state() != state) or time.monotonic() > deadline:
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
        num_packed = len(kinds)
        crc = zlib.crc32(_find_format(kinds).pack(*values[:num_packed]))
        for data in values[num_packed:]:
            crc = zlib.crc32(data, crc + len(data))  # type: ignore[arg-type]
    except (struct.error, TypeError):
        return None
    return crc


@lru_cache(maxsize=64)
def _find_format(kinds: str) -> struct.Struct:
    """Return the compiled format, cached since every row needs it."""
    return struct.Struct(f"<{kinds}")


@contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """Convert errors of SQLite to ``StoreError`` with the path."""
    try:
        yield
    except SQL_ERRORS as error:
        raise to_store_error(path, error) from error


def to_store_error(path: Path, error: Exception) -> StoreError:
    """Return an error of SQLite as ``StoreError``."""
    damaged = isinstance(error, UnicodeDecodeError) or _code(error) in DAMAGED
    damaged |= "no such" in str(error)  # every catalog has the column or table
    return StoreError(f"{path}: {error}" + (f"; {REPAIR}" if damaged else ""))


def remove_database(path: Path) -> None:
    """Delete a database file and its log, if they exist; no connection may be open."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _may_write(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)


def _code(error: Exception) -> int:
    """Return SQLite's primary result code, 0 for errors of Python's module, such as a closed connection."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


class ClosingConnection(sqlite3.Connection):
    """A connection that closes silently when it is dropped; from Python 3.13 on, Python's own warns."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # the connection was never opened
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
            *(("journal_mode = WAL", "foreign_keys = ON") if write else ("query_only = ON", f"mmap_size = {MAPPED}")),
        ]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
