"""Safe opening of indexed files: only regular files, and no symbolic link that replaced one after indexing.

Anyone who can write to a folder of videos could replace one by a link to a file that only the server may read. A path
without links may hold any content, such as a new recording. A path that leads through a link, in its last component or
above, must hold a file with the size and time in the index. So folders of links can be indexed and served.
"""

import logging
import os
import stat
import sys
from tempfile import TemporaryDirectory
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from vidret.engine import Engine
from vidret.errors import DecodeError, is_out_of_files
from vidret.store.records import StoredVideo
from vidret.text import NO_FILE, has_file, is_url
from vidret.video.files import FileStat, has_changed

logger = logging.getLogger(__name__)

NO_BODY = "vidret.no-body"  # a key in the scope of a HEAD request
GONE = "its file is gone"
RELINKED = "lies behind a link, and has changed since it was indexed: index it again"


def open_video(engine: Engine, video: StoredVideo) -> tuple[str, BinaryIO | None]:
    """Return the first readable path of a video with its open file, or an unchecked URL with None.

    Raises:
        DecodeError: No path can be read.
    """
    failures = []
    for path in video.paths:
        if not has_file(path):
            failures.append(DecodeError(path, NO_FILE))
            continue
        if is_url(path):
            return path, None
        try:
            return path, open_indexed(engine, path)
        except DecodeError as error:
            failures.append(error)
    raise next((error for error in failures if error.reason != GONE), failures[0])


def stat_video(engine: Engine, video: StoredVideo) -> tuple[str, FileStat | None]:
    """Return the path of ``open_video`` with the status of its file, for another process that decodes the file."""
    path, file = open_video(engine, video)
    if file is None:
        return path, None
    with file:
        return path, os.fstat(file.fileno())


def open_indexed(engine: Engine, path: str) -> BinaryIO:
    """Open a file of the index.

    Raises:
        DecodeError: It cannot be read.
        OSError: This process has too many open files.
    """
    try:
        if not os.path.isfile(path):  # noqa: PTH113  opening a device may have side effects
            raise DecodeError(path, GONE)
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115  a pipe must not block
    except OSError as error:
        if is_out_of_files(error):  # not the fault of this file
            raise
        raise DecodeError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(path, GONE)
        if leads_through_link(path, file):
            record = engine.file(path)
            if record is None or has_changed(status, record.num_bytes, record.mtime_ns):
                raise DecodeError(path, RELINKED)
    except BaseException:
        file.close()
        raise
    return file


def leads_through_link(path: str, file: BinaryIO) -> bool:
    """Return whether the location of an open file differs from its path."""
    try:
        return os.readlink(f"/proc/self/fd/{file.fileno()}") != path  # noqa: PTH115  of the open file
    except OSError:  # not Linux
        real = os.path.normcase(os.path.realpath(path))
        return real != os.path.normcase(path) or not os.path.samestat(os.stat(path), os.fstat(file.fileno()))  # noqa: PTH116


def send_announced(send: Send) -> Send:
    """Return a ``send`` that ends a response at the length in its head, since a recording may still grow.

    It raises OSError if there are fewer bytes, as when the file is overwritten during the response.
    """
    left, is_ended = 0, False

    async def send_on(message: Message) -> None:
        nonlocal left, is_ended
        if message["type"] == "http.response.start":
            left = int(Headers(raw=message["headers"]).get("content-length", 0))
        elif not is_ended:
            body = message.get("body", b"")[:left]
            left -= len(body)
            if left and not message.get("more_body", False):
                raise OSError(f"{left} bytes are missing")
            is_ended = not left
            message = {**message, "body": body, "more_body": not is_ended}
        else:
            return
        await send(message)

    return send_on


class OpenFileResponse(FileResponse):
    """A response with the content of an open file, even if its path leads to another file by now. It closes the file.

    On Windows, an open file cannot be replaced.
    """

    def __init__(
        self,
        file: BinaryIO,
        media_type: str,
        filename: str | None = None,
        folder: TemporaryDirectory[str] | None = None,
    ) -> None:
        """Send a file, then remove its temporary ``folder``, if one is given."""
        path = file.name if sys.platform == "win32" else f"/dev/fd/{file.fileno()}"
        super().__init__(path, media_type=media_type, stat_result=os.fstat(file.fileno()), filename=filename)
        self._file, self._folder = file, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file or the requested ranges; no content if the client's cached copy is current."""
        etag = self.headers["etag"]
        is_kept = etag in Headers(scope=scope).get("if-none-match", "")
        answer = Response(status_code=304, headers={"ETag": etag}) if is_kept else super().__call__
        try:
            if NO_BODY in scope:  # else the whole file would be read
                await answer({**scope, "method": "HEAD"}, receive, send)
            else:
                await answer(scope, receive, send_announced(send))
        except (OSError, RuntimeError) as error:  # the connection is closed, so that the client knows
            logger.warning("%s: sent in part (%s)", self._file.name, error)
        finally:
            self._file.close()
            if self._folder is not None:
                self._folder.cleanup()
