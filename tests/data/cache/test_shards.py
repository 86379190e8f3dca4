"""Arrays on disk: appended entries survive interruptions, and corrupt data is never returned."""

import json
import logging
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from vidret.data.cache.shards import ArrayShards, name_folder
from vidret.errors import VidretError

ARRAYS: dict[str, np.ndarray] = {
    "pixels": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "none": np.empty((0, 7), np.float16),
    "halves": np.linspace(-1, 1, 11).astype(np.float16),
    "times": np.array([0.1, 0.2]),
    "mask": np.array([[True], [False]]),
    "transposed": np.arange(24, dtype=np.int32).reshape(4, 6).T,
    "scalar": np.array(3.5),
}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.data.cache.shards.SHARD_BYTES", 300)


def fill(folder: Path, *keys: str) -> ArrayShards:
    """Append an entry of 192 bytes for each key."""
    shards = ArrayShards(folder)
    with shards.writing():
        for key in keys:
            shards.append(key, {"a": np.full(40, len(key), np.float32)}, {"of": key})
    return shards


def test_arrays_keep_their_type_and_shape(tmp_path: Path) -> None:
    shards = ArrayShards(tmp_path / "not" / "there")
    assert "first" not in shards
    with shards.writing():
        shards.append("first", {"a": np.zeros(3)})
        shards.append("all", ARRAYS, {"seconds": 1.5, "why": "é"})
        shards.append("bare", {}, {"failed": "no"})
    for opened in (shards, ArrayShards(tmp_path / "not" / "there"), pickle.loads(pickle.dumps(shards))):
        assert "all" in opened
        assert "other" not in opened
        assert opened.facts("all") == {"seconds": 1.5, "why": "é"}
        assert (opened.facts("bare"), opened.read("bare")) == ({"failed": "no"}, {})
        arrays = opened.read("all")
        assert list(arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype
            assert arrays[name].flags.aligned
            assert not arrays[name].flags.writeable


@pytest.mark.usefixtures("small_shards")
def test_full_shard_is_not_appended_to(tmp_path: Path) -> None:
    shards = fill(tmp_path, *"abcde")
    assert [path.stat().st_size for path in sorted(tmp_path.glob("*.bin"))] == [384, 384, 192]
    assert [float(shards.read(key)["a"][0]) for key in "abcde"] == [1.0] * 5


def test_later_entry_replaces_earlier_one(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    shards = ArrayShards(tmp_path)
    with shards.writing():
        shards.append("a", {"a": np.array([7])})
    assert shards.read("a")["a"].tolist() == ArrayShards(tmp_path).read("a")["a"].tolist() == [7]


def test_unfinished_write_is_truncated(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    lines = (tmp_path / "index.jsonl").read_bytes()
    with (tmp_path / "00000.bin").open("ab") as file:
        file.write(b"half of an array")
    with (tmp_path / "index.jsonl").open("ab") as file:
        file.write(lines[:50])
    assert all(key in ArrayShards(tmp_path) for key in "ab")  # readers ignore it
    shards = fill(tmp_path, "ccc")
    assert (tmp_path / "00000.bin").stat().st_size == 3 * 192
    assert [float(shards.read(key)["a"][0]) for key in ("a", "b", "ccc")] == [1.0, 1.0, 3.0]
    assert len((tmp_path / "index.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.usefixtures("small_shards")
def test_entries_without_data_do_not_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, *"abcd")
    (tmp_path / "00001.bin").unlink()
    with caplog.at_level(logging.WARNING):
        shards = ArrayShards(tmp_path)
    assert caplog.messages == [f"{tmp_path}: the data of 2 entries is missing and must be rebuilt"]
    assert "b" in shards
    assert "c" not in shards
    # New data is written to the same offsets, so the old lines must be removed.
    fill(tmp_path, "eeeee", "ffffff")
    reopened = ArrayShards(tmp_path)
    assert [key for key in ("a", "b", "c", "d", "eeeee", "ffffff") if key in reopened] == ["a", "b", "eeeee", "ffffff"]
    with (tmp_path / "00000.bin").open("r+b") as file:
        file.truncate(200)
    assert ["a" in ArrayShards(tmp_path), "b" in ArrayShards(tmp_path)] == [True, False]


def test_corrupt_data_is_never_returned(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    with (tmp_path / "00000.bin").open("r+b") as file:
        file.seek(192 + 20)
        file.write(b"?")
    shards = ArrayShards(tmp_path)
    shards.read("a")
    with pytest.raises(VidretError, match=r"00000\.bin: b is corrupt; delete this file to rebuild it"):
        shards.read("b")
    (tmp_path / "00000.bin").unlink()
    assert "a" not in ArrayShards(tmp_path)


def test_invalid_index_is_refused_with_its_line(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    for line in ('{"key": 1}', "no", '{"key": "k", "facts": {}, "arrays": [], "colour": 1}'):
        (tmp_path / "index.jsonl").write_text(f"{line}\n")
        with pytest.raises(VidretError, match=r"index\.jsonl:1: must be an entry, got"):
            ArrayShards(tmp_path)


def test_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    shards = ArrayShards(tmp_path)
    context = multiprocessing.get_context("fork")
    with shards.writing():
        other = context.Process(target=fill, args=(tmp_path, "late"))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        shards.append("early", {"a": np.ones(3)})
    other.join(30)
    assert other.exitcode == 0
    assert {"early", "late"} == {
        json.loads(line)["key"] for line in (tmp_path / "index.jsonl").read_text().splitlines()
    }
    assert ArrayShards(tmp_path).read("early")["a"].tolist() == [1, 1, 1]
    with shards.writing():
        assert "late" in shards


def test_unwritable_folder_is_refused_with_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VidretError, match=r"file.*: cannot be written: "), ArrayShards(tmp_path / "file").writing():
        pass
    shards = ArrayShards(tmp_path / "full")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with shards.writing():
        monkeypatch.setattr("os.fdatasync", fail)
        with pytest.raises(VidretError, match="full: cannot be written: No space left on device"):
            shards.append("a", {"a": np.ones(3)})
        monkeypatch.undo()
    assert "a" not in shards
    shards = fill(tmp_path / "full", "b")
    assert (tmp_path / "full" / "00000.bin").stat().st_size == 192


def test_folder_name_depends_on_kind_and_settings() -> None:
    assert name_folder("frames", {"a": 1, "b": 2}) == name_folder("frames", {"b": 2, "a": 1})
    assert len({name_folder("frames", {"a": 1}), name_folder("frames", {"a": 2}), name_folder("layers", {"a": 1})}) == 3
