"""Proof for vidret/video/files.py."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from vidret.errors import DecodeError
from vidret.video.files import find_missing, find_spelling, is_same_disk, read_content
from vidret.video.identity import fingerprint


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


def test_the_content_of_a_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(b"words")
    assert read_content(str(path), 5) == b"words"
    os.truncate(path, 40 << 30)
    with pytest.raises(DecodeError, match="must have at most 1 MiB, got 40960"):
        read_content(str(path), 1 << 20)
    os.mkfifo(tmp_path / "pipe.srt")
    with pytest.raises(DecodeError, match="is not a regular file"):
        read_content(str(tmp_path / "pipe.srt"), 1 << 20)


def test_what_is_forbidden_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    for name in ("scandir", "open"):  # root may read everything, so a mode of 000 would prove nothing
        monkeypatch.setattr(os, name, Mock(side_effect=PermissionError(13, "Permission denied")))
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(DecodeError, match="may not be read: permission denied"):
            fingerprint(path)


def test_only_what_is_surely_gone_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.mp4").mkdir()
    names = ["file", "link", "gone", "no/folder", "file/below", "folder.mp4", "never\0"]
    paths = [str(tmp_path / name) for name in names]
    assert find_missing(paths) == set(paths[2:])

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    assert find_missing(paths) == set()


def test_a_missing_file_was_on_the_disk_of_the_folders_that_are_left(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    here = str(tmp_path / "a.mp4")
    assert is_same_disk(str(tmp_path / "gone" / "deeper" / "b.mp4"), here)
    for other in ("/dev/gone/b.mp4", "s3://films/b.mp4"):
        assert not is_same_disk(other, here)
    assert not is_same_disk(here, str(tmp_path / "c.mp4")), "it is not there either"


def test_names_are_spelt_as_their_folders_list_them(tmp_path: Path) -> None:
    apart, whole = "e\N{COMBINING ACUTE ACCENT}t", "\N{LATIN SMALL LETTER E WITH ACUTE}t"
    (tmp_path / apart / "a" / apart).mkdir(parents=True)
    assert find_spelling(f"{tmp_path}/{whole}/a/{whole}") == str(tmp_path / apart / "a" / apart)
    assert find_spelling(f"{tmp_path}/{whole}/b/{whole}") == str(tmp_path / apart / "b" / whole)
    assert find_spelling(f"s3://bucket/{whole}") == f"s3://bucket/{whole}"
    (tmp_path / whole).mkdir(exist_ok=True)
    if len(list(tmp_path.iterdir())) == 2:  # macOS has one folder for both
        assert find_spelling(str(tmp_path / whole)) == str(tmp_path / whole)
