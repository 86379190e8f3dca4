"""The watches of an index: queries that it keeps, to report which videos added later match them."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.disk import open_handle, unlock, wait_for_lock
from vidret.store.folder import check_entries

FILE, LOCK = "watches.json", "watches.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A query that is asked of every video once, when it is complete.

    Attributes:
        name: Its name.
        query: Text.
        last_video: The greatest id of a video at the last report; ids only grow.
        unreported: Ids up to that one of videos that were not there or not complete then, rising.
    """

    name: str
    query: str
    last_video: int
    unreported: tuple[int, ...] = ()

    def is_new(self, video: int) -> bool:
        """Return whether a video has not been reported yet."""
        return video > self.last_video or video in self.unreported

    def move(self, contents: Mapping[str, int], target: Mapping[str, int]) -> "Watch":
        """Return this watch for another index, given the ids of videos by content in its own and in the other one.

        It still has to report there what it has not reported here, and what is not here.
        """
        new = (video for content, video in target.items() if content not in contents or self.is_new(contents[content]))
        return replace(self, last_video=max(target.values(), default=0), unreported=tuple(sorted(new)))


def read_watches(index: Path) -> list[Watch]:
    """Return the watches of an index, in the order in which they were added.

    Raises:
        StoreError: Their file cannot be read, or the folder holds a link.
    """
    check_entries(index)
    path = index / FILE
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_text("utf-8"))
        rows = document["watches"]
        if document["checksum"] != _checksum(rows):
            raise ValueError("the checksum does not match; run vidret info --repair, and add them again")
        return [Watch(**{**row, "unreported": tuple(row.get("unreported", ()))}) for row in rows]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: cannot be read as watches: {error}") from error


@contextmanager
def change_watches(index: Path) -> Iterator[list[Watch]]:
    """Yield the watches of an index as a list to change, which is written at the end. Others wait meanwhile.

    Raises:
        StoreError: Their file cannot be read or written; the old one stays.
    """
    check_entries(index)
    try:
        handle = open_handle(index / LOCK, write=True)
    except OSError as error:
        raise StoreError(f"{index / LOCK}: cannot be written: {error.strerror}") from error
    try:
        wait_for_lock(handle)
        watches = read_watches(index)
        known = list(watches)
        yield watches
        if watches != known:
            write_watches(index, watches)
    finally:
        unlock(handle)
        os.close(handle)


def write_watches(index: Path, watches: Sequence[Watch]) -> None:
    """Replace the watches of an index, of which others must not change any meanwhile; see ``change_watches``.

    Raises:
        StoreError: Their file cannot be written; the old one stays.
    """
    path = index / FILE
    draft = path.with_suffix(".tmp")
    try:
        draft.unlink(missing_ok=True)
        with draft.open("x", encoding="utf-8") as file:  # never through a link
            rows = [asdict(watch) for watch in watches]
            json.dump({"checksum": _checksum(rows), "watches": rows}, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # noqa: PTH105  a run that is killed leaves the old file
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}") from error


def find_damaged_watches(index: Path, *, repair: bool) -> str:
    """Return why the watches of an index cannot be read, '' if they can; ``repair`` deletes them."""
    try:
        read_watches(index)
    except StoreError as error:
        if repair:
            (index / FILE).unlink()
        return str(error)
    return ""


def _checksum(rows: object) -> int:
    return zlib.crc32(json.dumps(rows, sort_keys=True).encode())
