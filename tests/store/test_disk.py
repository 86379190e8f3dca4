"""The store without what other systems lack: an index is written, locked and read as on Linux."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    command = [sys.executable, "-c", system + WRITER, str(tmp_path / "index")]
    pipe, env = subprocess.PIPE, samples.environment()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
        locked = subprocess.run([*command[:2], system + WRITER, command[3]], capture_output=True, text=True, env=env)
        assert f"process {writer.pid} is writing this index; wait for it to end" in locked.stderr
        writer.stdin.close()
    assert writer.returncode == 0
    with samples.create(tmp_path / "index") as store:
        samples.index_all(store, 3)
    with samples.create(tmp_path / "whole") as whole:
        samples.index_all(whole, 3)
        with Store.open(tmp_path / "index") as read:
            assert samples.seeds(read) == samples.seeds(whole)
