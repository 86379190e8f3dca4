"""Files that are replaced as a whole, and locks: where one cannot be written, the old file stays, and no draft."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import PatchEncoder
from vidret.data.cache_entries import CacheEntries
from vidret.disk import DRAFT, drop_oldest, locking, open_handle, replacing, try_lock, unlock
from vidret.encode.text_cache import encode_once
from vidret.errors import StoreError, is_disk_full
from vidret.ground.pieces import write_archive
from vidret.language.endpoint import ReplyCache
from vidret.model_files import save_tensors
from vidret.present.contents import write_embeddings
from vidret.serve.thumbnails import ThumbnailCache
from vidret.store.rows_file import WATCHES, Watch
from vidret.store.snapshots.changes import Position
from vidret.store.snapshots.columns import read_columns, save_columns, write_columns
from vidret.types import Embeddings


def write_texts(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        encode_once(PatchEncoder(), ["a"])


Writer = Callable[[Path], object]
KEY = "0" * 32
REFUSED: dict[str, Writer] = {
    "an archive of tensors": lambda folder: write_archive(folder / "a.zip", b"m", [("a", {"a": torch.zeros(9)})]),
    "an entry of a cache": lambda folder: CacheEntries(folder, "frames", {}).write("a", ({"a": np.zeros(9)}, {})),
    "rows beside a catalog": lambda folder: WATCHES.write(folder, [Watch(name="a", query="b", last_video=1)]),
    "columns of a snapshot": lambda folder: save_columns(folder, {"a": np.ones(9)}, Position(1, 1, 2)),
}
DONE_WITHOUT: dict[str, Writer] = {
    "a thumbnail": lambda folder: ThumbnailCache(folder, 1000).put(KEY, b"a"),
    "vectors of texts": write_texts,
    "an answer of a model": lambda folder: ReplyCache(folder).ask("a", lambda: "b", str),
}


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("write", [*REFUSED.values(), *DONE_WITHOUT.values()], ids=[*REFUSED, *DONE_WITHOUT])
def test_a_full_disk_leaves_the_old_file_and_no_draft(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(draft: Path, target: Path) -> Path:
        assert draft.name.endswith(DRAFT)
        assert draft.stat().st_size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    caplog.set_level(logging.INFO)
    write(tmp_path)
    (path,) = list_files(tmp_path)
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", fail)
    if write in REFUSED.values():
        with pytest.raises(StoreError, match=rf"{path.name}: cannot be written \(No space left on device\)") as caught:
            write(tmp_path)
        assert is_disk_full(caught.value)
    else:
        write(tmp_path)
    assert [path.read_bytes() for path in list_files(tmp_path)] == [b"old"]


def test_an_error_while_a_draft_is_written_passes_through(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    with replacing(path) as draft:
        draft.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as draft:
        raise RuntimeError(draft.write_bytes(b"half"))
    assert list_files(tmp_path) == [path]
    assert path.read_bytes() == b"old"
    with pytest.raises(StoreError, match=r"a/b: cannot be written \(File exists\)"), replacing(path / "b"):
        pass


VECTORS = Embeddings(("a.mp4",), np.zeros(1, np.int64), np.zeros((1, 2)), np.ones((1, 999), np.float32))


def test_models_and_exported_embeddings_have_the_mode_of_other_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors({"a": torch.ones(2)}, tmp_path / "model.safetensors", {})
    write_embeddings(VECTORS, tmp_path / "vectors.safetensors", "safetensors")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_vectors_that_the_system_refuses_to_write_leave_the_old_ones(form: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits of resources")
    path = tmp_path / f"a.{form}"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match=rf"{path.name}: cannot be written \(File too large\)"):
            write_embeddings(VECTORS, path, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in list_files(tmp_path)] == [b"old"]


def test_threads_that_write_one_file_do_not_share_a_draft(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def write(letter: str) -> None:
        with replacing(tmp_path / "a") as draft:
            barrier.wait()
            draft.write_text(letter * 9)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abcd"))
    assert (tmp_path / "a").read_text() in {letter * 9 for letter in "abcd"}
    assert list_files(tmp_path) == [tmp_path / "a"]


def test_a_durable_file_and_its_entry_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, replace = list[str](), Path.replace

    def follow(draft: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(draft, target)

    monkeypatch.setattr("vidret.disk.sync_data", lambda _: calls.append("data"))
    monkeypatch.setattr("vidret.disk.sync_folder", lambda _: calls.append("folder"))
    monkeypatch.setattr(Path, "replace", follow)
    for durable in (True, False):
        with replacing(tmp_path / "a", durable=durable) as draft:
            draft.touch()
    assert calls == ["data", "replace", "folder", "replace"]


def test_drafts_of_columns_that_a_killed_writer_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"snapshot.columns.1{DRAFT}").touch()
    save_columns(tmp_path, {}, Position(1, 1, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.columns"]


def test_columns_are_not_mapped_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is mapped cannot be replaced there, so that no second run could save."""
    listed = write_columns(tmp_path / "a", {"a": np.arange(9.0)})
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("mmap.mmap", None)
    columns = read_columns(tmp_path / "a", listed, {"a": np.float64})
    assert columns is not None
    assert columns["a"].tolist() == list(range(9))


def test_a_lock_makes_no_folder_and_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"lock: cannot be written \(No such file or directory\)"):
        WATCHES.remove(tmp_path / "nowhere", "a", "a watch")
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "lock"
    with pytest.raises(RuntimeError), locking(path):
        raise RuntimeError
    with locking(path):
        handle = open_handle(path, write=True)
        assert not try_lock(handle)
    assert try_lock(handle)
    os.close(handle)


def test_who_waits_for_a_lock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    handle = open_handle(tmp_path / "a", write=True)
    assert try_lock(handle)
    monkeypatch.setattr("time.sleep", lambda _: unlock(handle))
    with locking(tmp_path / "a"):
        assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'a'}: waiting for another process"]
    os.close(handle)


def test_a_change_does_not_wait_for_ever_for_a_process_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.store.rows_file.MAX_WAIT_S", 0.0)
    with (
        locking(tmp_path / "watches.lock"),
        pytest.raises(StoreError, match=r"watches.lock: another process has locked it for over 0 s"),
    ):
        WATCHES.remove(tmp_path, "a", "a watch")


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("vidret.disk.try_lock", fail)
    monkeypatch.setattr("vidret.disk.unlock", fail)
    with pytest.raises(StoreError, match=r"a: cannot be locked \(Function not implemented\)"), locking(tmp_path / "a"):
        pass


def test_the_files_used_longest_ago_are_dropped(tmp_path: Path) -> None:
    assert drop_oldest(tmp_path / "absent", "*.jpg", 1) == 0
    for age, name in enumerate(("a.jpg", "b.jpg.0123.part", "c.jpg", "d.png", "e.jpg")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (age, age))
    assert drop_oldest(tmp_path, "*.jpg*", 25, lambda status: status.st_size) == 20
    assert {path.name for path in tmp_path.iterdir()} == {"c.jpg", "d.png", "e.jpg"}
    assert drop_oldest(tmp_path, "*.jpg", 2) == 2
    assert drop_oldest(tmp_path, "*.jpg", 0) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"d.png", "e.jpg"}, "the last one stays"
