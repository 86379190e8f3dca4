"""Names and times: as people read them, and as an index keeps them."""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

# Two letters at least: one is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_FILES = ("file", "local")


def printable(text: str) -> str:
    """Make any file name fit to be shown: bytes that are no text and line ends become marks."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)


def short(path: str) -> str:
    """Write a path as it can be typed here: from the current folder where it lies below it, else whole."""
    if is_address(path):
        return printable(path)
    below = os.path.relpath(path)
    return printable(path if below.startswith(os.pardir) else below)


def is_address(path: str) -> bool:
    """Say whether this names what lies elsewhere; file:// names a path.

    >>> is_address("s3://bucket/a.mp4"), is_address("file:///a.mp4"), is_address("a:b.mp4"), is_address("C://a.mp4")
    (True, False, False, False)
    """
    scheme = _SCHEME.match(path)
    return scheme is not None and scheme[1].lower() not in _FILES


def as_path(path: str) -> str:
    """Turn what begins with file:// into the path that it means; all else stays as it is.

    >>> as_path("file:///films/a%20b.mp4"), as_path("s3://bucket/a%20b.mp4")
    ('/films/a b.mp4', 's3://bucket/a%20b.mp4')
    """
    scheme = _SCHEME.match(path)
    if scheme is None or scheme[1].lower() not in _FILES:
        return path
    named = path[scheme.end() :]
    return os.fsdecode(unquote_to_bytes(os.fsencode(named.removeprefix("localhost"))))


def absolute(path: str | os.PathLike[str]) -> str:
    """Name a file as an index does: by its whole path, links kept as they are, or by its address as it stands."""
    name = as_path(os.fspath(path))
    return name if is_address(name) else os.path.abspath(name)  # noqa: PTH100  Path.resolve would follow links


def tellable(path: str) -> str:
    """Name a file in a message: an address without its query string, which may hold a signature.

    >>> tellable("https://host/a.mp4?signature=5f"), tellable("/films/why?.mp4")
    ('https://host/a.mp4', '/films/why?.mp4')
    """
    return path.partition("?")[0] if is_address(path) else path


def file_name(path: str) -> str:
    """Give the last part of a path, or of an address without its query string."""
    return Path(tellable(path)).name


def clock(seconds: float) -> str:
    """Write a time as people read it.

    >>> clock(75.25), clock(3675)
    ('1:15.2', '1:01:15.0')
    """
    minutes, tenths = divmod(int(seconds * 10 + 1e-6), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
