"""Fields of requests that are made of ``SearchOptions``, ``LocateOptions`` and ``Filters``."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, create_model

from vidret.serve.fields import Date, refuse_bool
from vidret.types import NamedOption, build_options, list_options

Request = TypeVar("Request", bound=BaseModel)
Options = TypeVar("Options")
MAX_PATH_LENGTH = 4096


def with_options(options_type: type) -> Callable[[type[Request]], type[Request]]:
    """Return a decorator that adds a field per option of a dataclass to a request."""

    def decorate(model: type[Request]) -> type[Request]:
        fields: dict[str, Any] = {each.name: make_field(each) for each in list_options(options_type)}
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )

    return decorate


def make_field(named: NamedOption) -> tuple[Any, Any]:
    """Return the type and the default of a request's field; only fields that are None by default may be null."""
    option, hint = named.option, named.type
    description = option.http_help or option.help
    if option.holds == "date":
        hint = Date
    elif option.holds == "folder":
        hint = Annotated[str, Field(max_length=MAX_PATH_LENGTH)]
    elif option.choices:
        hint = Literal[option.choices]
    elif get_origin(hint) is tuple:
        hint = Annotated[hint, Field(min_length=1, max_length=len(get_args(get_args(hint)[0])))]
    elif hint in (int, float):
        limits = Field(ge=option.minimum, le=option.maximum, allow_inf_nan=False if hint is float else None)
        hint = Annotated[hint, limits, BeforeValidator(refuse_bool)]
    return hint | None if named.default is None else hint, Field(named.default, description=description)


def collect_options(request: BaseModel, options_type: type[Options]) -> Options:
    """Return the options in a request as the engine takes them."""
    values = {each.name: getattr(request, each.name) for each in list_options(options_type)}
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.timestamp()
        elif isinstance(value, tuple):
            values[name] = tuple(dict.fromkeys(value))
    return build_options(options_type, values)
