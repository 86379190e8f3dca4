"""Who may ask: token, host, origin and size of a request, before anything else looks at it."""

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidret.errors import VidretError
from vidret.serve.bodies import MAX_BYTES, TOO_LARGE, Body, Held
from vidret.serve.problems import answer_problem

COOKIE = "vidret"
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,}")  # fits a header, a cookie and, quoted, an address
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
READS = ("GET", "HEAD", "OPTIONS")
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


def check_door(host: str, token: str | None) -> None:
    """Refuse to open to the network without a token, and a token that cannot be sent.

    Raises:
        VidretError: Which of the two it is.
    """
    if token is None and not is_loopback(host):
        raise VidretError(f"token must be given to listen on {host}, which others may reach, got none")
    if token is not None and not TOKEN.fullmatch(token):
        raise VidretError("token must be 8 or more letters, digits or any of . _ ~ + / = -, got something else")


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guarded:
    """An app that only those reach who may; every answer has the headers that browsers heed."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        """Wrap an app that listens on ``host``; see ``check_door``."""
        check_door(host, token)
        self._app, self._token, self._held = app, token, Held()
        own = "|".join(re.escape(name) for name in ("localhost", "127.0.0.1", "[::1]", host))
        # Elsewhere any name may be ours. There the token stops a page that has its own name lead here.
        self._hosts = re.compile(rf"({own})(:\d+)?", re.IGNORECASE) if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] == "websocket":  # there are none here
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        request, body = Request(scope), Body(scope, receive, send, self._held)
        answer = self._refuse(request) or self._welcome(request) or self._app
        try:
            await answer(scope, body.receive, add_headers(body.send))
        finally:
            body.release()

    def _refuse(self, request: Request) -> Response | None:
        headers = request.headers
        host = headers.get("host", "")
        if self._hosts is not None and not self._hosts.fullmatch(host):
            return answer_problem(421, f"host must be localhost or a loopback address, got {host or 'none'}")
        if not HOST.fullmatch(host):  # else nobody could tell which address was asked for
            return answer_problem(421, f"host must be a name or an address, got {host or 'none'}")
        if is_embedded(headers):
            return answer_problem(403, "origin must be this server, got a page of another site")
        if request.method not in READS and is_foreign(headers, request.scope["scheme"]):
            return answer_problem(403, f"origin must be this server, got {headers['origin']}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_BYTES:
            return answer_problem(413, TOO_LARGE)
        return None

    def _welcome(self, request: Request) -> Response | None:
        """Let in who knows the token; the page's address may hold it once, from then on a cookie does."""
        if self._token is None:
            return None
        if request.method == "GET" and request.url.path == "/" and self._is_token(request.query_params.get("token")):
            query = request.url.remove_query_params("token").query
            answer = RedirectResponse(f"/?{query}" if query else "/", 303)
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=secure)
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if (scheme.lower() == "bearer" and self._is_token(bearer)) or self._is_token(request.cookies.get(COOKIE)):
            return None
        sentence = "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or open /?token=TOKEN"
        return answer_problem(401, sentence, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: str | None) -> bool:
        assert self._token is not None
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())


def is_embedded(headers: Headers) -> bool:
    """Return whether a page of another site asks for something to show; following a link is no such request.

    The page could not read the answer, but it could keep the server busy with searching and decoding.
    """
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    return site in ("cross-site", "same-site") and mode != "navigate"


def is_foreign(headers: Headers, scheme: str) -> bool:
    """Return whether a page of another server sends this; what is no browser says nothing of origins.

    Behind a proxy that speaks TLS the scheme here may be http where the browser's is https; its own word then counts.
    """
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:  # no address at all
        return True
    if parts.netloc.lower() != headers.get("host", "").lower():
        return True
    return parts.scheme != scheme and headers.get("sec-fetch-site") != "same-origin"


def add_headers(send: Send) -> Send:
    """Add the headers that an answer does not have yet."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return add
