"""What goes wrong, as ``application/problem+json``: one sentence in ``detail``."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.text import sanitize

Described = dict[int | str, dict[str, Any]]  # answers of a route, for the OpenAPI document

KIND = "application/problem+json"
SHOWN = 60  # characters of a wrong value
MOST_TOLD = 5  # of what is wrong with one request
BROKEN = "the server failed; its log says why"


class RefusedError(VidretError):
    """Say why a request gets no answer, with HTTP's status and further headers."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep them beside the sentence."""
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Problem(BaseModel):
    """The body of every refusal."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no video has the id 7"}
        }
    )

    type: str
    title: str
    status: int
    detail: str


def answer_problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the response that says what is wrong."""
    body = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=sanitize(sentence))
    return JSONResponse(body.model_dump(), status, headers, KIND)


def refusals(*statuses: int) -> Described:
    """Describe refusals for the OpenAPI document of a route."""
    content = {KIND: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def answer_errors(app: FastAPI) -> None:
    """Have an app answer whatever is raised in it."""
    app.add_exception_handler(VidretError, _answer_own)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, lambda _request, _error: answer_problem(500, BROKEN))


def _answer_own(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RefusedError):
        return answer_problem(error.status, str(error), error.headers)
    ours = isinstance(error, StoreError | MissingExtraError)  # nothing that another question would mend
    return answer_problem(503 if ours else 422, str(error))


def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return answer_problem(422, tell_invalid(error.errors()))


def _answer_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return answer_problem(error.status_code, error.detail, error.headers)


def tell_invalid(errors: Any) -> str:
    """Say in one sentence what pydantic found wrong: where, the rule, and the value."""
    told = []
    for error in errors[:MOST_TOLD]:
        place = ".".join(str(part) for part in error["loc"][1:]) or "the body"
        rule = str(error["msg"]).removeprefix("Value error, ")
        shown = repr(error.get("input"))
        told.append(f"{place}: {rule}, got {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}")
    if len(errors) > MOST_TOLD:
        told.append(f"and {len(errors) - MOST_TOLD} more")
    return "; ".join(told)
