"""Arrays on disk keep their type and shape, settings never share them, and damage is told."""

import errno
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from vidret.data.cache_entries import CacheEntries, Entry
from vidret.data.records import VideoSpan
from vidret.errors import VidretError

ARRAYS: dict[str, np.ndarray] = {
    "pixels": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "none": np.empty((0, 7), np.float16),
    "halves": np.linspace(-1, 1, 11).astype(np.float16),
    "mask": np.array([[True], [False]]),
    "transposed": np.arange(24, dtype=np.int32).reshape(4, 6).T,
    "scalar": np.array(3.5),
}


def test_arrays_keep_their_type_and_shape_and_the_last_entry_of_a_key_counts(tmp_path: Path) -> None:
    entries = CacheEntries(tmp_path / "not" / "there", "frames", {})
    assert "all" not in entries
    entries.write("all", ({"a": np.zeros(3)}, {}))
    entries.write("all", (ARRAYS, {"seconds": 1.5, "why": "é"}))
    entries.write("bare", ({}, {"failed": "no"}))
    for opened in (entries, pickle.loads(pickle.dumps(entries))):
        assert [key in opened for key in ("all", "bare", "other")] == [True, True, False]
        assert (opened.facts("all"), opened.facts("bare")) == ({"seconds": 1.5, "why": "é"}, {"failed": "no"})
        arrays, _ = opened.read("all")
        assert arrays.keys() == ARRAYS.keys()
        assert opened.read("bare")[0] == {}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype


def test_a_folder_is_of_one_kind_and_one_choice_of_settings(tmp_path: Path) -> None:
    entries = [
        CacheEntries(tmp_path, kind, settings)
        for kind, settings in (("f", {"a": 1, "b": 2}), ("f", {"b": 2, "a": 1}), ("f", {"a": 2}), ("g", {"a": 2}))
    ]
    entries[0].write("key", ({}, {}))
    assert ["key" in other for other in entries] == [True, True, False, False]


def test_damaged_and_unwritable_files_are_refused_with_their_path(tmp_path: Path) -> None:
    entries = CacheEntries(tmp_path, "frames", {})
    entries.write("key", (ARRAYS, {}))
    (path,) = entries.folder.iterdir()
    for content in (path.read_bytes()[:-1], b"?", b""):
        path.write_bytes(content)
        with pytest.raises(VidretError, match=rf"{path.name}: cannot be read .*; delete it, and it is made again"):
            entries.read("key")
    (tmp_path / "file").touch()
    with pytest.raises(VidretError, match="cannot be written"):
        CacheEntries(tmp_path / "file", "frames", {}).write("key", ({}, {}))


def test_every_name_of_a_file_and_every_text_can_be_a_key(tmp_path: Path) -> None:
    entries = CacheEntries(tmp_path, "frames", {})
    keys = ("/videos/\udcff.mp4 1 2", "half of an emoji \ud83d")
    for index, key in enumerate(keys):
        entries.write(key, ({"a": np.array([index])}, {}))
    assert [entries.read(key)[0]["a"].tolist() for key in keys] == [[0], [1]]


def test_spans_that_print_alike_have_entries_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.touch()
    entries, spans = (
        CacheEntries(tmp_path, "frames", {}),
        [VideoSpan(str(path), at, 2000.0) for at in (1234.561, 1234.564)],
    )
    assert str(spans[0]) == str(spans[1])
    assert entries.find(spans[0])[0] != entries.find(spans[1])[0]


def test_an_entry_that_two_builds_need_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    spans, made, waiting = [VideoSpan(str(tmp_path / "a.mp4"))], list[VideoSpan](), threading.Event()

    def make_all(missing: Sequence[VideoSpan]) -> Iterator[Entry]:
        assert waiting.wait(9)
        for span in missing:
            made.append(span)
            yield {}, {}

    def build() -> None:
        CacheEntries(tmp_path / "cache", "frames", {}).build(spans, make_all)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting.set()
    for thread in threads:
        thread.join()
    assert made == spans


def test_a_cache_is_built_where_no_file_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vidret.disk.try_lock", Mock(side_effect=OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))))
    (tmp_path / "a.mp4").touch()
    spans, entries = [VideoSpan(str(tmp_path / "a.mp4"))], CacheEntries(tmp_path / "cache", "frames", {})
    entries.build(spans, lambda missing: (({}, {}) for _ in missing))
    assert entries.find(spans[0])[1] == {}
    assert "build.lock: cannot be locked (Function not implemented); builds of this cache" in caplog.text
