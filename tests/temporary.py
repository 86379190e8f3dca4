"""The folder of the temporary files of a run: in memory where it has room, so that no writer waits for a disk."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
MIN_FREE = 4 << 30  # bytes; a run writes less than one GiB


def make_temporary_folder() -> str:
    """Return the folder that TMPDIR names, or else a new one in memory, which the process that made it removes."""
    if folder := os.environ.get("TMPDIR"):
        return folder
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        facts = os.statvfs(MEMORY)
        if facts.f_bavail * facts.f_frsize >= MIN_FREE and not facts.f_flag & os.ST_NOEXEC:
            tempfile.tempdir = tempfile.mkdtemp(prefix="vidret-tests-", dir=MEMORY)
            os.chmod(tempfile.tempdir, 0o1777)  # noqa: PTH101  as /tmp: some tests have processes of another user
            atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
    return tempfile.gettempdir()
