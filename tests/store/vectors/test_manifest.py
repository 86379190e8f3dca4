"""The manifest: only files that are exactly as written are accepted."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.vectors.manifest import Manifest, ManifestEntry, find_mismatch, remove_others, write_file

from ..samples import damage

HEAD, PAYLOAD = 1000, 400_000


def write(folder: Path, seed: int = 0) -> ManifestEntry:
    data = np.random.default_rng(seed).bytes(HEAD + PAYLOAD)

    def write_data(append: Callable[[bytes], None]) -> None:
        append(data[:333])
        append(data[333:])

    return write_file(folder, "ivf", 7, PAYLOAD, write_data)


def test_a_file_is_new_and_its_entry_describes_it(tmp_path: Path) -> None:
    entry = write(tmp_path / "vectors")
    assert (entry.kind, entry.total, entry.num_bytes, entry.head_bytes) == ("ivf", 7, HEAD + PAYLOAD, HEAD)
    assert [path.name for path in (tmp_path / "vectors").iterdir()] == [entry.name]
    again = write(tmp_path / "vectors")
    assert again.name != entry.name
    assert replace(again, name=entry.name) == entry
    assert find_mismatch(tmp_path / "vectors", entry, whole=True) == ""


def test_flipped_bit_is_detected_in_the_header_by_samples_and_elsewhere_by_reading_all(tmp_path: Path) -> None:
    entry = write(tmp_path)
    damage(tmp_path / entry.name, HEAD - 1, bits=4)
    assert find_mismatch(tmp_path, entry, whole=False)
    damage(tmp_path / entry.name, HEAD - 1, bits=4)
    damage(tmp_path / entry.name, HEAD + 5000, bits=4)  # between the samples
    assert not find_mismatch(tmp_path, entry, whole=False)
    assert find_mismatch(tmp_path, entry, whole=True) == "checksum does not match"
    entry, other = write(tmp_path), write(tmp_path, 1)
    path = tmp_path / entry.name
    content = path.read_bytes()
    for data in ((tmp_path / other.name).read_bytes(), content[:HEAD] + bytes(PAYLOAD), b"x" * len(content)):
        path.write_bytes(data)
        assert find_mismatch(tmp_path, entry, whole=False) == "checksum of samples does not match"
    for data in (content[:-1], b"", content + b"\0"):
        path.write_bytes(data)
        assert find_mismatch(tmp_path, entry, whole=False) == f"size must be {HEAD + PAYLOAD} bytes, got {len(data)}"
    path.unlink()
    assert find_mismatch(tmp_path, entry, whole=False) == "No such file or directory"


def test_manifest_is_parsed_as_written(tmp_path: Path) -> None:
    file = write(tmp_path)
    for flat in (None, replace(file, kind="flat")):
        manifest = Manifest(512, (file, replace(file, name="ivf-0123456789abcdef.faiss")), flat)
        assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(None) is None
    assert Manifest.from_json('{"sha256": "0", "kind": "flat", "dim": 8, "total": 7, "trained": 0}') is None


def test_full_disk_keeps_existing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = write(tmp_path)
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(StoreError, match=rf"^{tmp_path}: cannot be written \(No space left"):
        write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_files_not_in_the_manifest_are_removed(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("other")
    remove_others(tmp_path, Manifest(8, (second,), None))
    assert sorted(path.name for path in tmp_path.iterdir()) == [second.name, "notes.txt"]
    assert first != second
    remove_others(tmp_path / "nowhere", Manifest(8, (), None))
