"""Open the files that an index names: what is there must be a regular file, and no link may have been put in its place.

Whoever may write to a folder of videos could replace one by a link, and have the server send what only it may read. A
path without links may hold anything, as new recordings do. One that leads through a link, in the file's own place or
above it, must hold a file of the size and time that the index recorded: so folders of links can be indexed and served.
"""

import os
import stat
from typing import BinaryIO

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.store.records import StoredVideo
from vidret.text import is_url

GONE = "its file is gone"
RELINKED = "lies behind a link, and has changed since it was indexed: index it again"


def open_video(engine: Engine, video: StoredVideo) -> tuple[str, BinaryIO | None]:
    """Return a video's first path that can be read, and the open file there; None for an address, which is not asked.

    Raises:
        DecodeError: There is none, and why.
    """
    failures = []
    for path in video.paths:
        if is_url(path):
            return path, None
        try:
            return path, open_indexed(engine, path)
        except DecodeError as error:
            failures.append(error)
    raise next((error for error in failures if error.reason != GONE), failures[0])


def open_indexed(engine: Engine, path: str) -> BinaryIO:
    """Open a file of the index.

    Raises:
        DecodeError: It is gone, cannot be read, is no regular file, or not the one that was indexed.
    """
    try:
        if not os.path.isfile(path):  # noqa: PTH113  to open a device may do something
            raise DecodeError(path, GONE)
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # a pipe put there just now must not block
    except OSError as error:
        raise DecodeError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise DecodeError(path, GONE)
        if leads_through_link(path, file):
            record = engine.file(path)
            if record is None or (record.num_bytes, record.mtime_ns) != (about.st_size, about.st_mtime_ns):
                raise DecodeError(path, RELINKED)
    except BaseException:
        file.close()
        raise
    return file


def leads_through_link(path: str, file: BinaryIO) -> bool:
    """Return whether an open file lies elsewhere than its path says."""
    try:
        return os.readlink(f"/proc/self/fd/{file.fileno()}") != path  # noqa: PTH115  of the file that is open
    except OSError:  # no Linux
        return os.path.realpath(path) != path or not os.path.samestat(os.stat(path), os.fstat(file.fileno()))  # noqa: PTH116


class OpenFileResponse(FileResponse):
    """Send a file that is open already, and close it: its path may lead to another one by now."""

    def __init__(self, file: BinaryIO, media_type: str) -> None:
        """Take the file."""
        descriptor = file.fileno()
        super().__init__(f"/dev/fd/{descriptor}", media_type=media_type, stat_result=os.fstat(descriptor))
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or the ranges that are asked for."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()
