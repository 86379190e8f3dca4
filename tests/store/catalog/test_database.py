"""The SQLite file: readers without write permission, and checksums of values."""

import gc
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.forking import popen_code, run_code
from vidret.errors import StoreError
from vidret.store.catalog import database as database_module
from vidret.store.catalog.database import Database, checksum_values

NUM_ROWS = 400
PREPARE = ["CREATE TEMP VIEW padded AS SELECT * FROM t WHERE length(padding) = 500"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = Database(tmp_path / "a.sqlite", write=True, create=True)
    database.run("CREATE TABLE t (id INTEGER PRIMARY KEY, round INTEGER, padding BLOB)")
    database.run_many("INSERT INTO t VALUES (?, 0, zeroblob(500))", ((row,) for row in range(NUM_ROWS)))
    database.close()
    return database.path


def open_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        return Database(path, write=False, prepare=PREPARE)


def raise_rounds(database: Database, num: int = 1) -> None:
    """Update all rows in each of ``num`` transactions."""
    for _ in range(num):
        with database.transaction():
            database.run("UPDATE t SET round = round + 1, padding = randomblob(500)")


def rounds(database: Database) -> list[tuple[int, int]]:
    return database.rows("SELECT min(round), max(round) FROM padded")


def test_a_writer_that_may_not_write_says_so(path: Path) -> None:
    path.with_name(f"{path.name}-wal").mkdir()  # as on a read-only disk, no log can be made
    with pytest.raises(StoreError, match=r"a\.sqlite: cannot be written \(unable to open"):
        Database(path, write=True)


def test_reader_that_may_not_write_sees_writers_come_and_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(path.parent.iterdir())
    reader = open_reader(path, monkeypatch)
    assert rounds(reader) == [(0, 0)]
    assert set(path.parent.iterdir()) == before, "a closed file needs no others"
    for num_rounds in range(2, 12, 2):
        writer = Database(path, write=True)
        raise_rounds(writer)
        if num_rounds > 6:
            assert rounds(reader) == [(num_rounds - 1, num_rounds - 1)], "while the writer is open"
        raise_rounds(writer)
        writer.close()
        assert rounds(reader) == [(num_rounds, num_rounds)], (
            "after it is closed, which changes only the state of the file"
        )
    with pytest.raises(StoreError, match="readonly"):
        reader.run("DELETE FROM t")
    reader.close()


def test_reader_that_may_not_write_opens_while_a_writer_closes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Database(path, write=True)
    raise_rounds(writer)
    connect = database_module._connect

    def close_first(uri: str, *, write: bool, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(database_module, "_connect", connect)
        writer.close()  # after the reader has seen its log
        try:
            return connect(uri, write=write, **options)
        finally:  # SQLite makes a log where this process may; a reader without permission cannot
            path.with_name("a.sqlite-wal").unlink(missing_ok=True)

    monkeypatch.setattr(database_module, "_connect", close_first)
    reader = open_reader(path, monkeypatch)
    assert rounds(reader) == [(1, 1)]
    reader.close()


def test_reader_without_write_permission_tries_to_reopen_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(path, monkeypatch)
    assert rounds(reader) == [(0, 0)]
    writer = Database(path, write=True)
    raise_rounds(writer)
    connect = database_module._connect

    def fail_once(uri: str, *, write: bool, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(database_module, "_connect", connect)
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(database_module, "_connect", fail_once)
    assert rounds(reader) == [(1, 1)]
    writer.close()
    reader.close()


WRITER = """
import sys, time
from pathlib import Path
from vidret.store.catalog.database import Database

deadline = time.monotonic() + 120  # the test may have been killed
while not Path(sys.argv[2]).exists() and time.monotonic() < deadline:
    writer = Database(Path(sys.argv[1]), write=True)
    for _ in range(3):
        with writer.transaction():
            writer.run("UPDATE t SET round = round + 1, padding = randomblob(500)")
    writer.close()
"""


def test_reader_that_may_not_write_sees_whole_transactions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer has a process of its own: within one, SQLite shares the reader's access to the shared memory file."""
    monkeypatch.setattr("vidret.store.catalog.database.READ_ONLY_WAIT_S", 20.0)  # the machine may be busy
    stop, seen = path.with_name("stop"), set[tuple[int, int]]()
    with popen_code(WRITER, path, stop, stderr=subprocess.PIPE) as writer:
        deadline = time.monotonic() + 60
        try:
            while len(seen) < 8 and time.monotonic() < deadline and writer.poll() is None:
                reader = open_reader(path, monkeypatch)
                for _ in range(5):
                    seen.update(rounds(reader))
                reader.close()
        finally:
            stop.touch()
            complaint = writer.communicate(timeout=60)[1]
    assert (writer.returncode, complaint) == (0, "")
    assert all(least == most for least, most in seen)
    assert len(seen) >= 8


def test_durable_writes_wait_for_the_disk(path: Path, tmp_path: Path) -> None:
    normal, full = 1, 2
    database = Database(path, write=True)
    for durable, expected in ((False, normal), (True, full)):
        with database.transaction(durable=durable):
            assert database.value("PRAGMA synchronous") == expected
    assert database.value("PRAGMA synchronous") == normal
    restored = Database(tmp_path / "b.sqlite", write=True, create=True)
    statements: list[str] = []
    with restored.access() as connection:
        connection.handle.set_trace_callback(statements.append)
    database.replace(restored)
    assert "PRAGMA synchronous = FULL" in statements
    assert restored.value("PRAGMA synchronous") == normal
    database.close()
    restored.close()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none.sqlite: cannot be read \(No such file"):
        Database(tmp_path / "none.sqlite", write=False)


def test_checksum_depends_on_values_and_types() -> None:
    rows = [(1, 2, 0.5, b"a", b"bc"), (2, 1, 0.5, b"a", b"bc"), (1, 2, -0.5, b"a", b"bc"), (1, 2, 0.5, b"ab", b"c")]
    checksums = [checksum_values("qqd", *row) for row in rows]
    assert checksums == [2629597565, 3548420690, 2542965275, 3613112630], "as in existing indexes"
    for row in ((1, 2.0, 0.5, b"a"), (1, b"2", 0.5, b"a"), (1, None, 0.5, b"a"), (1, 2, 0.5, None), (2**63, 2, 0.5)):
        assert checksum_values("qqd", *row) is None


def test_damaged_unicode_text_can_be_read(path: Path) -> None:
    database = Database(path, write=True)
    database.run("UPDATE t SET padding = CAST(x'61ff62' AS TEXT) WHERE id = 1")
    assert database.value("SELECT padding FROM t WHERE id = 1") == "a\\xffb"
    database.close()


@pytest.mark.parametrize("may_write", [True, False])
def test_threads_of_a_reader_read_side_by_side(path: Path, monkeypatch: pytest.MonkeyPatch, may_write: bool) -> None:
    database = Database(path, write=False) if may_write else open_reader(path, monkeypatch)
    meeting = threading.Barrier(3)  # which breaks if one reads after another

    def meet_while_reading(rows: sqlite3.Cursor) -> list[Any]:
        meeting.wait(timeout=20)
        return rows.fetchall()

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(database.read, meet_while_reading, "SELECT count(*) FROM t") for _ in range(3)]
        assert [job.result() for job in futures] == [[(NUM_ROWS,)]] * 3
        assert len(database._opened) == 4
        database.close()
        with pytest.raises(StoreError, match="closed database"):
            pool.submit(rounds, database).result()
    with ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match="closed database"):
        pool.submit(rounds, database).result()


def test_connections_close_with_their_threads(path: Path) -> None:
    database, handles = Database(path, write=False, prepare=PREPARE), list[sqlite3.Connection]()

    def read() -> None:
        with database.access() as connection:
            handles.append(connection.handle)

    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(read).result()
    gc.collect()
    assert len(database._opened) == 1
    for handle in handles:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):  # also of one that is in a cycle
            handle.execute("SELECT 1")
    database.close()


def test_closing_waits_for_the_threads_that_read(path: Path) -> None:
    database, reading, go_on = Database(path, write=False), threading.Event(), threading.Event()

    def wait(rows: sqlite3.Cursor) -> list[Any]:
        reading.set()
        go_on.wait(20)
        return rows.fetchall()

    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(database.read, wait, "SELECT id FROM t")
        reading.wait(20)
        closed = pool.submit(database.close)
        assert not closed.done()
        go_on.set()
        assert len(future.result()) == NUM_ROWS
        closed.result()


def test_no_thread_can_read_from_a_connection_while_it_is_closed(path: Path) -> None:
    database, is_free = Database(path, write=False), list[bool]()
    connection = database._connect()
    handle, connection.handle = connection.handle, Mock()
    with ThreadPoolExecutor(1) as reader:
        connection.handle.close.side_effect = lambda: is_free.append(
            reader.submit(connection.turn.acquire, blocking=False).result()
        )
        database.close()
    connection.handle = handle
    assert is_free == [False]


def test_a_database_that_is_dropped_open_closes_silently(tmp_path: Path) -> None:
    code = """
import gc, sys, warnings
from pathlib import Path
from vidret.store.catalog.database import Database
from vidret.store.texts.index import TextIndex
warnings.simplefilter("error")
Database(Path(sys.argv[1]), write=True, create=True)
Database(None, write=True)
TextIndex(None, write=True)
gc.collect()
"""
    run = run_code(code, tmp_path / "a.sqlite")
    assert (run.returncode, run.stderr) == (0, "")
