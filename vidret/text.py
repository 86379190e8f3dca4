"""Paths, URLs, names, times and JSON: their stored forms, their safe forms for output, and how people read them."""

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

# At least two letters: a single one is a Windows drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DRIVE = re.compile(r"/[A-Za-z]:")
# What follows a letter and \w lacks: vowel signs, as of Hindi and Thai, accents, and joiners, as of Persian.
MARKS = "\u200c\u200d" + "".join(
    letter
    for letter in map(chr, (*range(0x300, 0x1E00), 0x3099, 0x309A, *range(0xA800, 0xAC00)))
    if unicodedata.category(letter) in ("Mn", "Mc")
)
MENTION_NAME = rf"[^\W\d_][\w{MARKS}-]{{0,63}}"  # the name after an @ in a query
_FILE_SCHEMES = ("file", "local")
# Control characters, line ends, surrogates of undecodable bytes, bidirectional controls, characters that XML forbids,
# and invisible copies of ASCII, which could hide an instruction. Other invisible characters belong to names and words:
# the narrow space in names of screen recordings, joiners in Persian, Hindi and emoji.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]")
FRAMES_SCHEME = "frames"  # of videos that were indexed from frames in memory, without a file
NO_FILE = "was indexed from frames in memory, and has no file"


def sanitize(text: str) -> str:
    """Return text with every control character, undecodable byte, line end and reversal replaced by U+FFFD."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from an untrusted source.

    Raises:
        ValueError: It is not JSON, or is nested more deeply than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON must not be nested this deeply") from None


def map_texts(change: Callable[[str], str], value: Any) -> Any:
    """Return a JSON value with each text in it changed, and with tuples as lists; keys stay.

    >>> map_texts(str.upper, {"a": ["b", ("c", 1)]})
    {'a': ['B', ['C', 1]]}
    """
    match value:
        case str():
            return change(value)
        case list() | tuple():
            return [map_texts(change, item) for item in value]
        case dict():
            return {key: map_texts(change, item) for key, item in value.items()}
    return value


def show_path(path: str) -> str:
    """Return a path for any output: printable, and a URL without its query string, which may hold a signature.

    >>> show_path("https://host/a.mp4?signature=5f")
    'https://host/a.mp4'
    """
    return sanitize(strip_query(path))


def display_path(path: str) -> str:
    """Return a path to type here: as by ``show_path``, but relative if it is in the current folder."""
    if is_url(path):
        return show_path(path)
    absolute, here = absolute_path(path), absolute_path(os.curdir).rstrip("/")
    return show_path(absolute.removeprefix(f"{here}/") if is_below(absolute, here) else path)


def is_url(path: str) -> bool:
    """Return whether a string is the URL of a remote file; ``file://`` URLs count as local paths.

    >>> is_url("s3://bucket/a.mp4"), is_url("file:///a.mp4"), is_url("a:b.mp4"), is_url("C://a.mp4")
    (True, False, False, False)
    """
    scheme = _SCHEME.match(path)
    return scheme is not None and scheme[1].lower() not in _FILE_SCHEMES


def has_file(path: str) -> bool:
    """Return whether a path of an index is that of a file, not the name of frames from memory.

    >>> has_file("/films/a.mp4"), has_file("s3://bucket/a.mp4"), has_file("frames://camera/3")
    (True, True, False)
    """
    return not path.startswith(f"{FRAMES_SCHEME}://")


def as_path(path: str) -> str:
    """Return the local path of a ``file://`` URL; any other string is returned unchanged.

    >>> as_path("file:///films/a%20b.mp4"), as_path("s3://bucket/a%20b.mp4")
    ('/films/a b.mp4', 's3://bucket/a%20b.mp4')
    """
    scheme = _SCHEME.match(path)
    if scheme is None or scheme[1].lower() not in _FILE_SCHEMES:
        return path
    encoded = path[scheme.end() :]
    local = os.fsdecode(unquote_to_bytes(os.fsencode(encoded.removeprefix("localhost"))))
    return local[1:] if os.name == "nt" and _DRIVE.match(local) else local


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return the name under which an index stores a file: its absolute path with symlinks kept, or its URL as given.

    On Windows, too, paths are stored with slashes; the drive letter is a capital.
    """
    name = as_path(os.fspath(path))
    if is_url(name):
        return name
    local = with_slashes(os.path.abspath(name))  # noqa: PTH100  Path.resolve would follow links
    return local[0].upper() + local[1:] if local[1:2] == ":" else local


def with_slashes(path: str) -> str:
    """Return a path of this system with forward slashes, which Windows accepts, too."""
    return path.replace(os.sep, "/")


def is_below(path: str, folder: str) -> bool:
    """Return whether an absolute path or URL is in a folder, at any depth.

    >>> is_below("/films/a/b.mp4", "/films"), is_below("/films2/b.mp4", "/films"), is_below("/b.mp4", "/")
    (True, False, True)
    """
    return path.startswith(folder.rstrip("/") + "/")


def strip_query(path: str) -> str:
    """Return a URL without its query string, which may hold a signature; a local path is returned unchanged.

    >>> strip_query("https://host/a.mp4?signature=5f"), strip_query("/films/why?.mp4")
    ('https://host/a.mp4', '/films/why?.mp4')
    """
    return path.partition("?")[0] if is_url(path) else path


def is_utf8(path: str) -> bool:
    """Return whether a path can be encoded as UTF-8; paths with undecodable bytes cannot.

    >>> is_utf8("a.mp4"), is_utf8(os.fsdecode(bytes([255])))
    (True, False)
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def compose(path: str) -> str:
    """Return a path as people type it, with accented letters as one character (NFC); macOS stores two (NFD)."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def has_words(path: str, words: str) -> bool:
    """Return whether a path contains each of some words, in any case of letters.

    >>> has_words("/films/Anna's Birthday 2024.mov", "2024 birthday"), has_words("/films/beach.mov", "birthday")
    (True, False)
    """
    folded = compose(path).casefold()
    return all(word in folded for word in compose(words).casefold().split())


def make_handle(name: str) -> str:
    """Return the handle of a name, which follows an @ in a query.

    >>> make_handle(" Anna  Maria"), make_handle("Jose\N{COMBINING ACUTE ACCENT}")
    ('anna-maria', 'josé')
    """
    return "-".join(compose(name).casefold().split())


def escape_formula(text: str) -> str:
    """Return text that no spreadsheet reads as a formula in a CSV file.

    >>> escape_formula("=HYPERLINK(A1)"), escape_formula("a=b")
    ("'=HYPERLINK(A1)", 'a=b')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def file_name(path: str) -> str:
    """Return the last component of a path, or of a URL without its query string."""
    return Path(strip_query(path)).name


def format_probability(probability: float) -> str:
    """Return a probability in percent; only certainty is shown as 0 or 100 %.

    >>> format_probability(0.646), format_probability(0.002), format_probability(0.999)
    ('65 %', '<1 %', '>99 %')
    """
    percent = round(100 * probability)
    if percent == 0 < probability:
        return "<1 %"
    return ">99 %" if percent == 100 and probability < 1 else f"{percent} %"


def format_count(number: int, noun: str) -> str:
    """Return a number with a regular noun, in the plural unless the number is 1.

    >>> format_count(1, "video"), format_count(0, "query"), format_count(2, "day")
    ('1 video', '0 queries', '2 days')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith(("ry", "py")) else f"{number} {noun}s"


def cut_to_tenths(seconds: float) -> int:
    """Return the tenths of a second in a time, truncated, as ``format_time`` shows them."""
    return int(seconds * 10 + 1e-6)


def format_time(seconds: float) -> str:
    """Return a time as ``minutes:seconds`` or ``hours:minutes:seconds``, truncated to tenths of a second.

    >>> format_time(75.29), format_time(3675)
    ('1:15.2', '1:01:15.0')
    """
    minutes, tenths = divmod(cut_to_tenths(seconds), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
