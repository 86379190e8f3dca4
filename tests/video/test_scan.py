"""Paths in, files out: whatever a disk holds, each video once, in a known order, and no loop without an end."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vidret.errors import VidretError
from vidret.text import with_slashes
from vidret.video.scan import VIDEO_SUFFIXES, Listing, check_paths, list_videos, read_manifest, scan


def naive_walk(folder: Path) -> list[str]:
    """List a folder's videos, then those of each of its real folders, by name."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir()]
    found = [str(entry) for entry in entries if entry not in folders and entry.suffix.lower() in VIDEO_SUFFIXES]
    for subfolder in folders:
        if not subfolder.is_symlink():
            found += naive_walk(subfolder)
    return found


def touch(folder: Path, *names: str) -> list[str]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(path) for path in paths]


def test_a_folder_is_walked_by_name(tmp_path: Path) -> None:
    names = ("b.mp4", "a.mkv", "tape/MOV001.MOD", "sub/z.webm", "sub/deep/y.MOV", "also/x.Gif", "holiday.mp4/day.mp4")
    touch(tmp_path, *names, "tape/hdv.m2t", "._a.mp4", "notes.txt", "mp4", "no.mp4.part")
    (tmp_path / "empty").mkdir()
    found = scan([str(tmp_path)])
    assert found == [path for path in naive_walk(tmp_path) if "._" not in path]  # which a Mac leaves beside each file
    expected = ["a.mkv", "b.mp4", "also/x.Gif", "holiday.mp4/day.mp4", "sub/z.webm", "sub/deep/y.MOV"]
    expected += ["tape/MOV001.MOD", "tape/hdv.m2t"]
    assert [os.path.relpath(path, tmp_path) for path in found] == expected
    assert scan([str(tmp_path / "holiday.mp4")]) == [str(tmp_path / "holiday.mp4/day.mp4")]
    assert scan([str(tmp_path / "empty")]) == scan([]) == []


def test_source_code_with_the_suffix_of_videos_is_left_out(tmp_path: Path) -> None:
    code, go, empty, film = touch(tmp_path, "app/code.ts", "app/go.mod", "empty.ts", "film.TS")
    Path(code).write_text("export const one = 1;\n")
    Path(go).write_text("module example.com/one\n")
    Path(film).write_bytes(b"G@\0\x10")
    os.mkfifo(tmp_path / "pipe.ts")
    assert scan([str(tmp_path)]) == [empty, film, str(tmp_path / "pipe.ts")]
    assert scan([code]) == [code], "what is named is not judged"


def test_folders_that_hold_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _, d = touch(tmp_path, "one/sub/a.mp4", "two/b.mp4", "notes/c.txt", "three/d.mp4")
    monkeypatch.chdir(tmp_path)
    listing = list_videos(["one/", "t*o", "notes", "three/*.mp4", str(tmp_path / "one")])
    assert listing == Listing([a, b, d], [str(tmp_path / "one"), str(tmp_path / "two")])


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
def test_patterns_leave_out_files_and_folders(tmp_path: Path, exclude: Sequence[str], left: Sequence[str]) -> None:
    touch(tmp_path, "a.mp4", "b_draft.mp4", "raw/c.mp4", "raw/proxies/d.mp4")
    expected = [str(tmp_path / name) for name in left]
    for path in (str(tmp_path), f"{tmp_path}/", str(tmp_path / "**" / "*.mp4")):
        assert sorted(list_videos([path], exclude).files) == expected
    named = [str(tmp_path / "raw" / "c.mp4")]
    assert list_videos(named, exclude).files == named


def test_files_keep_their_order_and_come_once_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, *odd = touch(tmp_path, "a.mp4", "sub/b.mp4", "a.dat", "no_suffix", "clip[1].mp4", "clip1.mp4")
    odd += touch(tmp_path, "two\nlines.mp4", os.fsdecode(b"caf\xe9.mp4"), "ünï🎬.mp4", " .mp4", "-rf.mp4")
    assert scan([b, *odd, a]) == [b, *odd, a]
    assert sorted(scan([str(tmp_path)])) == sorted(path for path in (a, b, *odd) if path.endswith(".mp4"))
    assert sorted(scan([f"{tmp_path}/*"])) == sorted((a, b, *odd))
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scan(["../a.mp4", "."]) == scan(["~/a.mp4", "~/sub"]) == scan(["~/a*.mp4", "./b.mp4", a, b]) == [a, b]


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
    for nothing in ("*.avi", "gone.mp4"):
        with pytest.raises(VidretError, match=f"{re.escape(nothing)}: no such file, folder or pattern"):
            scan([a, nothing])


def test_a_missing_mount_may_be_a_disconnected_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.video.scan.MOUNTS", re.compile(f"{re.escape(with_slashes(str(tmp_path)))}(/[^/]+)?"))
    (tmp_path / "me/stick/films").mkdir(parents=True)
    for path, is_away in (("me/disk/films", True), ("disk/*.mp4", True), ("me/stick/films/new", False)):
        with pytest.raises(VidretError, match="no such file, folder or pattern") as refused:
            check_paths([str(tmp_path / path)])
        assert str(refused.value).endswith("; its drive may be disconnected") is is_away, path


def test_an_unreadable_folder_is_listed_and_the_rest_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    path.write_text("id,video\n" + "".join(f'{row_id},"{row}"\n' for row_id, row in enumerate(rows)), encoding="utf-8")
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
        ("m.jsonl", "\udcff\udcfe\0", "cannot be read as a manifest"),
        ("m.csv", "", "cannot be read as a manifest: [Errno 2] No such file"),
    ],
)
def test_a_bad_manifest_is_named_with_the_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    manifest = tmp_path / name
    if text:
        manifest.write_text(text, errors="surrogateescape")
    else:
        manifest.symlink_to(tmp_path / "gone")
    with pytest.raises(VidretError) as caught:
        scan([str(manifest)])
    assert str(caught.value).startswith(f"{manifest}: {reason}")
