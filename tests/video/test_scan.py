"""Paths in, files out: whatever a disk holds, each video once, in a known order, and no loop without an end."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vidret.errors import VidretError
from vidret.video.scan import VIDEO_SUFFIXES, Listing, list_videos, read_manifest, scan


def naive_walk(folder: Path) -> list[str]:
    """List a folder's videos, then those of each of its real folders, by name."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir()]
    found = [str(entry) for entry in entries if entry not in folders and entry.suffix.lower() in VIDEO_SUFFIXES]
    for each in folders:
        if not each.is_symlink():
            found += naive_walk(each)
    return found


def touch(folder: Path, *names: str) -> list[str]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(path) for path in paths]


def test_a_folder_is_walked_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.mkv", "sub/z.webm", "sub/deep/y.MOV", "also/x.Gif", "notes.txt", "mp4", "no.mp4.part")
    assert scan([str(tmp_path)]) == naive_walk(tmp_path)
    names = [os.path.relpath(path, tmp_path) for path in scan([str(tmp_path)])]
    assert names == ["a.mkv", "b.mp4", "also/x.Gif", "sub/z.webm", "sub/deep/y.MOV"]


def test_folders_that_hold_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _, d = touch(tmp_path, "one/sub/a.mp4", "two/b.mp4", "notes/c.txt", "three/d.mp4")
    monkeypatch.chdir(tmp_path)
    listing = list_videos(["one/", "t*o", "notes", "three/*.mp4", str(tmp_path / "one")])
    assert listing == Listing([a, b, d], [str(tmp_path / "one"), str(tmp_path / "two")])


def test_a_folder_may_look_like_a_video_and_be_empty(tmp_path: Path) -> None:
    inside = touch(tmp_path, "holiday.mp4/day.mp4")
    (tmp_path / "empty").mkdir()
    assert scan([str(tmp_path)]) == scan([str(tmp_path / "holiday.mp4")]) == inside
    assert scan([str(tmp_path / "empty")]) == []
    assert scan([]) == []


def test_what_a_mac_leaves_beside_each_file_is_no_video(tmp_path: Path) -> None:
    kept, _ = touch(tmp_path, "a.mp4", "._a.mp4")
    assert scan([str(tmp_path)]) == [kept]


JUNK = ("@eaDir", "#recycle", ".Trash-1000", ".Trashes", "$RECYCLE.BIN", "System Volume Information", ".thumbnails")


def test_thumbnails_and_deleted_files_are_left_out_and_their_folders_are_told(tmp_path: Path) -> None:
    kept, *_ = touch(tmp_path, "a/a.mp4", *(f"a/{name}/deep/b.mp4" for name in JUNK), "phone/.nomedia", "phone/c.mp4")
    listing = list_videos([str(tmp_path)])
    assert listing.files == [kept]
    assert sorted(listing.junk) == sorted([*(str(tmp_path / "a" / name) for name in JUNK), str(tmp_path / "phone")])
    for name in JUNK:  # a folder that is named is meant
        assert scan([str(tmp_path / "a" / name)]) == [str(tmp_path / "a" / name / "deep" / "b.mp4")]
    assert scan([str(tmp_path / "phone")]) == [str(tmp_path / "phone" / "c.mp4")]
    assert scan([str(tmp_path / "a" / "*")]) == scan([str(tmp_path / "*" / "**" / "a.mp4")]) == [kept]
    assert scan([str(tmp_path / "**" / "*.mp4")]) == [kept, str(tmp_path / "phone" / "c.mp4")]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["proxies"], ["a.mp4", "b_draft.mp4", "raw/c.mp4"]),
        (["*_draft.mp4"], ["a.mp4", "raw/c.mp4", "raw/proxies/d.mp4"]),
        (["raw/*.mp4"], ["a.mp4", "b_draft.mp4"]),
        (["c.mp4", "a*"], ["b_draft.mp4", "raw/proxies/d.mp4"]),
        (["*"], []),
    ],
)
def test_patterns_leave_out_files_and_folders_that_were_found(
    tmp_path: Path, exclude: Sequence[str], left: Sequence[str]
) -> None:
    touch(tmp_path, "a.mp4", "b_draft.mp4", "raw/c.mp4", "raw/proxies/d.mp4")
    expected = [str(tmp_path / name) for name in left]
    for path in (str(tmp_path), f"{tmp_path}/", str(tmp_path / "**" / "*.mp4")):
        assert sorted(list_videos([path], exclude).files) == expected
    named = [str(tmp_path / "raw" / "c.mp4")]
    assert list_videos(named, exclude).files == named


def test_given_files_keep_their_order_whatever_their_suffix(tmp_path: Path) -> None:
    files = touch(tmp_path, "b.mp4", "a.dat", "no_suffix")
    assert scan(files) == files
    assert scan(reversed(files)) == files[::-1]


def test_each_file_comes_once_where_it_came_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = touch(tmp_path, "a.mp4", "b.mp4")
    monkeypatch.chdir(tmp_path)
    assert scan([b, str(tmp_path), "a.mp4", "./b.mp4", "*.mp4"]) == [b, a]


def test_relative_paths_become_absolute_and_the_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = touch(tmp_path, "a.mp4", "sub/b.mp4")
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scan(["../a.mp4", "."]) == [a, b]
    assert scan(["~/a.mp4", "~/sub"]) == [a, b]
    assert scan(["~/*.mp4"]) == [a]


def test_links_to_files_are_followed_and_keep_their_name(tmp_path: Path) -> None:
    (original,) = touch(tmp_path / "elsewhere", "film.mp4")
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "link.mp4").symlink_to(original)
    (folder / "dangling.mp4").symlink_to(tmp_path / "gone")
    assert scan([str(folder)]) == [str(folder / "dangling.mp4"), str(folder / "link.mp4")]
    assert scan([str(folder / "dangling.mp4")]) == [str(folder / "dangling.mp4")]


def test_links_to_folders_are_not_followed_unless_given(tmp_path: Path) -> None:
    (a,) = touch(tmp_path, "sub/a.mp4")
    for name in ("loop", "again", "sub/up"):
        (tmp_path / name).symlink_to(tmp_path)
    assert scan([str(tmp_path)]) == [a]
    assert scan([str(tmp_path / "loop")]) == [str(tmp_path / "loop/sub/a.mp4")]
    # A shell's ** would wander through two loops for ever.
    assert scan([f"{tmp_path}/**/*.mp4"]) == [a]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d, _ = touch(tmp_path, "a.mp4", "sub/b.mp4", "sub/deep/c.mkv", "sub/d.txt", ".hidden/e.mp4")
    monkeypatch.chdir(tmp_path)
    assert scan(["*.mp4"]) == [a]
    assert scan(["*/*.mp4"]) == [b]
    assert scan(["su?"]) == [b, c]
    assert scan([f"{tmp_path}/**/*.mp4"]) == scan(["**/*.mp4"]) == [a, b]
    assert scan(["s*/**/*.mkv"]) == scan(["**/deep/**/*.mkv"]) == [c]
    assert sorted(scan(["sub/**"])) == [b, d, c]
    with pytest.raises(VidretError, match=r"\*\.avi: no such file, folder or pattern"):
        scan(["*.avi"])


def test_a_file_named_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd, _ = touch(tmp_path, "clip[1].mp4", "clip1.mp4")
    assert scan([odd]) == [odd]


def test_names_may_hold_any_bytes(tmp_path: Path) -> None:
    files = touch(tmp_path, "two\nlines.mp4", os.fsdecode(b"caf\xe9.mp4"), "ünï🎬.mp4", " .mp4", "-rf.mp4")
    assert sorted(scan([str(tmp_path)])) == sorted(files)
    assert scan(files) == files
    assert sorted(scan([f"{tmp_path}/*"])) == sorted(files)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"gone\.mp4: no such file, folder or pattern"):
        scan([str(tmp_path), str(tmp_path / "gone.mp4")])


def test_a_folder_that_cannot_be_read_is_listed_and_the_rest_is_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _, c = touch(tmp_path, "a.mp4", "closed/b.mp4", "open/c.mp4")
    closed, scandir = str(tmp_path / "closed"), os.scandir

    def refuse(path: str) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert scan([str(tmp_path)]) == [a, c, closed]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("id,video\n" + "".join(f'{number},"{row}"\n' for number, row in enumerate(rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_a_manifest_names_files_relative_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Sequence[object]], Path]
) -> None:
    suffix = write.__name__.removeprefix("write_")
    a, b, c = touch(tmp_path, "list/a.mp4", "b.mp4", "list/ü, one.mp4")
    names = ["a.mp4", "../b.mp4", b, "ü, one.mp4"]
    rows = names if suffix == "csv" else [{"video": name} for name in names]
    manifest = write(tmp_path / f"list/some.{suffix.upper()}", rows)
    monkeypatch.chdir(tmp_path)
    assert scan([str(manifest)]) == scan([f"list/some.{suffix.upper()}"]) == [a, b, c]
    assert scan([f"*/*.{suffix.upper()}"]) == [a, b, c]


def test_a_manifest_may_come_from_a_spreadsheet_and_hold_blank_lines(tmp_path: Path) -> None:
    table, lines = tmp_path / "table.csv", tmp_path / "lines.jsonl"
    table.write_bytes(b'\xef\xbb\xbfpath,caption\r\na.mp4,"two\r\nlines"\r\n\r\nb.mp4,\r\n')
    lines.write_bytes(b'\xef\xbb\xbf{"file": "a.mp4", "path": null}\r\n\n{"path": "b.mp4"}')
    for manifest in (table, lines):
        assert list(read_manifest(str(manifest))) == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    lines.write_text("")
    assert scan([str(lines)]) == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.jsonl", '{"path": "a.mp4"}\n\n{"caption": "x"}\n', "line 3 must have a file under path, video, file, got"),
        ("m.jsonl", '{"path": "a.mp4"}\n["b.mp4"]\n', "line 2 must have a file"),
        ("m.jsonl", '{"path": 7}\n', "line 1 must have a file"),
        ("m.jsonl", '{"path": "a.mp4"}\n\n{"path": \n', "line 3 cannot be read: Expecting value"),
        ("m.csv", "path,x\na.mp4,1\n,2\n", "line 3 must have a file"),
        ("m.csv", "name\na.mp4\n", "line 2 must have a file"),
        ("m.csv", 'path\na.mp4\n"' + "x" * 200_000 + '"\n', "line 3 cannot be read: field larger"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    manifest = tmp_path / name
    manifest.write_text(text)
    with pytest.raises(VidretError) as caught:
        scan([str(manifest)])
    assert str(caught.value).startswith(f"{manifest}: {reason}")


def test_a_manifest_that_is_no_text_or_not_there_is_said(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VidretError, match="cannot be read as a manifest"):
        scan([str(manifest)])
    dangling = tmp_path / "d.csv"
    dangling.symlink_to(tmp_path / "gone")
    with pytest.raises(VidretError, match=r"cannot be read as a manifest: .*No such file"):
        scan([str(dangling)])
