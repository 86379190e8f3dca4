"""Proof for vidret/video/identity.py."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from vidret.errors import ChangedError, DecodeError
from vidret.video.identity import BLOCK, check_unchanged, fingerprint, identify


@pytest.mark.parametrize("size", [1, BLOCK, 4 * BLOCK])
def test_a_fingerprint_is_that_of_every_byte(tmp_path: Path, size: int) -> None:
    data, path = bytearray(size), tmp_path / "file"
    for changed in (0, size // 3, size // 2, size - 1):
        data[changed] ^= 1
        path.write_bytes(data)
        assert fingerprint(path) == f"sha256-{hashlib.sha256(data).hexdigest()}"


def test_a_file_that_was_only_allocated_says_so(tmp_path: Path) -> None:
    with (tmp_path / "download.mp4").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(DecodeError, match="holds no data: none of its 21474836480 bytes was written yet"):
        fingerprint(tmp_path / "download.mp4")


def test_reading_a_large_file_shows_signs_of_life_and_can_be_ended(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(5 * BLOCK))
    signs: list[int] = []

    def interrupt() -> None:
        signs.append(1)
        if len(signs) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        identify(tmp_path / "file", heartbeat=interrupt)
    assert len(signs) == 2


def test_a_content_is_compared_by_stamp_and_then_by_fingerprint(tmp_path: Path) -> None:
    path, data = tmp_path / "file", bytearray(np.random.default_rng(0).bytes(4 * BLOCK))
    path.write_bytes(data)
    seen = identify(path)
    assert check_unchanged(str(path), seen) == seen
    os.utime(path, (10**9, 10**9))
    touched = check_unchanged(str(path), seen)
    assert touched.fingerprint == seen.fingerprint
    assert touched.mtime_ns == 10**18
    assert touched.num_bytes == len(data)
    data[BLOCK + 1] ^= 1
    path.write_bytes(data)
    os.utime(path, (10**9, 10**9))
    with pytest.raises(ChangedError, match=r"file: changed while it was read"):
        check_unchanged(str(path), touched)
    path.unlink()
    with pytest.raises(DecodeError, match="does not exist"):
        check_unchanged(str(path), touched)
