"""Descriptions of search options, as annotations of the fields of their dataclasses.

The command line, the HTTP API and its client derive their options from these descriptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

from vidret.types.rows import read_value

T = TypeVar("T")
MOST = 10**9  # maximum of any count


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option's description, which annotates its field of ``SearchOptions``, ``LocateOptions`` or ``Filters``.

    The name and the default are those of the field. If the default is not None, the command line and the HTTP API take
    ``none`` for None.

    Attributes:
        help: Description, on the command line and in the HTTP API.
        panel: Panel of the command's help; None if the command does not have the option.
        flag: Flag of the command, if it is not the name.
        metavar: What the command's help shows for the value; None for a flag without a value. With ``on|off``, the
            command writes a boolean so.
        holds: What a number or a text means, if its type does not say it: a ``date`` is in seconds since 1970, and a
            ``folder`` may be relative to the current one on the command line; ``times`` are those of videos.
        minimum: Minimum of a number.
        maximum: Maximum of a number over HTTP, which limits what one request costs a server.
        choices: Allowed values over HTTP; any if empty.
        http_help: Description in the HTTP API, if it is not ``help``.
        mcp: Whether the MCP server offers it to language models.
    """

    help: str
    panel: Literal["What to search", "Filters", "Output", "Model", "Advanced"] | None
    flag: str | None = None
    metavar: str | None = None
    holds: Literal["date", "folder", "times"] | None = None
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    http_help: str | None = None
    mcp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedOption:
    """An option with its name, the type of its values, whether it may be None, and its default."""

    name: str
    type: Any
    may_be_none: bool
    default: Any
    option: Option


def list_options(options_type: Any) -> tuple[NamedOption, ...]:
    """Return the options of a dataclass in the order of its fields, with those of the dataclasses in it.

    Raises:
        TypeError: A field is not annotated with an ``Option``.
    """
    return _list_options(options_type)


@cache
def _list_options(options_type: Any) -> tuple[NamedOption, ...]:
    listed: list[NamedOption] = []
    hints = get_type_hints(options_type, include_extras=True)
    for field in fields(options_type):
        hint = hints[field.name]
        if is_dataclass(hint):
            listed += list_options(hint)
            continue
        option = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Option)), None)
        if option is None:
            raise TypeError(f"{options_type.__name__}.{field.name} must be annotated with an Option, got {hint}")
        members = get_args(hint.__origin__) if isinstance(hint.__origin__, UnionType) else (hint.__origin__,)
        value_type, may_be_none = next(member for member in members if member is not NoneType), NoneType in members
        listed.append(
            NamedOption(name=field.name, type=value_type, may_be_none=may_be_none, default=field.default, option=option)
        )
    return tuple(listed)


def check_options(options: Any, error: type[Exception]) -> None:
    """Check the values of a dataclass and of the dataclasses in it that can be checked without an index.

    Raise ``error`` if a value has another type, is a number out of range, or is a text that is not one of its choices.
    """
    for field in fields(options):
        kind, value = field.type, getattr(options, field.name)
        if isinstance(kind, type) and is_dataclass(kind) and not isinstance(value, kind):
            raise error(f"{field.name} must be {kind.__name__}, got {value!r:.60}")
    values = flatten_options(options)
    try:
        for named in list_options(type(options)):
            _check_value(named, values[named.name])
    except ValueError as fault:
        raise error(str(fault)) from fault


def _check_value(named: NamedOption, value: Any) -> None:
    option = named.option
    if value is None and named.may_be_none:
        return
    if option.holds == "times":
        if not isinstance(value, list | tuple) or not all(
            isinstance(at, list | tuple) and len(at) == 2 and isinstance(at[1], Real) for at in value
        ):
            raise ValueError(f"{named.name} must be pairs of a video and a time in seconds, got {value!r:.60}")
        return
    plain: Any = value.item() if hasattr(value, "item") else list(value) if isinstance(value, tuple) else value
    if option.holds != "date" and type(plain) in (int, float):
        low, high = option.minimum or 0, MOST if named.type is int else option.maximum or MOST
        if not low <= plain <= high:
            rule = f"at least {low}" if named.type is int and plain < low else f"between {low} and {high}"
            raise ValueError(f"{named.name} must be {rule}, got {value}")
    read_value(named.name, named.type, plain)
    if plain == []:
        raise ValueError(f"{named.name} must have at least 1 item, got []")
    if named.type is str and not named.may_be_none and plain not in option.choices:
        raise ValueError(f"{named.name} must be {' or '.join(option.choices)}, got {value}")


def flatten_options(options: Any) -> dict[str, Any]:
    """Return the values of a dataclass and of the dataclasses in it, by name."""
    values: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        values |= flatten_options(value) if is_dataclass(value) else {field.name: value}
    return values


def build_options(options_type: type[T], values: Mapping[str, Any]) -> T:
    """Return a dataclass from the values of ``flatten_options``; missing ones have their defaults."""
    given: dict[str, Any] = {}
    hints: dict[str, Any] = get_type_hints(options_type)
    for name, hint in hints.items():
        if is_dataclass(hint):
            given[name] = build_options(cast(type[object], hint), values)
        elif name in values:
            given[name] = values[name]
    return options_type(**given)
