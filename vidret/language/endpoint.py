"""A client of chat endpoints in OpenAI's style, and a cache of their answers on disk."""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vidret.disk import drop_oldest, replacing
from vidret.endpoints.transport import REASON_LENGTH, EndpointError, JsonTransport, is_awaited
from vidret.errors import StoreError, VidretError
from vidret.text import sanitize

T = TypeVar("T")

KEY_VARIABLE = "VIDRET_LLM_KEY"
MAX_ANSWER_BYTES = 1 << 20
CUT = " [\u2026]"  # ends a reply that reached its maximum length
MAX_REPLY = 16_000  # characters that are read, without thoughts
# Some prompts hold the beginning of a thought, and a limit of tokens may cut off its end.
_THOUGHT = re.compile(r"\A(?:(?!<think>).)*</think>|<think>.*?(?:</think>|\Z)", re.S | re.I)
MAX_REPLIES = 10_000  # in a cache
MARGIN = 0.9  # share of the replies that is left when the oldest are removed


class ReplyCache:
    """A folder that caches answers by key; None caches nothing. Processes may share it; failed writes are ignored."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        """Open the cache; the folder is created with the first answer."""
        self._folder = None if folder is None else Path(folder)

    def ask(self, key: str, complete: Callable[[], str | None], read: Callable[[str], T | None]) -> T | None:
        """Return what ``read`` returns for the kept answer or, if that is None, for a new one, which is then kept.

        A new answer for which ``read`` returns None is not kept. Return None if ``complete`` returns none.
        """
        path = self._folder and self._folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.txt"
        kept = None
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                kept = path.read_text("utf-8") or None
        parsed = None if kept is None else read(kept)
        if parsed is None and (reply := complete()) is not None:
            parsed = read(reply)
            if path is not None and parsed is not None:
                with contextlib.suppress(StoreError, OSError):
                    _keep(path, reply)
        return parsed


NO_CACHE = ReplyCache(None)


def _keep(path: Path, reply: str) -> None:
    """Write an answer, and remove the oldest ones of its folder if there are too many."""
    with replacing(path) as draft:
        draft.write_text(reply, "utf-8")
    pattern = f"{'[0-9a-f]' * 32}.txt"
    if sum(1 for _ in path.parent.glob(pattern)) > MAX_REPLIES:
        drop_oldest(path.parent, pattern, MARGIN * MAX_REPLIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """A chat endpoint.

    Attributes:
        url: Base URL, such as ``http://127.0.0.1:11434/v1``; ``/chat/completions`` is added unless it is there.
        model: Name of the model.
        key: Sent as a bearer token; None for none.
        timeout_s: Maximum time of one request, until its answer is complete.
        retries: Further attempts after temporary failures.
        max_tokens: Maximum length of an answer.
        backoff_s: Wait before the first retry; doubled for each further one.
        awaited: Returns whether somebody still waits for the answer; if not, the request ends.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    retries: int = 2
    max_tokens: int = 800
    backoff_s: float = 1.0
    awaited: Callable[[], bool] = field(default=is_awaited, repr=False)

    def __post_init__(self) -> None:
        _ = self._transport
        if not self.model:
            raise VidretError("llm model must be named, got none")

    @property
    def _transport(self) -> JsonTransport:
        return JsonTransport(
            url=self.url,
            path="/chat/completions",
            option="llm",
            example="http://127.0.0.1:11434/v1",
            key=self.key,
            key_variable=KEY_VARIABLE,
            timeout_s=self.timeout_s,
            retries=self.retries,
            backoff_s=self.backoff_s,
            max_answer_bytes=MAX_ANSWER_BYTES,
            awaited=self.awaited,
        )

    def complete(self, messages: list[dict[str, Any]]) -> str:
        """Return the model's answer to messages.

        Raises:
            EndpointError: The endpoint does not answer in time, refuses, redirects, or its answer cannot be read.
        """
        return "".join(self._ask(messages, is_streamed=False))

    def stream(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        """Yield the pieces of the model's answer as they arrive; all in one from an endpoint that cannot stream.

        Raises:
            EndpointError: As in ``complete``.
        """
        return self._ask(messages, is_streamed=True)

    def _ask(self, messages: list[dict[str, Any]], *, is_streamed: bool) -> Iterator[str]:
        request = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0}
        request |= {"stream": True} if is_streamed else {}
        transport, has_text = self._transport, False
        for piece in transport.post(request, _read_answer, what="a chat completion"):
            has_text = has_text or bool(piece.strip())
            yield piece
        if not has_text:
            raise EndpointError(f"{transport.name}: must answer with text, got none")


def write_chat(rules: str, *said: str | bytes) -> list[dict[str, Any]]:
    """Return the messages of a chat: rules, and texts and JPEGs of the user; a single text is sent as a string."""

    def make_part(part: str | bytes) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(part).decode()}"}}

    content = said[0] if len(said) == 1 and isinstance(said[0], str) else list(map(make_part, said))
    return [{"role": "system", "content": rules}, {"role": "user", "content": content}]


def write_data_chat(rules: str, asked: str, data: Sequence[str | bytes], instruction: str) -> list[dict[str, Any]]:
    """Return the messages of a chat about untrusted data, between lines with an unpredictable mark.

    ``rules`` name these lines as ``{begin}`` and ``{end}``.
    """
    mark = secrets.token_hex(8)
    begin, end = f"<<<DATA {mark}>>>", f"<<<END {mark}>>>"
    rules = rules.format(begin=begin, end=end)
    return write_chat(rules, f"{asked}\n\n{begin}", *data, f"{end}\n\n{instruction}")


def drop_thoughts(reply: str) -> str:
    """Return the first ``MAX_REPLY`` characters of a model's reply without its thoughts.

    >>> drop_thoughts("<think>[2]?</think>[1]"), drop_thoughts("or [2]?</think>[1]"), drop_thoughts("[1]<think>or")
    ('[1]', '[1]', '[1]')
    """
    return _THOUGHT.sub("", reply).strip()[:MAX_REPLY]


def read_reply(endpoint: ChatEndpoint, reply: str) -> str:
    """Return a model's reply without its thoughts; an ``EndpointError`` if it holds thoughts only."""
    text = drop_thoughts(reply)
    if not text:
        limit = f"an answer within {endpoint.max_tokens} tokens"
        raise EndpointError(f"{endpoint.model}: must end its thoughts with {limit}, got thoughts only")
    return text


def _read_answer(kind: str, lines: Iterator[bytes]) -> Iterator[str]:
    """Yield the pieces of an answer of a media type."""
    if kind == "text/event-stream":
        yield from _read_events(lines)
    else:
        yield _read_message(json.loads(b"".join(lines)))


def _read_message(answer: Any) -> str:
    choice = answer["choices"][0]
    message = choice["message"]
    _check_refusal(message.get("refusal"))
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    text = _check_text(content)
    return text + CUT if text and choice.get("finish_reason") == "length" else text


def _check_refusal(refusal: Any) -> None:
    """Raise an ``EndpointError`` with what a model says instead of an answer, if it says so."""
    if refusal:
        reason = sanitize(_check_text(refusal))[:REASON_LENGTH]
        raise EndpointError(f"the model declines to answer: {reason}")


def _check_text(text: Any) -> str:
    """Return a value; raise TypeError if it is not a string, and ValueError if it is not valid Unicode."""
    if not isinstance(text, str):
        raise TypeError
    text.encode()
    return text


def _read_events(lines: Iterator[bytes]) -> Iterator[str]:
    """Yield the pieces of a streamed answer."""
    refusal, has_text = "", False
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            _check_refusal(refusal)
            return
        for choice in json.loads(data.decode("utf-8"))["choices"][:1]:
            delta = choice.get("delta", {})
            refusal += _check_text(delta.get("refusal") or "")
            piece = _check_text(delta.get("content") or "")
            has_text = has_text or bool(piece)
            if piece:
                yield piece
            if has_text and choice.get("finish_reason") == "length":
                yield CUT
    raise ValueError("the stream must end with [DONE]")
