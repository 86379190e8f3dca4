"""A server that says what it is told to, as ``vidret serve`` would say it, and remembers what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_servers import QuietHandler, run_handler

HIT = {
    "video": 7,
    "path": "/films/red.mp4",
    "title": "red",
    "duration": 90.0,
    "segment": 2,
    "start": 24.0,
    "end": 36.0,
    "time": 30.5,
    "score": 0.75,
    "probability": 0.9,
    "likelihood": "likely",
    "weak": False,
    "copies": ["/films/copy.mp4"],
    "why": {"frames": 0.75},
    "thumbnail": "/api/thumbnails/7?t=30.5",
    "stream": "/api/videos/7/stream",
}
MOMENT = {
    "video": 7,
    "path": "/films/red.mp4",
    "title": "red",
    "start": 25.0,
    "end": 31.5,
    "score": 0.5,
    "probability": 0.125,
    "likelihood": "unlikely",
    "weak": True,
    "by": "curve",
    "similarity": 0.25,
    "thumbnail": "/api/thumbnails/7?t=28.25",
    "stream": "/api/videos/7/stream",
}
VIDEO = {
    "id": 7,
    "title": "red",
    "path": "/films/red.mp4",
    "copies": ["/films/copy.mp4"],
    "duration": 90.0,
    "width": 64,
    "height": 48,
    "fps": 5.0,
    "complete": True,
    "salvaged": "",
    "segments": 8,
    "changed": "2026-01-31T18:30:00+00:00",
    "missing": False,
}
TEXT = {"start": 12.5, "end": 15.0, "text": "Welcome.", "source": "speech", "confidence": 0.9, "language": "en"}
CURVE = {
    "times": [0.5, 1.5],
    "scores": [0.25, 0.5],
    "start": 0.0,
    "end": 2.0,
    "best": 0.5,
    "weak": False,
    "typical": 0.3,
    "moments": [MOMENT],
}


@dataclass(frozen=True)
class Reply:
    """One answer: JSON unless it is bytes; ``hangs_up`` closes the connection after it, and does not say so."""

    content: Any
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False

    def encode(self) -> bytes:
        """Give the bytes of the answer."""
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


def problem(status: int, detail: str, *, kind: str = "failure", **headers: str) -> Reply:
    """Say what is wrong as the contract does."""
    content = {"type": "about:blank", "title": "wrong", "status": status, "detail": detail, "kind": kind}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(content, status, "application/problem+json", named)


@dataclass(frozen=True)
class Asked:
    """One request: where it went, what its body held, with which headers, and over which connection it came."""

    line: str
    body: Any
    headers: dict[str, str]
    port: int


@dataclass
class Served:
    """A running server: ``replies`` are given in turn, the last again and again."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Served]:
    """Run a server on a free port."""
    served = Served()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            line = f"{self.command} {self.path}"
            served.asked.append(Asked(line, json.loads(content or b"null"), headers, self.client_address[1]))
            reply = served.replies.pop(0) if len(served.replies) > 1 else served.replies[0]
            self.reply(reply.status, {"Content-Type": reply.kind, **reply.headers}, reply.encode())
            self.close_connection |= reply.hangs_up

    with run_handler(Handler) as url:
        served.url = url
        yield served
