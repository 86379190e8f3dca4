"""Access control: checks of the token, host, origin and size of a request before anything else handles it."""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidret.endpoints.transport import is_loopback
from vidret.errors import OptionError, StoreError
from vidret.serve.problems import problem_response
from vidret.serve.rights import ANYONE, GRANT, Keyring
from vidret.store.tokens import TOKENS

MAX_BYTES = 16 << 20
MAX_COMMAS = 20_000  # in JSON: more values than any request has
MAX_HELD_BYTES = 128 << 20  # by all requests in progress
MAX_DRAINED_BYTES = 32 << 20  # read after the response, so that the client can read the response
TIMEOUT_S = 30.0
TOO_LARGE = f"the body must have at most {MAX_BYTES >> 20} MiB, got more"
TOO_MANY = f"the body must have at most {MAX_COMMAS} commas, got more"


class HeldBytes:
    """The total size of the bodies of all requests in progress."""

    def __init__(self) -> None:
        self.num_bytes = 0


class Body:
    """The body of one request; wraps the server's ``receive`` and ``send`` for the app.

    A response that is sent before the end of the body closes the connection. A client that sends everything before it
    reads would see a connection reset instead of the response, so the rest of the body is read and discarded first, up
    to a limit.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, held: HeldBytes) -> None:
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
            HTTPException: The body is too large or too slow, or all bodies together are too large.
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


TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,}")  # valid in a header, in a cookie and, quoted, in a URL
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
TOKEN_PAGE = (
    '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>vidret</title><p>'
    "This server requires a token: open the link that vidret serve printed, or /?token=TOKEN with yours."
)
OPEN_PATHS = ("/healthz", "/readyz")  # for orchestrators, without a token; they reveal nothing about the videos
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}


def check_access(host: str, token: str | None, index: Path | None = None) -> None:
    """Check a server's token, and that there is one, of the server or its index, if other machines can connect.

    Raises:
        VidretError: Other machines can connect and there is no token, or the token is malformed.
    """
    if token is None and not is_loopback(host) and (index is None or not TOKENS.read(index)):
        rule = f"token must be given to listen on {host}, which other machines can reach"
        raise OptionError(f"{rule}, or made by vidret token add, got none")
    if token is not None and not TOKEN.fullmatch(token):
        raise OptionError("token must be 8 or more letters, digits or any of . _ ~ + / = -, got something else")


class AccessMiddleware:
    """Refuses unauthorised requests to an app, and adds security headers to all responses."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, index: Path | None, whole: bool = False) -> None:
        """Wrap an app that is bound to ``host``; see ``check_access``.

        ``token`` has all rights; tokens of the index are accepted too. With ``whole``, tokens for one collection are
        refused here; set it for an app whose routes do not refuse them.
        """
        check_access(host, token, index)
        self._app, self._held, self._whole = app, HeldBytes(), whole
        self._keyring = Keyring(token, index, is_needed=not is_loopback(host))
        self._disk = anyio.CapacityLimiter(1)  # if it hangs, others than open paths wait
        local_names = "|".join(re.escape(name) for name in ("localhost", "127.0.0.1", "[::1]", host))
        # On other addresses any name may be valid. There the token protects against DNS rebinding.
        self._hosts = re.compile(rf"({local_names})(:\d+)?", re.IGNORECASE) if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or forward it to the app."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] == "websocket":  # not supported
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        request, body = Request(scope), Body(scope, receive, send, self._held)
        try:
            response = self._refuse(request) or await self._authenticate(request) or self._app
        except StoreError as error:  # if the tokens are damaged, nobody gets in
            response = problem_response(503, str(error))
        try:
            await response(scope, body.receive, self._keyring.note_change(add_headers(body.send), scope))
        finally:
            body.release()

    def _refuse(self, request: Request) -> Response | None:
        headers = request.headers
        host = headers.get("host", "")
        if self._hosts is not None and not self._hosts.fullmatch(host):
            return problem_response(421, f"host must be localhost or a loopback address, got {host or 'none'}")
        if not HOST.fullmatch(host):  # URLs of the request could not be built
            return problem_response(421, f"host must be a name or an address, got {host or 'none'}")
        if is_embedded(headers):
            return problem_response(403, "origin must be this server, got a page of another site")
        if request.method not in SAFE_METHODS and is_foreign(headers, request.scope["scheme"]):
            return problem_response(403, f"origin must be this server, got {headers['origin']}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_BYTES:
            return problem_response(413, TOO_LARGE)
        return None

    async def _authenticate(self, request: Request) -> Response | None:
        """Return None and set the grant if the request may pass, else a response. The page's token becomes a cookie."""
        request.scope[GRANT] = ANYONE
        if request.url.path in OPEN_PATHS:
            return None
        await anyio.to_thread.run_sync(self._keyring.refresh, limiter=self._disk)
        if not self._keyring.is_needed:
            return None
        given = request.query_params.get("token")
        if request.method == "GET" and request.url.path == "/" and given and self._keyring.find(given) is not None:
            query = request.url.remove_query_params("token").query
            response = RedirectResponse(f"./?{query}" if query else "./", 303)
            secure = request.url.scheme == "https"
            name = name_cookie(request)
            response.set_cookie(name, given, path=None, httponly=True, samesite="strict", secure=secure)
            return response
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        grant = self._keyring.find(bearer if scheme.lower() == "bearer" else None)
        grant = grant or self._keyring.find(request.cookies.get(name_cookie(request)))
        if grant is None:
            sentence = "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or open /?token=TOKEN"
            headers = {"WWW-Authenticate": "Bearer"}
            if "text/html" in request.headers.get("accept", ""):
                return HTMLResponse(TOKEN_PAGE, 401, headers)
            return problem_response(401, sentence, headers)
        if self._whole and grant.collection:
            return problem_response(403, f"the token of {grant.name} is for the collection {grant.collection} only")
        request.scope[GRANT] = grant
        return None


def name_cookie(request: Request) -> str:
    """Return the name of the token's cookie, one for each port, since browsers send a cookie to all ports of a host."""
    return HOST.sub(r"vidret\2", request.headers["host"]).replace(":", "-")


def is_embedded(headers: Headers) -> bool:
    """Return whether a page of another site embeds a resource; following a link is not embedding.

    The page could not read the response, but it could keep the server busy with searching and decoding.
    """
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    return site in ("cross-site", "same-site") and mode != "navigate"


def is_foreign(headers: Headers, scheme: str) -> bool:
    """Return whether a page of another origin sends a request. Clients other than browsers send no origin.

    A proxy may change the scheme and the host; browsers say which origin a page has in ``Sec-Fetch-Site``.
    """
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:  # not a URL
        return True
    return parts.scheme != scheme or parts.netloc.lower() != headers.get("host", "").lower()


def add_headers(send: Send) -> Send:
    """Return a ``send`` that adds the security headers that a response lacks."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return add
