"""Errors as ``application/problem+json`` (RFC 9457), with one sentence in ``detail``."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidret.errors import (
    ConflictError,
    MissingExtraError,
    NotFoundError,
    OptionError,
    StoreError,
    VidretError,
    is_out_of_files,
    read_rule,
)
from vidret.text import sanitize

Kind = Literal["usage", "failure"]
Responses = dict[int | str, dict[str, Any]]  # responses of a route, for the OpenAPI document

MEDIA_TYPE = "application/problem+json"
MAX_VALUE_LENGTH = 60  # characters of a wrong value
MAX_ERRORS = 5  # errors listed per request
INTERNAL_ERROR = "the server failed; its log says why"
_BRANCH = re.compile(r"constrained-\w+|[a-z-]+\[.+\]")
OUT_OF_FILES = "too many files are open"
SHUTTING_DOWN = "the server is shutting down"


class RefusedError(VidretError):
    """A refused request, with an HTTP status and more headers."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


def make_busy(reason: str, retry_s: int = 1) -> RefusedError:
    """Return the error for a request that may be sent again after ``retry_s`` seconds."""
    return RefusedError(503, f"the server is busy: {reason}", {"Retry-After": str(retry_s)})


class Problem(BaseModel):
    """The body of an error response.

    ``kind`` is ``usage`` for a value that is wrong whatever an index or a file holds.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "no video has the id 7",
                "kind": "failure",
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    kind: Kind


_CONTENT = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}


def kind_of(error: VidretError) -> Kind:
    """Return the kind of an error."""
    return "usage" if isinstance(error, OptionError) else "failure"


def make_problem(status: int, sentence: str, kind: Kind) -> Problem:
    """Return the description of an error."""
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=sanitize(sentence), kind=kind)


def problem_response(
    status: int, sentence: str, headers: Mapping[str, str] | None = None, *, kind: Kind = "failure"
) -> JSONResponse:
    """Return the response that describes an error."""
    return JSONResponse(make_problem(status, sentence, kind).model_dump(), status, headers, MEDIA_TYPE)


def refusals(*statuses: int) -> Responses:
    """Return the error responses of a route, for the OpenAPI document."""
    return {status: {"description": HTTPStatus(status).phrase, "content": _CONTENT} for status in statuses}


class ShutdownMiddleware:
    """Responds with 503 to requests that the server cancels because they outlast its shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request; a response that has begun is left unfinished."""
        has_begun = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not has_begun:
                await problem_response(503, SHUTTING_DOWN, {"Retry-After": "5"})(scope, receive, send)


def add_error_handlers(app: FastAPI) -> None:
    """Make an app respond to all exceptions with problem documents."""
    app.add_middleware(ShutdownMiddleware)
    app.add_exception_handler(VidretError, _handle_vidret_error)
    app.add_exception_handler(OSError, _handle_os_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid)
    app.add_exception_handler(HTTPException, _handle_http)
    app.add_exception_handler(Exception, lambda _request, _error: problem_response(500, INTERNAL_ERROR))


def _handle_vidret_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VidretError)
    if is_out_of_files(error):
        error = make_busy(OUT_OF_FILES)
    if isinstance(error, RefusedError):
        return problem_response(error.status, str(error), error.headers)
    kinds = {NotFoundError: 404, ConflictError: 409, StoreError | MissingExtraError: 503}
    status = next((kinds[kind] for kind in kinds if isinstance(error, kind)), 422)
    return problem_response(status, str(error), kind=kind_of(error))


def _handle_os_error(request: Request, error: Exception) -> JSONResponse:
    if is_out_of_files(error):
        return _handle_vidret_error(request, make_busy(OUT_OF_FILES))
    raise error


def _handle_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem_response(422, describe_invalid(error.errors()), kind="usage")


def _handle_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers, sentence = error.headers, error.detail
    if sentence == HTTPStatus(error.status_code).phrase:
        sentence = f"{request.method} {request.url.path} must be one of /openapi.json"
    if error.status_code == 405:  # Starlette lists the methods of only the first route of this path
        routes = [
            route for route in list_routes(request.app.routes) if route.matches(request.scope)[0] is not Match.NONE
        ]
        methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
        methods |= {"HEAD"} if "GET" in methods else set()
        headers = {"Allow": ", ".join(sorted(methods))} if methods else headers
    return problem_response(error.status_code, sentence, headers)


def list_routes(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Return routes, including those of routers, which some versions of FastAPI do not flatten."""
    listed = list[BaseRoute]()
    for route in routes:
        router = getattr(route, "original_router", None)
        listed += [route] if router is None else list_routes(router.routes)
    return listed


def describe_invalid(errors: Any, *, within: int = 1) -> str:
    """Return pydantic's errors in one sentence: field, rule and value of each.

    ``within`` is the number of names before the field's, such as ``body``.
    """
    sentences, places = [], [error["loc"] for error in errors]
    errors = [
        error for error in errors if not any(place[: len(error["loc"])] == error["loc"] != place for place in places)
    ]
    fitting = {error["loc"][:index] for error in errors for index in _find_branches(error)[:1] if not _is_misfit(error)}
    errors = [error for error in errors if not (_is_misfit(error) and error["loc"][:-1] in fitting)]
    for error in errors[:MAX_ERRORS]:
        branches = _find_branches(error)
        names = [str(name) for index, name in enumerate(error["loc"]) if index >= within and index not in branches]
        field = ".".join(names) or "the body"
        rule = read_rule(str(error["msg"]))
        value = repr(error.get("input"))
        if error.get("type") == "json_invalid":  # its location is a character, and its input is empty
            field, value = "the body", f"{error['ctx']['error']} at character {error['loc'][-1]}"
        elif isinstance(error.get("input"), bytes):
            field, rule, value = "Content-Type", "must be application/json", "another"
        shortened = value if len(value) <= MAX_VALUE_LENGTH else value[:MAX_VALUE_LENGTH] + "..."
        sentences.append(f"{field}{'' if rule.startswith('must ') else ':'} {rule}, got {shortened}")
    if len(errors) > MAX_ERRORS:
        sentences.append(f"and {len(errors) - MAX_ERRORS} more")
    return "; ".join(sentences)


def _find_branches(error: Any) -> list[int]:
    """Return the positions in an error's location that name a branch of a union, such as ``list[str]``, not a field."""
    return [index for index, name in enumerate(error["loc"]) if _BRANCH.fullmatch(str(name))]


def _is_misfit(error: Any) -> bool:
    """Return whether an error only says that a value does not fit this branch of a union."""
    return error.get("type") in ("string_type", "list_type") and _find_branches(error)[-1:] == [len(error["loc"]) - 1]
