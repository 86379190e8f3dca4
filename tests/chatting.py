"""A chat endpoint on this machine that answers as a test wants: right, wrong, slowly, broken, in a stream."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the endpoint sends back."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay_s: float = 0.0


@dataclass
class Chat:
    """A running endpoint: its URL, and the requests that it got."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def say(text: str) -> Reply:
    """Return a completion."""
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


def stream(*pieces: str, is_complete: bool = True, more: bytes = b"") -> Reply:
    """Return a streamed completion, with ``more`` at its end."""
    events = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
    events += ["[DONE]"] if is_complete else []
    body = "".join(f"data: {event}\n\n" for event in events)
    return Reply(body.encode() + more, headers={"Content-Type": "text/event-stream"})


def run_chat(answer: Callable[[int], Reply]) -> AbstractContextManager[Chat]:
    """Run an endpoint whose n-th request, from 0 on, gets ``answer(n)``."""
    return run_endpoint(lambda _request, number: answer(number))


@contextmanager
def run_endpoint(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[Chat]:
    """Run an endpoint whose n-th request, from 0 on, gets ``answer(request, n)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(body)
            reply = answer(request, len(chat.requests))
            chat.requests.append(request)
            chat.headers.append({**dict(self.headers), "path": self.path})
            time.sleep(reply.delay_s)
            try:
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:
                pass  # the client has given up

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat = Chat(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
