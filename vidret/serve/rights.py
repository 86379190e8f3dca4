"""Access rights on a server: the grants of tokens, and the right that each route needs."""

import hmac
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Message, Scope, Send

from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.serve.problems import RefusedError, list_routes
from vidret.store.folder import explain_refusal
from vidret.store.tokens import TOKENS, StoredToken, TokenRight, find_token, record_change
from vidret.text import parse_json

logger = logging.getLogger(__name__)

GRANT, CHANGE_NOTE = "vidret.grant", "vidret.change"  # keys in the scope of a request
ALIKE = ("/openapi.json", "/page")  # same for all indexes; every token may read them
SLACK_S = 0.01  # rounding of times in URLs
MAX_SHOWN = 200  # characters of a value in the record of changes


# The grants with all rights, without a token of the index.
ANYONE, OWNER = (
    StoredToken(name=name, digest="", right="change") for name in ("without a token", "vidret serve --token")
)


class Keyring:
    """The tokens that a server accepts: its own, and those of its index as of the last ``refresh``.

    Attributes:
        is_needed: Whether requests need a token: from the first token of the index on, even after all are revoked.
    """

    def __init__(self, token: str | None, index: Path | None, *, is_needed: bool) -> None:
        """Store the token, the index, and whether a token is needed even if the index has never had one."""
        self._token, self._index, self.is_needed = token, index, is_needed or token is not None
        self._version: tuple[int, int] | None = None
        self._kept: list[StoredToken] = []

    def refresh(self) -> None:
        """Read the tokens of the index again if their file has changed.

        Raises:
            StoreError: They cannot be read.
        """
        if self._index is None:
            return
        path = TOKENS.path(self._index)
        try:
            with explain_refusal(path):
                status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if self._index.exists():  # else it is being replaced, and requests say that it is gone
                self._kept, self._version = [], None
            return
        version = status.st_mtime_ns, status.st_ino
        if version != self._version:
            self.is_needed = True
            self._kept, self._version = TOKENS.read(self._index), version

    def find(self, given: str | None) -> StoredToken | None:
        """Return the grant of a token, None if the token is not accepted."""
        if given is None:
            return None
        if self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            return OWNER
        return find_token(self._kept, given)

    def note_change(self, send: Send, scope: Scope) -> Send:
        """Return a ``send`` that records a successful change before the response starts."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400 and CHANGE_NOTE in scope:
                await run_in_threadpool(self._record, scope[GRANT].name, scope.pop(CHANGE_NOTE))
            await send(message)

        return send_on

    def _record(self, who: str, details: dict[str, Any]) -> None:
        assert self._index is not None  # apps with changes have an index
        try:
            record_change(self._index, who, **details)
        except StoreError as error:
            logger.error("a change of %s is not recorded: %s", who, error)


class Right:
    """The right that a route needs: a dependency that refuses requests without it.

    ``within`` returns whether a request concerns only one collection; if so, tokens for that collection may make it.
    Without ``noted``, a change is not recorded.
    """

    def __init__(
        self, right: TokenRight | None, *, within: Callable[[Request, str], bool] | None = None, noted: bool = True
    ) -> None:
        """Set the right; None for routes that are open to all."""
        self.right, self._within, self._noted = right, within, noted

    async def __call__(self, request: Request) -> None:
        """Refuse a request without the right; mark a change to be recorded."""
        if self.right is None:
            return
        grant: StoredToken = request.scope[GRANT]
        if self.right == "change" and grant.right != "change":
            raise RefusedError(403, f"the token of {grant.name} must have the right change, got {grant.right}")
        if grant.collection and (
            self._within is None or not await run_in_threadpool(self._within, request, grant.collection)
        ):
            raise RefusedError(403, f"the token of {grant.name} is for the collection {grant.collection} only")
        if self.right == "change" and self._noted:
            request.scope[CHANGE_NOTE] = {
                "what": f"{request.method} {request.url.path}",
                **describe_body(await request.body()),
            }


OPEN, READ, CHANGE = Depends(Right(None)), Depends(Right("read")), Depends(Right("change"))


def in_moments(engine: Engine, start: str, end: str) -> Callable[[Request, str], bool]:
    """Return a check whether a request asks for a span of a video within a moment of a list.

    ``start`` and ``end`` are the names of the URL parameters with the span's times in seconds.
    """

    def is_within(request: Request, name: str) -> bool:
        moments = [
            moment for collection in engine.collections() if collection.name == name for moment in collection.moments
        ]
        try:
            video_id = int(request.path_params["id"])
            first, last = (float(request.query_params.get(field, 0)) for field in (start, end))
        except ValueError:
            return False
        video_moments = [moment for moment in moments if moment.video == video_id]
        return any(moment.start - SLACK_S <= first <= last <= moment.end + SLACK_S for moment in video_moments)

    return is_within


def check_rights(app: FastAPI) -> None:
    """Check that every route of an app names the right that it needs.

    Raises:
        TypeError: A route names none.
    """
    for route in list_routes(app.routes):
        needed = route.dependant.dependencies if isinstance(route, APIRoute) else ()
        path = getattr(route, "path", "")
        if path not in ALIKE and not any(isinstance(dependency.call, Right) for dependency in needed):
            raise TypeError(f"{path} must name a right, got none")


def describe_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a request for the record of changes, with long values cut.

    >>> describe_body(b'{"name": "mascot", "yes": [{"video": 1}]}')
    {'with': {'name': 'mascot', 'yes': '[{"video": 1}]'}}
    """
    try:
        fields = parse_json(body) if body else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return {}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return {"with": {name: text[:MAX_SHOWN] for name, text in texts.items()}}
