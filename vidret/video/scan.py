"""Expand paths and URLs to video files: folders, globs, and manifests that list files."""

import contextlib
import csv
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

from vidret.errors import VidretError
from vidret.text import absolute_path, as_path, is_below, is_url, parse_json, strip_query, with_slashes
from vidret.video import urls

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3g2", "3gp", "3gpp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "m2ts", "m2v", "m4v", "mkv", "mov"),
        *("mp4", "mpe", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "qt", "rm", "rmvb", "ts", "vob", "webm", "wmv"),
        *("insv", "m2t", "mod", "tod", "dvr-ms", "wtv"),  # of camcorders, and of television recorded by Windows
    )
)
MANIFEST_SUFFIXES = frozenset((".jsonl", ".csv"))
MANIFEST_COLUMNS = ("path", "video", "file")
# Folders of thumbnails, deleted files, snapshots and search indexes, of Synology and QNAP drives, Android, macOS,
# Windows and Linux desktops.
JUNK_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb", ".snapshot", ".zfs"),
        *(".thumbnails", "lost.dir", ".trash", ".trashes", ".spotlight-v100", ".documentrevisions-v100"),
        *("$recycle.bin", "system volume information"),
    )
)
MISSING = "no such file, folder or pattern"
# Folders in which Linux and macOS make a folder for each drive.
MOUNTS = re.compile("/(mnt|Volumes|(media|run/media)(/[^/]+)?)")
NO_MEDIA = ".nomedia"  # an empty file that tells Android to ignore a folder


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that paths expand to.

    Attributes:
        files: The files, absolute.
        folders: The given paths that are folders with files, absolute.
        junk: Folders inside them that were skipped: of thumbnails or deleted files, or with a ``.nomedia`` file.
    """

    files: list[str]
    folders: list[str]
    junk: list[str] = field(default_factory=list)


def scan(paths: Iterable[str]) -> list[str]:
    """Return the files of ``list_videos``."""
    return list_videos(paths).files


def list_videos(paths: Iterable[str], exclude: Sequence[str] = ()) -> Listing:
    """Return the absolute paths or URLs of the files that paths expand to, each once, in the order given.

    A folder yields its files with a video suffix, at any depth and sorted by name, but no TypeScript files and no
    go.mod. Links to files are followed; links to folders are not, so that no walk is endless. A file given by name or
    matched by a local glob is included whatever its suffix; a glob in a URL yields files with a video suffix. A .jsonl
    or .csv file is a manifest with a file in each row. No video is decoded, so that some may be unreadable.

    A file or folder found in a folder or by a glob is left out if a shell pattern of ``exclude`` matches its name, or
    its path relative to that folder or to the part of the glob without wildcards. ``*`` matches slashes. Raise
    VidretError if a path does not exist or matches nothing, a manifest cannot be read, or a store is unavailable.
    """
    listing = Listing([], [])
    files: dict[str, None] = {}
    folders: dict[str, None] = {}
    for path in paths:
        matched = (_expand_url if is_url(path) else _expand)(as_path(path), folders, exclude, listing.junk)
        for file in matched:
            name = absolute_path(file)
            if is_url(name):
                urls.check_url(name)
            files[name] = None
    listing.files.extend(files)
    listing.folders.extend(folders)
    return listing


def check_paths(paths: Iterable[str]) -> None:
    """Raise VidretError unless local paths exist or are patterns that match something."""
    for path in paths:
        local = os.path.expanduser(as_path(path))  # noqa: PTH111
        if not is_url(path) and not os.path.lexists(local) and next(_match(local), None) is None:
            raise _refuse_missing(local)


def _refuse_missing(path: str) -> VidretError:
    folders = Path(absolute_path(path)).parents
    nearest = next((folder.as_posix() for folder in folders if folder.exists()), None)  # None: a drive of Windows
    is_away = nearest is None or MOUNTS.fullmatch(nearest)
    return VidretError(f"{path}: {MISSING}{'; its drive may be disconnected' if is_away else ''}")


def is_junk_folder(name: str) -> bool:
    """Return whether a folder of this name holds thumbnails, deleted files, snapshots or the like.

    >>> is_junk_folder("@eaDir"), is_junk_folder(".Trash-1000"), is_junk_folder("holidays")
    (True, True, False)
    """
    return name.lower() in JUNK_FOLDERS or name.lower().startswith(".trash-")


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Return whether a pattern matches the name or the path of a file or of a folder above it; ``path`` is relative.

    >>> is_excluded("2023/proxies/a.mp4", ["proxies"]), is_excluded("2023/a.mp4", ["2023/*.mp4"])
    (True, True)
    >>> is_excluded("2023/a.mp4", ["*.mov"])
    False
    """
    names = path.split("/")
    below = ("/".join(names[: depth + 1]) for depth in range(len(names)))
    return any(
        fnmatchcase(part, pattern) for parts in zip(names, below, strict=True) for part in parts for pattern in exclude
    )


def _expand_url(url: str, folders: dict[str, None], exclude: Sequence[str], junk: list[str]) -> Iterator[str]:
    if os.path.splitext(strip_query(url))[1].lower() in MANIFEST_SUFFIXES:  # noqa: PTH122
        raise VidretError(f"{strip_query(url)}: a manifest must be a local file, got a URL")
    files = list(urls.expand(url, VIDEO_SUFFIXES))
    if files == [url]:
        yield url
        return
    files = list(_select(files, urls.find_root(url), exclude, junk))
    if files and all(is_below(file, url) for file in files):
        folders[url] = None
    yield from files


def _expand(path: str, folders: dict[str, None], exclude: Sequence[str], junk: list[str]) -> Iterator[str]:
    path = with_slashes(os.path.expanduser(path))  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112  a path may hold any bytes, which str keeps
        denied: list[OSError] = []
        files = list(_walk(path, denied, exclude, junk))
        if files:
            folders[absolute_path(path)] = None
        yield from files
        yield from (str(error.filename) for error in denied)  # so that they are reported as failed
    elif os.path.lexists(path):
        if Path(path).suffix.lower() in MANIFEST_SUFFIXES:
            yield from read_manifest(path)
        else:
            yield path
    elif matches := sorted({with_slashes(match) for match in _match(path)}):
        root = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
        for match in _select(matches, root, exclude, junk):
            yield from _expand(match, folders, exclude, junk)
    else:
        raise _refuse_missing(path)


def _select(found: Iterable[str], root: str, exclude: Sequence[str], junk: list[str]) -> Iterator[str]:
    """Yield the paths found below ``root`` that are neither excluded nor in a junk folder; add those to ``junk``."""
    for path in found:
        relative = path.removeprefix(root).lstrip("/")
        names = relative.split("/")
        depth = next((depth for depth, name in enumerate(names, start=1) if is_junk_folder(name)), 0)
        if depth:
            folder = path.removesuffix(relative) + "/".join(names[:depth])
            if folder not in junk:
                junk.append(folder)
        elif not is_excluded(relative, exclude):
            yield path


def _match(pattern: str) -> Iterator[str]:
    """Yield the matches of a shell pattern; ``**`` does not follow links, which may form cycles."""
    if pattern == "**" or pattern.endswith("/**"):
        pattern += "/*"
    head, deep, tail = pattern.partition("**/")
    if not deep or (head and not head.endswith("/")):
        yield from glob.glob(pattern)  # noqa: PTH207
        return
    for top in glob.glob(head) if head else [""]:  # noqa: PTH207
        for root, folders, _ in os.walk(top or "."):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from _match(os.path.join(glob.escape(root), tail))  # noqa: PTH118


def _walk(folder: str, denied: list[OSError], exclude: Sequence[str], junk: list[str]) -> Iterator[str]:
    for walked, folders, files in os.walk(folder, onerror=denied.append):
        root = with_slashes(walked)
        if NO_MEDIA in files and root != folder:
            junk.append(root)
            folders.clear()
            continue
        below = root[len(folder) :].strip("/")
        junk.extend(with_slashes(os.path.join(root, name)) for name in folders if is_junk_folder(name))  # noqa: PTH118
        folders[:] = sorted(name for name in folders if not is_junk_folder(name))
        if exclude:
            folders[:] = [name for name in folders if not is_excluded(f"{below}/{name}".lstrip("/"), exclude)]
        for name in sorted(files):
            is_video = os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("._")  # noqa: PTH122
            if is_video and not (exclude and is_excluded(f"{below}/{name}".lstrip("/"), exclude)):
                path = os.path.join(root, name)  # noqa: PTH118
                if not (name.lower().endswith((".ts", ".mod")) and _is_text(path)):  # TypeScript, and go.mod
                    yield path


def _is_text(path: str) -> bool:
    """Return whether a file begins with text: its first KiB has no zero byte, unlike that of a video."""
    if os.path.isfile(path):  # noqa: PTH113  and no pipe, which would wait for a writer
        with contextlib.suppress(OSError), Path(path).open("rb") as file:
            head = file.read(1024)
            return bool(head) and 0 not in head
    return False


def read_manifest(path: str) -> Iterator[str]:
    """Yield the files that a .jsonl or .csv manifest lists under ``path``, ``video`` or ``file``.

    Paths are relative to the folder of the manifest; URLs are absolute. Raise VidretError if a row cannot be read or
    has no file; the message contains the line number.
    """
    folder = Path(path).parent
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            for line_number, row in _read_rows(path, file):
                name = next(
                    (row[column] for column in MANIFEST_COLUMNS if isinstance(row, dict) and row.get(column)), None
                )
                if not isinstance(name, str):
                    rule = f"must have a file under {', '.join(MANIFEST_COLUMNS)}"
                    raise VidretError(f"{path}: line {line_number} {rule}, got {row!s:.200}")
                yield name if is_url(as_path(name)) else str(folder / as_path(name))
    except (OSError, UnicodeDecodeError) as error:
        raise VidretError(f"{path}: cannot be read as a manifest: {error}") from error


def _read_rows(path: str, file: TextIO) -> Iterator[tuple[int, object]]:
    """Yield each row with its line number; blank lines are counted but have no row."""
    if Path(path).suffix.lower() == ".csv":
        table = csv.DictReader(file)
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error as error:
            raise VidretError(f"{path}: line {table.line_num + 1} cannot be read: {error}") from error
        return
    for line_number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise VidretError(f"{path}: line {line_number} cannot be read: {error}") from error
            yield line_number, row
