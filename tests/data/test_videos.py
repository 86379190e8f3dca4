"""Matching of annotation names to video files."""

from pathlib import Path

import pytest

from vidret.data.records import find_videos
from vidret.errors import VidretError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_videos_are_found_by_stem_in_subfolders_with_any_suffix(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.mp4", "sub/deep/b.WEBM", "9_Film_00.05-00.09.941.avi", "c_0.0_9.0.mkv", "d.txt", "b.jpg", "e.mov"
    )
    wanted = ["c_0.0_9.0", "missing", "b.avi", "a", "9_Film_00.05-00.09.941", "d", "e.", "A"]
    found, missing = find_videos(wanted, tmp_path)
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "c_0.0_9.0": "c_0.0_9.0.mkv",
        "b.avi": "sub/deep/b.WEBM",
        "a": "a.mp4",
        "9_Film_00.05-00.09.941": "9_Film_00.05-00.09.941.avi",
        "e.": "e.mov",
    }
    assert list(found) == ["c_0.0_9.0", "b.avi", "a", "9_Film_00.05-00.09.941", "e."]
    assert missing == ["missing", "d", "A"], "names are case-sensitive"


def test_path_takes_precedence_over_name_and_name_over_stem(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4", "b.mp4", "x/b.webm", "c.mp4", "x/c.mp4")
    found, missing = find_videos(["y/a.mp4", "b.mp4", "c.mp4", "z/a.mp4"], tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.values()] == ["y/a.mp4", "b.mp4", "c.mp4"]
    assert missing == ["z/a.mp4"]


def test_ambiguous_matches_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x/a.webm", "b.mp4")
    with pytest.raises(VidretError, match=r"^a must match one file, got .*a\.mp4, .*a\.webm \(2 in all\)$"):
        find_videos(["b", "a"], tmp_path)
    with pytest.raises(VidretError, match=r"b\.mp4 must match one name, got b\.avi and b\.mov$"):
        find_videos(["b.avi", "b.mov"], tmp_path)
    assert find_videos(["b"], tmp_path)[1] == []


def test_missing_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VidretError, match="nowhere: no such folder of videos"):
        find_videos(["a"], tmp_path / "nowhere")
    assert find_videos(["a"], tmp_path) == ({}, ["a"])
    touch(tmp_path, "here/x/a.mp4")
    monkeypatch.chdir(tmp_path / "here")
    assert list(find_videos(["x/a.mp4"], "../here")[0]) == ["x/a.mp4"]
