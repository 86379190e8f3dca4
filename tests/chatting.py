"""A chat endpoint on this machine that answers as a test wants: right, wrong, slowly, broken, in a stream."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.http_servers import QuietHandler, run_handler


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


def say(text: str, end: str = "stop") -> Reply:
    """Return a completion, which has ended for a reason."""
    message = {"role": "assistant", "content": text}
    return Reply(json.dumps({"choices": [{"message": message, "finish_reason": end}]}).encode())


def stream(*pieces: str, is_complete: bool = True, more: bytes = b"", end: str = "stop") -> Reply:
    """Return a streamed completion, which has ended for a reason, with ``more`` at its end."""
    choices = [{"delta": {"content": piece}} for piece in pieces] + [{"delta": {}, "finish_reason": end}]
    events = [json.dumps({"choices": [choice]}) for choice in choices]
    events += ["[DONE]"] if is_complete else []
    body = "".join(f"data: {event}\n\n" for event in events)
    return Reply(body.encode() + more, headers={"Content-Type": "text/event-stream"})


def run_chat(answer: Callable[[int], Reply]) -> AbstractContextManager[Chat]:
    """Run an endpoint whose n-th request, from 0 on, gets ``answer(n)``."""
    return run_endpoint(lambda _request, request_index: answer(request_index))


@contextmanager
def run_endpoint(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[Chat]:
    """Run an endpoint whose n-th request, from 0 on, gets ``answer(request, n)``."""

    class Handler(QuietHandler):
        def answer(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = answer(request, len(chat.requests))
            chat.requests.append(request)
            chat.headers.append({**dict(self.headers), "path": self.path})
            time.sleep(reply.delay_s)
            with suppress(OSError):  # the client has given up
                self.reply(reply.status, reply.headers, reply.body)

    with run_handler(Handler) as url:
        chat = Chat(f"{url}/v1")
        yield chat
