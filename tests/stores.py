"""A web server of files that counts what it sends, and can be slow of understanding, broken or silent."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class FileServer:
    """How a server behaves, and the ranges that it sent, as (path, start, end)."""

    url: str
    ranges: bool = True
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # that the next requests get in place of an answer
    most_bytes: int | None = None  # of all; then it breaks
    silent: threading.Event | None = None  # it says nothing until this is set
    closed: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(end - start for _, start, end in self.sent)


@contextmanager
def serve_files(folder: Path, **how: Any) -> Iterator[FileServer]:
    """Serve a folder on this machine, its subfolders as pages of links."""
    told = FileServer("", **how)

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            if not self._refuse():
                super().do_HEAD()

        def do_GET(self) -> None:
            path = self.translate_path(self.path)
            if self._refuse():
                return
            if not os.path.isfile(path):  # noqa: PTH113
                super().do_GET()
                return
            size = Path(path).stat().st_size
            asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if told.ranges else None
            start, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
            if told.most_bytes is not None and told.num_bytes + end - start > told.most_bytes:
                self.close_connection = True
                return
            told.sent.append((self.path, start, end))
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
                except ConnectionError:  # whoever asked has seen enough
                    self.close_connection = True

        def _refuse(self) -> bool:
            if told.silent is not None:
                told.silent.wait()
                self.close_connection = True
                return True
            if told.closed:
                self.close_connection = True
                return True
            if told.statuses:
                self.send_error(told.statuses.pop(0))
                return True
            return False

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        if told.silent is not None:
            told.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()
