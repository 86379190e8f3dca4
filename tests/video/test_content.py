"""Proof for vidret/video/content.py."""

import os
from pathlib import Path

import pytest

from vidret.errors import DecodeError
from vidret.video.content import BLOCK, fingerprint


def test_copies_share_a_fingerprint(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


@pytest.mark.parametrize("size", [1, BLOCK, 4 * BLOCK])
@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_a_changed_byte_changes_the_fingerprint(tmp_path: Path, size: int, place: str) -> None:
    data = bytearray(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    before = fingerprint(path)
    data[{"head": 0, "middle": size // 2, "tail": size - 1}[place]] = 1
    path.write_bytes(data)
    assert fingerprint(path) != before


def test_the_size_counts(tmp_path: Path) -> None:
    for size in (10, 11):
        (tmp_path / str(size)).write_bytes(bytes(size))
    assert fingerprint(tmp_path / "10") != fingerprint(tmp_path / "11")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    reasons = {
        "pipe.mp4": "is not a regular file",
        "folder.mp4": "is a directory",
        "empty.mp4": "is empty",
        "dangling.mp4": "does not exist",
        "missing.mp4": "does not exist",
        "nul\0.mp4": "cannot be read",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=reason) as caught:
            fingerprint(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_a_forbidden_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"secret")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so a mode of 000 would prove nothing
    with pytest.raises(DecodeError, match="permission denied"):
        fingerprint(tmp_path / "file")
