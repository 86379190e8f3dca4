"""Fields of request bodies: shared ones, those derived from search options and results, and images."""

import base64
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import anyio
import anyio.to_thread
from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, create_model

from vidret.errors import OptionError, VidretError
from vidret.search.query.marks import split_exclusions
from vidret.types import MAX_QUERY_LENGTH, NamedOption, Picture, build_options, list_options, list_row_fields
from vidret.video.workers.image_pool import ImagePool

MAX_ID = 2**63 - 1
YEARS = (1700, 2200)  # range of timestamps in nanoseconds


def check_excluded_terms(query: str) -> str:
    """Refuse a query with too many excluded terms, which would take long to encode."""
    try:
        split_exclusions(query)
    except VidretError as error:
        raise ValueError(str(error).removeprefix("query ").partition(", got")[0]) from error
    return query


def check_date(date: datetime) -> datetime:
    """Refuse a date outside the range of file times."""
    if not YEARS[0] <= date.year <= YEARS[1]:
        raise ValueError(f"must be in the years {YEARS[0]} to {YEARS[1]}")
    return date


def refuse_timestamp(value: object) -> object:
    """Refuse a number in place of an ISO 8601 date, which pydantic would read as seconds."""
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value
    raise ValueError("must be a date in ISO 8601")


def refuse_bool(value: object) -> object:
    """Refuse a boolean in place of a number, which pydantic would read as 0 or 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(refuse_bool)]
Number = Annotated[float, BeforeValidator(refuse_bool)]
Id = Annotated[int, Field(ge=0, le=MAX_ID, description="Id of a video."), BeforeValidator(refuse_bool)]
VideoId = Annotated[Id, Path(alias="id")]
Seconds = Annotated[
    float, Field(ge=0, le=1e9, allow_inf_nan=False, description="Time in seconds."), BeforeValidator(refuse_bool)
]
QueryText = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_LENGTH), AfterValidator(check_excluded_terms)]
Date = Annotated[
    datetime,
    AfterValidator(check_date),
    BeforeValidator(refuse_timestamp),
    Field(examples=["2026-01-31", "2026-01-31T18:30:00Z"]),
]


TINY_IMAGE = "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="  # a GIF of one pixel
EncodedImage = Annotated[
    str, Field(min_length=1, description="Base64 of a JPEG, PNG, WebP, GIF or BMP with at most 40 megapixels.")
]


Request = TypeVar("Request", bound=BaseModel)
Options = TypeVar("Options")
MAX_PATH_LENGTH = 4096
MAX_TIMES = 500  # times of videos in one field
ROW_MODELS: dict[Any, type[BaseModel]] = {}  # by type of result


def add_fields(model: type[Request], fields: dict[str, Any]) -> type[Request]:
    """Return a model with more fields, each given as its type and default."""
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)


def with_options(options_type: type, *, mcp_only: bool = False) -> Callable[[type[Request]], type[Request]]:
    """Return a decorator that adds a field to a request per option of a dataclass, or per option marked ``mcp``."""
    listed = list_options(options_type)
    fields = {named.name: make_field(named) for named in listed if named.option.mcp or not mcp_only}
    return lambda model: add_fields(model, fields)


def make_field(named: NamedOption) -> tuple[Any, Any]:
    """Return the type and default of an option's field in a request; only fields with the default None may be null."""
    option, hint = named.option, named.type
    description = option.http_help or option.help
    if option.holds == "date":
        hint = Date
    elif option.holds == "folder":
        hint = Annotated[str, Field(max_length=MAX_PATH_LENGTH)]
    elif option.holds == "times":
        hint = Annotated[tuple[tuple[Id, Seconds], ...], Field(max_length=MAX_TIMES)]
    elif option.choices:
        hint = Literal[option.choices]
    elif get_origin(hint) is tuple:
        hint = Annotated[hint, Field(min_length=1, max_length=len(get_args(get_args(hint)[0])))]
    elif hint in (int, float):
        limits = Field(ge=option.minimum, le=option.maximum, allow_inf_nan=False if hint is float else None)
        hint = Annotated[hint, limits, BeforeValidator(refuse_bool)]
    return hint | None if named.default is None else hint, Field(named.default, description=description)


def with_rows_of(result_type: type) -> Callable[[type[Request]], type[Request]]:
    """Return a decorator that adds the fields of a result type to the model of its rows."""
    fields: dict[str, Any] = {}
    for field in list_row_fields(result_type, "http"):
        examples = None if field.shown.example is None else [field.shown.example]
        fields[field.name] = (as_json_type(field.type), Field(description=field.help, examples=examples))

    def decorate(model: type[Request]) -> type[Request]:
        ROW_MODELS[result_type] = made = add_fields(model, fields)
        return made

    return decorate


def as_json_type(kind: Any) -> Any:
    """Return the JSON counterpart of a type: lists for tuples and arrays, models for results."""
    if isinstance(kind, type) and is_dataclass(kind) and kind not in ROW_MODELS:  # a result within other results
        summary = (kind.__doc__ or "").partition("\n")[0]
        with_rows_of(kind)(type(f"{kind.__name__}Row", (BaseModel,), {"__doc__": summary, "__module__": __name__}))
    if kind in ROW_MODELS:
        return ROW_MODELS[kind]
    if hasattr(kind, "dtypes"):  # an array, as jaxtyping describes it
        return list[float]
    inner = get_args(kind)
    return list[as_json_type(inner[0])] if get_origin(kind) is tuple and inner[-1] is Ellipsis else kind  # type: ignore[misc]


def collect_options(request: BaseModel, options_type: type[Options]) -> Options:
    """Return the options of a request for the engine; options without a field keep their defaults."""
    names = [option.name for option in list_options(options_type)]
    values = {name: getattr(request, name) for name in names if name in type(request).model_fields}
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.timestamp()
        elif isinstance(value, tuple):
            values[name] = tuple(dict.fromkeys(value))
    return build_options(options_type, values)


NUM_PROCESSES = 2
TIMEOUT_S = 10.0


class ImageReader:
    """Decodes images in separate processes, a few at a time, since they may be malicious."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._limiter = anyio.CapacityLimiter(NUM_PROCESSES)
        self._pool = ImagePool(NUM_PROCESSES, timeout_s=timeout_s)

    async def read(self, text: str) -> Picture:
        """Decode base64 or a data URL to an RGB image; see ``vidret.video.images.read_image``.

        Raises:
            OptionError: The text is not base64.
            VidretError: The image is unreadable.
        """
        return await anyio.to_thread.run_sync(self._read, text, limiter=self._limiter)

    def close(self) -> None:
        """Stop the processes."""
        self._pool.close()

    def _read(self, text: str) -> Picture:
        return self._pool.read_image(decode_base64(text))


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data URL to bytes."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError:
        raise OptionError("image must be base64, got something else") from None
