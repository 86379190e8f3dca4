"""Seals: a file is believed when it is the one that was written, and no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.manifest import FileSeal, Seal, doubt, remove_others, write_file

from .samples import damage

HEAD, PAYLOAD = 1000, 400_000


def write(folder: Path, seed: int = 0) -> FileSeal:
    data = np.random.default_rng(seed).bytes(HEAD + PAYLOAD)

    def hand_over(put: Callable[[bytes], None]) -> None:
        put(data[:333])
        put(data[333:])

    return write_file(folder, "ivf", 7, PAYLOAD, hand_over)


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    seal = write(tmp_path / "vectors")
    assert (seal.kind, seal.total, seal.num_bytes, seal.head_bytes) == ("ivf", 7, HEAD + PAYLOAD, HEAD)
    assert [path.name for path in (tmp_path / "vectors").iterdir()] == [seal.name] == [f"ivf-{seal.sha256[:16]}.faiss"]
    assert write(tmp_path / "vectors") == seal
    assert write(tmp_path / "vectors", 1).name != seal.name
    assert doubt(tmp_path / "vectors", seal, whole=True) == ""


def test_a_file_that_is_another_is_doubted_at_once(tmp_path: Path) -> None:
    seal, other = write(tmp_path), write(tmp_path, 1)
    path = tmp_path / seal.name
    whole = path.read_bytes()
    for data in ((tmp_path / other.name).read_bytes(), whole[:HEAD] + bytes(PAYLOAD), b"x" * len(whole)):
        path.write_bytes(data)
        assert doubt(tmp_path, seal, whole=False) == "it is not the file that was saved"
    for data in (whole[:-1], b"", whole + b"\0"):
        path.write_bytes(data)
        assert doubt(tmp_path, seal, whole=False) == f"it has not the {HEAD + PAYLOAD} bytes that were saved"
    path.unlink()
    assert doubt(tmp_path, seal, whole=False) == "No such file or directory"


def test_a_flipped_bit_is_seen_at_once_in_the_head_and_by_reading_all_elsewhere(tmp_path: Path) -> None:
    seal = write(tmp_path)
    damage(tmp_path / seal.name, HEAD - 1, bits=4)
    assert doubt(tmp_path, seal, whole=False)
    damage(tmp_path / seal.name, HEAD - 1, bits=4)
    damage(tmp_path / seal.name, HEAD + 5000, bits=4)  # between the blocks that are looked at
    assert not doubt(tmp_path, seal, whole=False)
    assert doubt(tmp_path, seal, whole=True) == "some of its bytes are not those that were saved"


def test_a_seal_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = write(tmp_path)
    for flat in (None, replace(file, kind="flat")):
        seal = Seal(512, 9, (file, replace(file, name="b")), flat)
        assert Seal.from_json(seal.to_json()) == seal
    assert Seal.from_json(None) is None
    assert Seal.from_json('{"sha256": "0", "kind": "flat", "dim": 8, "total": 7, "trained": 0}') is None


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    seal = write(tmp_path)
    (tmp_path / "unfinished").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=rf"^{tmp_path}: cannot be written \(No space left"):
        write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [seal.name]


def test_what_no_seal_names_is_removed(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, 1)
    (tmp_path / "unfinished").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("somebody's")
    remove_others(tmp_path, Seal(8, 1, (second,), None))
    assert sorted(path.name for path in tmp_path.iterdir()) == [second.name, "notes.txt"]
    assert first != second
    remove_others(tmp_path / "nowhere", Seal(8, 1, (), None))
