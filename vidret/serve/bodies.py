"""Request bodies, with limits on the size and time of each, and on the size of all together."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

MAX_BYTES = 16 << 20
MAX_COMMAS = 20_000  # in JSON: more values than any request has
MAX_HELD_BYTES = 128 << 20  # of all requests in progress
MAX_DRAINED_BYTES = 32 << 20  # read after the response, so that the sender gets to read it
TIMEOUT_S = 30.0
TOO_LARGE = f"the body must have at most {MAX_BYTES >> 20} MiB, got more"
TOO_MANY = f"the body must have at most {MAX_COMMAS} commas, got more"


class HeldBytes:
    """The number of bytes that the bodies of all requests in progress take."""

    def __init__(self) -> None:
        self.num_bytes = 0


class Body:
    """The body of one request: wraps the ``receive`` and ``send`` of the server for the app.

    A response that is sent before the end of the body closes the connection. A client that sends everything before it
    reads would see a connection reset instead of the response, so the rest of the body is read and discarded first, up
    to a limit.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, held: HeldBytes) -> None:
        """Wrap a request; ``held`` is shared by all requests."""
        headers = Headers(scope=scope)
        self._receive, self._send, self._held = receive, send, held
        self._deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        self._num_bytes = self._num_commas = 0
        self._ended = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

    def release(self) -> None:
        """Subtract the body from the held bytes, once the request is answered."""
        self._held.num_bytes -= self._num_bytes

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            HTTPException: The body is too large, too slow, or too much together with those of other requests.
        """
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(408, f"the body must arrive within {TIMEOUT_S:g} s, got a part") from None
        chunk = message.get("body", b"")
        self._num_bytes += len(chunk)
        self._held.num_bytes += len(chunk)
        self._num_commas += chunk.count(b",")
        if self._num_bytes > MAX_BYTES:
            raise HTTPException(413, TOO_LARGE)
        if self._num_commas > MAX_COMMAS:
            raise HTTPException(413, TOO_MANY)
        if self._held.num_bytes > MAX_HELD_BYTES:
            raise HTTPException(503, "the server is busy: too many large bodies arrive at once", {"Retry-After": "1"})
        return message

    async def send(self, message: Message) -> None:
        """Send the next message of the response."""
        if message["type"] == "http.response.start" and not self._ended:
            MutableHeaders(scope=message)["Connection"] = "close"
        if message["type"] != "http.response.body" or message.get("more_body", False) or self._ended:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._drain()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> Message:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        num_bytes = 0
        try:
            async with asyncio.timeout_at(self._deadline):
                while not self._ended and num_bytes <= MAX_DRAINED_BYTES:
                    num_bytes += len((await self._next()).get("body", b""))
        except TimeoutError:
            pass
