"""Which files a person means by the paths and addresses given: files, folders, globs, manifests that list them."""

import csv
import glob
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vidret.errors import VidretError
from vidret.text import absolute_path, as_path, is_url, strip_query
from vidret.video import urls

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv"),
        *("ts", "vob", "webm", "wmv"),
    )
)
MANIFEST_SUFFIXES = frozenset((".jsonl", ".csv"))
COLUMNS = ("path", "video", "file")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that paths mean, and the folders among these paths, absolute, in which files were found."""

    files: list[str]
    folders: list[str]


def scan(paths: Iterable[str]) -> list[str]:
    """Return the files of ``list_videos``."""
    return list_videos(paths).files


def list_videos(paths: Iterable[str]) -> Listing:
    """List the absolute paths or addresses of the files meant, each once, in the order given; folders go by name.

    A folder gives its files with a video's suffix, those that are no videos after all included: whoever reads them says
    why not. Links to files are followed, links to folders are not, so that no loop can trap a walk. A file given by
    name is taken whatever its suffix; a .jsonl or .csv file is a manifest that names a file in each row. Of addresses
    folders and globs give what has a video's suffix.

    Raises:
        VidretError: A path does not exist or matches nothing, a manifest cannot be read, or a store cannot be asked.
    """
    found: dict[str, None] = {}
    folders: dict[str, None] = {}
    for path in paths:
        for file in _expand_address(path, folders) if is_url(path) else _expand(as_path(path), folders):
            name = absolute_path(file)
            if is_url(name):
                urls.check_url(name)
            found[name] = None
    return Listing(list(found), list(folders))


def lies_below(path: str, folder: str) -> bool:
    """Return whether an absolute path or address lies in a folder, at any depth.

    >>> lies_below("/films/a/b.mp4", "/films"), lies_below("/films2/b.mp4", "/films"), lies_below("/b.mp4", "/")
    (True, False, True)
    """
    return path.startswith(folder.rstrip("/") + "/")


def _expand_address(address: str, folders: dict[str, None]) -> Iterator[str]:
    if os.path.splitext(strip_query(address))[1].lower() in MANIFEST_SUFFIXES:  # noqa: PTH122
        raise VidretError(f"{strip_query(address)}: a manifest must be a file here, got an address")
    found = list(urls.expand(address, VIDEO_SUFFIXES))
    if found and all(lies_below(each, address) for each in found):
        folders[address] = None
    yield from found


def _expand(path: str, folders: dict[str, None]) -> Iterator[str]:
    path = os.path.expanduser(path)  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112  paths may hold any bytes: plain strings carry them
        denied: list[OSError] = []
        found = list(_walk(path, denied))
        if found:
            folders[absolute_path(path)] = None
        yield from found
        yield from (str(error.filename) for error in denied)  # listed, so that they fail with their reason
    elif os.path.lexists(path):
        if Path(path).suffix.lower() in MANIFEST_SUFFIXES:
            yield from read_manifest(path)
        else:
            yield path
    elif matches := sorted(set(_match(path))):
        for match in matches:
            yield from _expand(match, folders)
    else:
        raise VidretError(f"{path}: no such file, folder or pattern")


def _match(pattern: str) -> Iterator[str]:
    """Match as a shell does; ``**`` goes down into folders, but not through links: two loops would never end."""
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


def _walk(folder: str, denied: list[OSError]) -> Iterator[str]:
    for root, folders, files in os.walk(folder, onerror=denied.append):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("._"):  # noqa: PTH122
                yield os.path.join(root, name)  # noqa: PTH118


def read_manifest(path: str) -> Iterator[str]:
    """Read the files that a .jsonl or .csv manifest lists under path, video or file, relative to its own folder.

    An address stands for itself.

    Raises:
        VidretError: A row cannot be read or names no file; the message holds the line's number.
    """
    folder = Path(path).parent
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            for number, row in _read_rows(path, file):
                named = next((row[column] for column in COLUMNS if isinstance(row, dict) and row.get(column)), None)
                if not isinstance(named, str):
                    raise VidretError(f"{path}: line {number} must name a file under {', '.join(COLUMNS)}, got {row}")
                yield named if is_url(as_path(named)) else str(folder / as_path(named))
    except (OSError, UnicodeDecodeError) as error:
        raise VidretError(f"{path}: cannot be read as a manifest: {error}") from error


def _read_rows(path: str, file: TextIO) -> Iterator[tuple[int, object]]:
    """Give each row with the number of its line; blank lines count and say nothing."""
    if Path(path).suffix.lower() == ".csv":
        table = csv.DictReader(file)
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error as error:
            raise VidretError(f"{path}: line {table.line_num + 1} cannot be read: {error}") from error
        return
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise VidretError(f"{path}: line {number} cannot be read: {error}") from error
            yield number, row
