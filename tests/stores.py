"""A web server of files that records what it sends, and can ignore ranges, break or stay silent."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.http_servers import run_handler


@dataclass
class FileServer:
    """The behaviour of a server, and the byte ranges that it sent, as (path, start, end)."""

    url: str
    ranges: bool = True
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the next requests, which fail
    most_bytes: int | None = None  # in total; then connections break
    silent: threading.Event | None = None  # no response until this is set
    closed: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(end - start for _, start, end in self.sent)


@contextmanager
def serve_files(folder: Path, **how: Any) -> Iterator[FileServer]:
    """Serve a folder on localhost, with subfolders as pages of links."""
    state = FileServer("", **how)

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            if not self._fail():
                super().do_HEAD()

        def do_GET(self) -> None:
            path = self.translate_path(self.path)
            if self._fail():
                return
            if not os.path.isfile(path):  # noqa: PTH113
                super().do_GET()
                return
            size = Path(path).stat().st_size
            asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if state.ranges else None
            start, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
            if state.most_bytes is not None and state.num_bytes + end - start > state.most_bytes:
                self.close_connection = True
                return
            state.sent.append((self.path, start, end))
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "video/mp4")
            self.end_headers()
            with Path(path).open("rb") as file:
                file.seek(start)
                try:
                    self.wfile.write(file.read(end - start))
                except ConnectionError:  # the client closed the connection
                    self.close_connection = True

        def _fail(self) -> bool:
            if state.silent is not None:
                state.silent.wait()
                self.close_connection = True
                return True
            if state.closed:
                self.close_connection = True
                return True
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return True
            return False

    with run_handler(Handler) as url:
        state.url = url
        try:
            yield state
        finally:
            if state.silent is not None:
                state.silent.set()
