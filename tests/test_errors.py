"""What is behind an error, and what is said where the package of an extra is missing."""

import errno
import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.present.editors.numbered import plan_unread
from vidret.channels.texts.ocr import TextModels
from vidret.encode.families.registry import load_encoder
from vidret.errors import MissingExtraError, StoreError, VidretError, is_disk_full, is_out_of_files
from vidret.present.editors.otio import to_otio
from vidret.store.vectors.flat import Flat, load_faiss
from vidret.video.workers.pool import DecodePool


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


def test_a_lack_of_open_files_is_found_behind_other_errors() -> None:
    for code in (errno.EMFILE, errno.ENFILE):
        assert is_out_of_files(chain(VidretError("cannot be read"), OSError(code, os.strerror(code))))
    assert not is_out_of_files(FileNotFoundError(errno.ENOENT, "No such file or directory"))


def test_causes_that_go_in_a_circle_end() -> None:
    first, second = VidretError("one"), ValueError("two")
    assert not is_disk_full(chain(first, second, first))


EXTRAS: list[tuple[Callable[[], object], str, str, str]] = [  # what needs an extra, and the package that is imported
    (partial(load_encoder, "starter", device="cpu"), "", "the starter encoder", "starter"),
    (partial(load_encoder, "hf:org/name", device="cpu"), "", "", "hf"),
    (partial(load_encoder, "st:org/name", device="cpu"), "", "", "st"),
    (TextModels, "", "", "words"),
    (partial(Flat, 8), "faiss", "searching an index", "cpu"),
    (lambda: to_otio(plan_unread([])), "opentimelineio", "the format otio", "editors"),
    (partial(DecodePool, 1, decoder="torchcodec"), "torchcodec", "", "torchcodec"),
]


@pytest.mark.parametrize(("use", "package", "what", "extra"), EXTRAS)
def test_a_missing_package_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object], package: str, what: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, package, None)
    load_faiss.cache_clear()
    with pytest.raises(MissingExtraError, match=rf'{what} needs the extra "{extra}": pip install "vidret\[{extra}\]"$'):
        use()


def test_a_package_that_cannot_be_loaded_is_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError('libfaiss.so: failed to map segment')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    load_faiss.cache_clear()
    with pytest.raises(StoreError, match=r"FAISS cannot be loaded: libfaiss.so: failed to map segment$"):
        load_faiss()
