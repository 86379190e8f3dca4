"""Disks: an index is written without what other systems lack, and read where nothing can be written."""

import sys
from pathlib import Path

import pytest

from tests.forking import run_code, start_code
from tests.indexed_texts import add_words
from tests.store import samples
from vidret.store.store import Store

# Windows has neither fcntl nor positioned writes; it locks bytes by msvcrt, here with the lock that both programs know.
WINDOWS = """
import fcntl, os, sys, types
import faiss, jaxtyping, numpy, random, sqlite3, subprocess, tempfile
flock, shared, none, free = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
def locking(handle, mode, num_bytes):
    assert (os.lseek(handle, 0, os.SEEK_CUR), num_bytes) == (1 << 30, 1)
    try:
        flock(handle, {2: shared | none, 0: free}[mode])
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2, LK_UNLCK=0)
sys.platform = "win32"
for name in ("pread", "pwrite", "fdatasync", "register_at_fork", "O_CLOEXEC", "O_NONBLOCK"):
    delattr(os, name)
"""
MACOS = "import fcntl, os; del os.fdatasync; del fcntl.F_SETPIPE_SZ"
WRITER = """
import sys
from pathlib import Path
from tests.indexed_texts import add_words
from tests.store import samples
store = samples.create(Path(sys.argv[1]))
samples.index_all(store, 3)
store.writer.set_file("/videos/v0.mp4", state="missing")
store.upkeep.prune()
assert store.upkeep.verify() == []
print("ready", flush=True)
sys.stdin.read()
store.close()
"""


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_index_is_written_without_calls_of_linux(tmp_path: Path, system: str) -> None:
    with start_code(system + WRITER, tmp_path / "index", is_forked=False) as (writer, stdin, _):
        locked = run_code(system + WRITER, tmp_path / "index", is_forked=False)
        assert f"process {writer.pid} is writing this index; wait for it to end" in locked.stderr
        stdin.close()
    assert writer.returncode == 0
    with samples.create(tmp_path / "index") as store:
        samples.index_all(store, 3)
    with samples.create(tmp_path / "whole") as whole:
        samples.index_all(whole, 3)
        with Store.open(tmp_path / "index") as read:
            assert samples.seeds(read) == samples.seeds(whole)


# No file can be written, not even the one of shared memory that SQLite makes beside a database.
READ = """
import resource, signal, sys
import numpy as np

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.store.texts.upkeep import count_texts, find_damaged_texts

with Store.open(sys.argv[1]) as store:
    assert len(store) == 4
    assert (store.search(np.ones((1, store.dim), np.float32), 4)[1] >= 0).all()
    assert not store.upkeep.verify() and not store.upkeep.verify_vectors()
with TextStore.open(sys.argv[1]) as texts:
    assert not texts.index.in_memory
    assert texts.index.find_phrase("red apple", 5).size == 1
assert count_texts(sys.argv[1])[0].texts == 2
assert find_damaged_texts(sys.argv[1], repair=False) == []
print("read")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("is_copy", [False, True], ids=["", "copy without the files of a connection"])
def test_an_intact_index_is_read_on_a_full_disk(tmp_path: Path, is_copy: bool) -> None:
    index = tmp_path / "index"
    with samples.create(index) as store:
        samples.add_video(store, "a", seed=0)
        store.upkeep.save_vectors()
    add_words(index, "a", ["one red apple", "two green pears"])
    for path in [*index.rglob("*-wal"), *index.rglob("*-shm")] if is_copy else []:
        path.unlink()
    done = run_code(READ, index)
    assert (done.stdout, done.stderr) == ("read\n", "")
