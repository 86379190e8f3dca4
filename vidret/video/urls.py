"""Videos at addresses, such as s3://bucket/a.mp4: find their stores, look at them, list them.

The only place that knows fsspec. Who may read is between fsspec and the store: environment variables and files of
theirs. Nothing is stored on disk.
"""

import datetime
import email.utils
import hashlib
import importlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vidret.errors import DecodeError, MissingExtraError, UnreachableError, VidretError
from vidret.text import strip_query
from vidret.types import NO_TIME

T = TypeVar("T")

SILENCE = 30.0  # seconds that a store may take to answer
LISTING = 600.0  # seconds for a listing
PAUSES = (0.5, 2.0)  # before asking again
DEPTH = 20  # of folders on a web server, whose links may go in circles
MEMORY = "does not exist in this process, and memory:// is of one alone"
UNREACHED = "its store cannot be reached"
WEB = ("http", "https")
TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")
TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest")


@dataclass(frozen=True, slots=True)
class UrlStat:
    """What a store says of a file, under the names that ``os.stat`` has.

    A size of 0 is not known; a time of ``NO_TIME`` or less is none, though another one means another content. ``tag``
    is a checksum or a version of the content, where the store gives one.
    """

    st_size: int
    st_mtime_ns: int
    tag: str = ""


class NoRangesError(Exception):
    """A server sends files whole only."""


# Looking


def stat_url(address: str, *, fresh: bool = False) -> UrlStat:
    """Ask a store about a file; unless ``fresh``, it may answer from the listing that this process had of it.

    Raises:
        DecodeError: It is not there, or an ``UnreachableError``: nobody can tell.
    """
    store, path = open_store(address)
    if fresh:
        store.invalidate_cache(path)
    return parse_stat(address, call_store(address, lambda: store.info(path)))


def parse_stat(address: str, info: dict[str, Any]) -> UrlStat:
    """Read size and time out of what a store says; in place of a time a tag of the content may serve.

    Raises:
        DecodeError: It is no file.
    """
    if info.get("type") == "directory":
        raise DecodeError(address, "is a folder")
    told = (_read_time(info[name]) for name in TIMES if info.get(name))
    seconds = next((each for each in told if each is not None), None)
    tag = next((str(info[name]) for name in TAGS if info.get(name)), "")
    if seconds is not None:
        changed = round(seconds * 1e9)
    else:
        changed = NO_TIME - (int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=7).digest()) if tag else 0)
    return UrlStat(info.get("size") or 0, changed, tag)


def _read_time(told: Any) -> float | None:
    """Read a time in any of the forms that stores have; None if it is none."""
    try:
        if isinstance(told, str):
            told = email.utils.parsedate_to_datetime(told) if told[:1].isalpha() else _read_iso(told)
        return told.timestamp() if isinstance(told, datetime.datetime) else float(told)
    except (TypeError, ValueError):
        return None


def _read_iso(told: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(told)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


# Listing


def expand(address: str, suffixes: frozenset[str]) -> Iterator[str]:
    """List the files that an address means: itself, or those of a folder or pattern that have a suffix, sorted.

    Raises:
        VidretError: There is nothing, or the store cannot be asked.
    """
    check_url(address)
    web = is_web(address)
    store, path = open_store(address)
    store.invalidate_cache()
    magic = _find_magic(address)
    root = address
    if magic is not None:
        root = address[: magic.start()].rpartition("/")[0] + "/"
        matches = call_store(address, lambda: store.glob(path, detail=True), LISTING)
        lists = [
            _list(address, store, name) if about["type"] == "directory" else [name] for name, about in matches.items()
        ]
        found = sorted({name for names in lists for name in names})
    else:
        about = call_store(address, lambda: store.info(path))
        # A web server knows no folders, but it lists them as pages.
        if about.get("type") != "directory" and not (web and about.get("mimetype") == "text/html"):
            yield address
            return
        found = _list(address, store, path)
    start = open_store(root)[1]
    videos = [name for name in found if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122
    if magic is not None and not videos:
        raise VidretError(f"{strip_query(address)}: no such files at this address")
    yield from (join(root, start, name) for name in videos if not name.rpartition("/")[2].startswith("._"))


def _find_magic(address: str) -> re.Match[str] | None:
    """Find where an address becomes a pattern: behind the host, and on the web before the query string."""
    start = address.index("://") + 3
    start = max(start, address.find("/", start))
    if is_web(address):
        return re.compile(r"[*\[]").search(address, start, len(address.partition("?")[0]))
    return re.compile(r"[*?\[]").search(address, start)


def _list(address: str, store: Any, path: str) -> list[str]:
    deepest = {"maxdepth": DEPTH} if is_web(address) else {}
    return sorted(call_store(address, lambda: store.find(path, **deepest), LISTING))


def join(address: str, path: str, name: str) -> str:
    """Give the address of a file from that of the folder listed, its path in the store and the file's.

    >>> join("s3://bucket/films/", "bucket/films", "bucket/films/a/b.mp4"), join("memory://", "", "/a.mp4")
    ('s3://bucket/films/a/b.mp4', 'memory://a.mp4')
    """
    inside = name.removeprefix(path.rstrip("/")).lstrip("/")
    return address + inside if address.endswith("/") else f"{address}/{inside}"


# Asking


def check_url(address: str) -> None:
    """Refuse a password in an address: an index would keep it.

    Raises:
        VidretError: There is one.
    """
    try:
        secret = urlsplit(address).password
    except ValueError:
        secret = None
    if secret is not None:
        scheme, _, rest = address.partition("://")
        shown = strip_query(f"{scheme}://{rest.rpartition('@')[2]}")
        raise VidretError(f"{shown}: an address must hold no password, got one: leave it to the store's own settings")


def open_store(address: str) -> tuple[Any, str]:
    """Give the store of an address, as a file system of fsspec, and the path in it.

    Raises:
        VidretError: fsspec is not installed, or knows no such store, or needs another package for it.
    """
    scheme = address.partition("://")[0].lower()
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise MissingExtraError(f"reading {scheme}://", "remote") from error
    try:
        kind = fsspec.get_filesystem_class(scheme)
        options = kind._get_kwargs_from_urls(address)
        # One for all threads where it bears that: it knows what it listed, and keeps its connections.
        make = _share_store if kind.async_impl else fsspec.filesystem
        return make(scheme, **options), kind._strip_protocol(address)
    except ImportError as error:
        if scheme in WEB:
            raise MissingExtraError(f"reading {scheme}://", "remote") from error
        reason = f"{scheme}:// needs a package that is not installed: {error}"
    except Exception as error:
        known = not str(error).startswith("Protocol not known")
        reason = f"{scheme}:// cannot be opened: {_first_line(error)}" if known else f"fsspec knows no {scheme}://"
    raise VidretError(f"{strip_query(address)}: {reason}")


@cache
def _share_store(scheme: str, **options: Any) -> Any:
    return importlib.import_module("fsspec").filesystem(scheme, **options)


def is_web(address: str) -> bool:
    """Say whether a web server is asked."""
    return address.partition("://")[0].lower() in WEB


def call_store(address: str, call: Callable[[], T], seconds: float = 0.0) -> T:
    """Ask a store, again if that fails; ``seconds`` more than usual may pass until whoever asks is left behind.

    Raises:
        DecodeError: The file is not there, or an ``UnreachableError``: nobody can tell.
    """
    for pause in (*PAUSES, None):
        answers: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(call, answers), daemon=True).start()
        try:
            answer, error = answers.get(timeout=SILENCE + seconds)
        except queue.Empty:
            raise UnreachableError(
                address, f"no answer from its store for {SILENCE + seconds:g} s", answered=False
            ) from None
        if error is None:
            return answer[0]
        if isinstance(error, NoRangesError | DecodeError):
            raise error
        # fsspec calls a file of a web server not found whatever went wrong, and says below what did.
        origin = error.__cause__ or error if is_web(address) else error
        reason = explain(origin)
        if reason is None:
            raise DecodeError(address, MEMORY if address.startswith("memory://") else "does not exist") from error
        if pause is None or _is_final(origin):
            raise UnreachableError(address, reason, answered=not reason.startswith(UNREACHED)) from error
        time.sleep(pause)
    raise AssertionError


def _answer(call: Callable[[], T], answers: "queue.SimpleQueue[tuple[list[T], BaseException | None]]") -> None:
    try:
        answers.put(([call()], None))
    except BaseException as error:
        answers.put(([], error))


def explain(error: BaseException) -> str | None:
    """Say why a store gave nothing; None where it says that there is nothing."""
    status = getattr(error, "status", None)
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, PermissionError) or status in (401, 403):
        return "its store refuses: permission denied"
    if isinstance(status, int):
        return f"its store answers with status {status}"
    return f"{UNREACHED}: {_first_line(error)}"


def _is_final(error: BaseException) -> bool:
    """Say whether asking again is idle: a store that answers does not change its mind in seconds, unless it is busy."""
    status = getattr(error, "status", None)
    return isinstance(error, PermissionError) or (isinstance(status, int) and status < 500 and status != 429)


def _first_line(error: BaseException) -> str:
    """Give an error's first line, without what may hold a secret."""
    line = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return re.sub(r"\?\S*", "", line)[:200]
