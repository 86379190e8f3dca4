"""Videos at URLs such as s3://bucket/a.mp4: open their stores, stat and list files.

Only this module uses fsspec, which reads the credentials of stores from environment variables and from the stores'
configuration files. Nothing is cached on disk.
"""

import datetime
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
from vidret.text import NO_FILE, has_file, strip_query
from vidret.types import NO_TIME

T = TypeVar("T")

ANSWER_TIMEOUT_S = 30.0
LISTING_TIMEOUT_S = 600.0  # added for listings
RETRY_PAUSES_S = (0.5, 2.0)
MAX_WEB_DEPTH = 20  # of folders on a web server, whose links may form cycles
MEMORY = "does not exist in this process, and memory:// belongs to a single process"
UNREACHED = "its store cannot be reached"
WEB = ("http", "https")
TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")
TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest")


@dataclass(frozen=True, slots=True)
class UrlStat:
    """What a store reports about a file, with the field names of ``os.stat``.

    A size of 0 is unknown. A time of at most ``NO_TIME`` is derived from the tag and differs with the content.
    ``tag`` is a checksum or version of the content; it is empty if the store has none.
    """

    st_size: int
    st_mtime_ns: int
    tag: str = ""


class NoRangesError(Exception):
    """A server sends only whole files."""


# Stat


def stat_url(url: str, *, fresh: bool = False) -> UrlStat:
    """Return what a store reports about a file; with ``fresh``, ignore this process's cached listing.

    Raise DecodeError if it does not exist, UnreachableError if its store is unavailable.
    """
    store, path = open_store(url)
    if fresh:
        store.invalidate_cache(path)
    return parse_stat(url, call_store(url, lambda: store.info(path)))


def parse_stat(url: str, info: dict[str, Any]) -> UrlStat:
    """Return the size and time in a store's report on a file; a hash of its tag replaces a missing time.

    Raise DecodeError if it is a folder.
    """
    if info.get("type") == "directory":
        raise DecodeError(url, "is a folder")
    times = (_parse_time(info[name]) for name in TIMES if info.get(name))
    seconds = next((time_s for time_s in times if time_s is not None and abs(time_s * 1e9) < -NO_TIME), None)
    tag = next((str(info[name]) for name in TAGS if info.get(name)), "")
    if seconds is not None:
        mtime_ns = round(seconds * 1e9)
    else:
        mtime_ns = NO_TIME - (int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=7).digest()) if tag else 0)
    return UrlStat(info.get("size") or 0, mtime_ns, tag)


def _parse_time(value: Any) -> float | None:
    """Return a time, in any of the forms that stores use, as seconds since 1970; None if it is not a time."""
    import email.utils  # not above: it loads sockets and calendars, and few runs read URLs

    try:
        if isinstance(value, str):
            value = email.utils.parsedate_to_datetime(value) if value[:1].isalpha() else _parse_iso(value)
        return value.timestamp() if isinstance(value, datetime.datetime) else float(value)
    except (TypeError, ValueError):
        return None


def _parse_iso(value: str) -> datetime.datetime:
    parsed = datetime.datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


# List


def expand(url: str, suffixes: frozenset[str]) -> Iterator[str]:
    """Yield the files that a URL expands to: itself, or the files with a suffix in its folder or pattern, sorted.

    Raise VidretError if the file does not exist, a pattern matches none, or the store is unavailable.
    """
    check_url(url)
    store, path = open_store(url)
    store.invalidate_cache()
    root = find_root(url)
    has_wildcard = root != url
    if has_wildcard:
        matches = call_store(url, lambda: store.glob(path, detail=True), LISTING_TIMEOUT_S)
        lists = [
            _list_folder(url, store, name) if info["type"] == "directory" else [name] for name, info in matches.items()
        ]
        names = sorted({name for listed in lists for name in listed})
    else:
        info = call_store(url, lambda: store.info(path))
        # A web server has no folders, but lists them as pages.
        if info.get("type") != "directory" and not (is_web(url) and info.get("mimetype") == "text/html"):
            yield url
            return
        names = _list_folder(url, store, path)
    root_path = open_store(root)[1]
    videos = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122
    if has_wildcard and not videos:
        raise VidretError(f"{strip_query(url)}: no file matches this URL")
    yield from (join(root, root_path, name) for name in videos if not name.rpartition("/")[2].startswith("._"))


def find_root(url: str) -> str:
    """Return a URL up to the folder of its first wildcard, with a final slash; a URL without a wildcard unchanged."""
    wildcard = _find_wildcard(url)
    return url if wildcard is None else url[: wildcard.start()].rpartition("/")[0] + "/"


def _find_wildcard(url: str) -> re.Match[str] | None:
    """Return the first wildcard of a URL: after the host, and on the web before the query string."""
    start = url.index("://") + 3
    start = max(start, url.find("/", start))
    if is_web(url):
        return re.compile(r"[*\[]").search(url, start, len(url.partition("?")[0]))
    return re.compile(r"[*?\[]").search(url, start)


def _list_folder(url: str, store: Any, path: str) -> list[str]:
    limits = {"maxdepth": MAX_WEB_DEPTH} if is_web(url) else {}
    return sorted(call_store(url, lambda: store.find(path, **limits), LISTING_TIMEOUT_S))


def join(url: str, path: str, name: str) -> str:
    """Return the URL of a file, given the URL and the path of its folder, and its own path in the store.

    >>> join("s3://bucket/films/", "bucket/films", "bucket/films/a/b.mp4"), join("memory://", "", "/a.mp4")
    ('s3://bucket/films/a/b.mp4', 'memory://a.mp4')
    """
    relative = name.removeprefix(path.rstrip("/")).lstrip("/")
    return url + relative if url.endswith("/") else f"{url}/{relative}"


# Call


def check_url(url: str) -> None:
    """Raise VidretError for a URL with a password, which an index would store."""
    try:
        password = urlsplit(url).password
    except ValueError:
        password = None
    if password is not None:
        scheme, _, rest = url.partition("://")
        shown = strip_query(f"{scheme}://{rest.rpartition('@')[2]}")
        raise VidretError(f"{shown}: a URL must not contain a password; configure it in the settings of the store")


def open_store(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raise VidretError if fsspec is not installed, does not know the scheme, or needs another package for it, or
    UnreachableError if the video was indexed from frames: it has no file, but is not missing.
    """
    scheme = url.partition("://")[0].lower()
    if not has_file(url):
        raise UnreachableError(url, NO_FILE)
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise MissingExtraError(f"reading {scheme}://", "remote") from error
    try:
        kind = fsspec.get_filesystem_class(scheme)
        options = kind._get_kwargs_from_urls(url)
        # Asynchronous stores are safe to share between threads, which keeps listings and connections.
        make = _share_store if kind.async_impl else fsspec.filesystem
        return make(scheme, **options), kind._strip_protocol(url)
    except ImportError as error:
        if scheme in WEB:
            raise MissingExtraError(f"reading {scheme}://", "remote") from error
        reason = f"{scheme}:// needs a package that is not installed: {error}"
    except Exception as error:
        is_known = not str(error).startswith("Protocol not known")
        reason = f"{scheme}:// cannot be opened: {_first_line(error)}" if is_known else f"fsspec knows no {scheme}://"
    raise VidretError(f"{strip_query(url)}: {reason}")


@cache
def _share_store(scheme: str, **options: Any) -> Any:
    return importlib.import_module("fsspec").filesystem(scheme, **options)


def is_web(url: str) -> bool:
    """Return whether a URL is http or https."""
    return url.partition("://")[0].lower() in WEB


def call_store(url: str, call: Callable[[], T], extra_s: float = 0.0) -> T:
    """Return the result of a call to a store about a file; a failed call is retried.

    The call runs in a thread that is abandoned after ``ANSWER_TIMEOUT_S + extra_s`` seconds. Raise DecodeError if the
    file does not exist, or UnreachableError if its store is unavailable.
    """
    timeout_s = ANSWER_TIMEOUT_S + extra_s
    for pause_s in (*RETRY_PAUSES_S, None):
        results: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=_run_call, args=(call, results), daemon=True).start()
        try:
            result, error = results.get(timeout=timeout_s)
        except queue.Empty:
            raise UnreachableError(url, f"no answer from its store for {timeout_s:g} s", answered=False) from None
        if error is None:
            return result[0]
        if isinstance(error, NoRangesError | DecodeError):
            raise error
        # For a web server fsspec raises FileNotFoundError whatever went wrong; the cause is the real error.
        origin = error.__cause__ or error if is_web(url) else error
        reason = describe_store_error(origin)
        if reason is None:
            raise DecodeError(url, MEMORY if url.startswith("memory://") else "does not exist") from error
        if pause_s is None or _is_final(origin):
            raise UnreachableError(url, reason, answered=not reason.startswith(UNREACHED)) from error
        time.sleep(pause_s)
    raise AssertionError


def _run_call(call: Callable[[], T], results: "queue.SimpleQueue[tuple[list[T], BaseException | None]]") -> None:
    try:
        results.put(([call()], None))
    except BaseException as error:
        results.put(([], error))


def describe_store_error(error: BaseException) -> str | None:
    """Return why a call to a store failed; None if the file does not exist."""
    status = getattr(error, "status", None)
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, PermissionError) or status in (401, 403):
        return "its store refuses: permission denied"
    if isinstance(status, int):
        return f"its store answers with status {status}"
    return f"{UNREACHED}: {_first_line(error)}"


def _is_final(error: BaseException) -> bool:
    """Return whether a retry is pointless: the store refused, for another reason than being busy."""
    status = getattr(error, "status", None)
    return isinstance(error, PermissionError) or (isinstance(status, int) and status < 500 and status != 429)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error without query strings, which may hold a secret."""
    line = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return re.sub(r"\?\S*", "", line)[:200]
