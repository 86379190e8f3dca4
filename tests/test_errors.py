"""What is behind an error."""

import errno
import sqlite3
from itertools import pairwise

from vidret.errors import VidretError, is_disk_full


def chain(*errors: Exception) -> Exception:
    """Return the first error, caused by the next one, and so on."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_full_disk_is_found_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(full)
    assert is_disk_full(chain(VidretError("cannot be written"), ValueError("row"), full))
    no_memory = sqlite3.OperationalError("disk I/O error")
    no_memory.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"  # as on a disk that is full while a log is opened
    assert is_disk_full(chain(VidretError("cannot be written"), no_memory))
    assert not is_disk_full(chain(VidretError("cannot be read"), OSError(errno.EIO, "Input/output error")))


def test_causes_that_go_in_a_circle_end() -> None:
    first, second = VidretError("one"), ValueError("two")
    assert not is_disk_full(chain(first, second, first))
