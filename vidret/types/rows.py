"""Conversion of results to rows and back, by annotations of the fields of their dataclasses.

The command line (JSON and CSV), the HTTP API, its client and the MCP server derive their rows from the fields of a
result's dataclass, so that a field added there appears everywhere.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from inspect import cleandoc
from math import isfinite
from operator import attrgetter
from sys import float_info
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Getter = TypeVar("Getter", bound=Callable[..., Any])
Door = Literal["json", "http", "mcp", "csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The annotation of a result's field with how it is shown; its name and description are those of the docstring.

    Attributes:
        everywhere: Whether JSON and the HTTP API have it.
        mcp: Whether the MCP server gives it to language models.
        column: Its place among the columns of CSV; None if it is none of them.
        example: In the HTTP API.
        holds: What a text, or each text of a list, means: a ``path`` may be a URL with a signature.
        digits: Decimals of a number over MCP.
        limit: Characters of a text over MCP, or number of items of a list.
        names: Of a dataclass, the names of its fields in the row that has it; JSON has it as an object of its own.
        is_sparse: Whether JSON leaves it out if it is empty.
    """

    everywhere: bool = True
    mcp: bool = False
    column: int | None = None
    example: Any = None
    holds: Literal["path"] | None = None
    digits: int | None = None
    limit: int | None = None
    names: Mapping[str, str] | None = None
    is_sparse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowField:
    """A field of a row: its name, the type of its value, how it is shown, and its getter."""

    name: str
    type: Any
    shown: Shown
    help: str
    get: Callable[[Any], Any]


def show_property(shown: Shown) -> Callable[[Getter], Getter]:
    """Return a decorator for the getter of a property, which is then shown like a field."""

    def mark(getter: Getter) -> Getter:
        getter.shown = shown  # type: ignore[attr-defined]
        return getter

    return mark


@cache
def list_row_fields(result_type: Any, door: Door) -> tuple[RowField, ...]:
    """Return the fields of the rows of a result: those of the dataclass, then its shown properties."""
    helps = read_attributes(result_type.__doc__ or "")
    listed: list[RowField] = []
    for name, hint in _list_fields(result_type):
        kind, shown = split_hint(hint)
        if shown.names is None or door == "json":
            listed.append(RowField(name=name, type=kind, shown=shown, help=helps.get(name, ""), get=attrgetter(name)))
            continue
        listed += [
            replace(inner, name=outer, get=attrgetter(f"{name}.{inner.name}"))
            for inner in list_row_fields(kind, "json")
            if (outer := shown.names[inner.name]) not in {field.name for field in listed}
        ]
    for name, value in vars(result_type).items():
        if isinstance(value, property) and (mark := getattr(value.fget, "shown", None)):
            kind, text = get_type_hints(value.fget)["return"], (value.__doc__ or "").partition("\n")[0]
            listed.append(RowField(name=name, type=kind, shown=mark, help=text, get=attrgetter(name)))
    if door == "csv":
        columns = [field for field in listed if field.shown.column is not None]
        return tuple(sorted(columns, key=lambda field: field.shown.column or 0))
    return tuple(field for field in listed if (field.shown.mcp if door == "mcp" else field.shown.everywhere))


def to_row(result: Any, door: Door, show_path: Callable[[str], str], *, digits: int | None = None) -> dict[str, Any]:
    """Return a result as a dict that JSON can represent.

    Args:
        result: A dataclass.
        door: The interface that the row is for.
        show_path: Returns the safe form of a path, such as ``vidret.text.show_path``.
        digits: Decimals of all numbers; None for all of them.
    """

    def convert(value: Any, shown: Shown) -> Any:
        if is_dataclass(value):
            return to_row(value, door, show_path, digits=digits)
        if isinstance(value, str):
            return show_path(value) if shown.holds == "path" else value
        if isinstance(value, float):
            return value if digits is None else round(value, digits)
        if hasattr(value, "tolist"):  # an array
            return value.tolist()
        if isinstance(value, list | tuple):
            return [convert(item, shown) for item in value]
        return dict(value) if isinstance(value, Mapping) else value

    row: dict[str, Any] = {}
    result_type: Any = type(result)
    for field in list_row_fields(result_type, door):
        value = field.get(result)
        if not (field.shown.is_sparse and door == "json" and not value):
            row[field.name] = convert(value, field.shown)
    return row


def from_row(result_type: type[T], row: Any) -> T:
    """Return a result from its row in the HTTP API; missing fields have their defaults.

    Raises:
        ValueError: It is not a JSON object, or a field without a default is missing, or has a value of another type.
    """
    values: dict[str, Any] = {}
    dataclass_type: Any = result_type
    _check_type(dataclass_type.__name__, dict, row)
    defaults = {field.name: field for field in fields(dataclass_type)}
    for name, hint in _list_fields(dataclass_type):
        kind, shown = split_hint(hint)
        field = defaults[name]
        if shown.names is not None:
            named = {inner: row[outer] for inner, outer in shown.names.items() if outer in row}
            values[name] = from_row(kind, named)
        elif name in row and shown.everywhere:
            values[name] = read_value(name, kind, row[name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name} must be given")
    return result_type(**values)


def read_attributes(docstring: str) -> dict[str, str]:
    """Return the descriptions below ``Attributes:`` in a docstring, by name.

    >>> read_attributes(RowField.__doc__ or ""), read_attributes(Shown.__doc__ or "")["column"]
    ({}, 'Its place among the columns of CSV; None if it is none of them.')
    """
    _, _, section = cleandoc(docstring).partition("Attributes:\n")  # Python 3.13 removes the indentation itself
    attributes = re.findall(r"^ {4}(\w+): ((?:.+\n?)(?: {8}.+\n?)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in attributes}


def split_hint(hint: Any) -> tuple[Any, Shown]:
    """Return the type of a field, and how it is shown."""
    if get_origin(hint) is not Annotated:
        return hint, Shown()
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, Shown)), Shown())


@cache
def _list_fields(result_type: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(result_type, include_extras=True)
    return tuple((field.name, hints[field.name]) for field in fields(result_type))


LARGEST_FLOAT = int(float_info.max)
RULES = {bool: "true or false", float: "a number", int: "an integer", str: "a text", list: "a list", dict: "an object"}


def read_value(name: str, kind: Any, value: Any) -> Any:
    """Return a JSON value converted to the type of a result's field.

    >>> read_value("span", tuple[float, float], [1, 2.5]), read_value("speed", float | None, None)
    ((1.0, 2.5), None)

    Raises:
        ValueError: The value has another type, or is a number that is not finite.
    """
    if type(value) is kind and kind is not float:
        return value
    kind, origin, inner, may_be_none = _split_kind(kind)
    if value is None and may_be_none:
        return None
    if is_dataclass(kind):
        return from_row(kind, value)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, inner))}, got {_show(value)}")
        return value
    if hasattr(kind, "dtypes"):
        return _read_numbers(name, value)
    if origin is tuple:
        items = _check_type(name, list, value)
        if inner[-1] is Ellipsis:
            return tuple(read_value(name, inner[0], item) for item in items)
        if len(items) != len(inner):
            raise ValueError(f"{name} must have length {len(inner)}, got {len(items)}")
        return tuple(read_value(name, item_kind, item) for item_kind, item in zip(inner, items, strict=True))
    if origin in (Mapping, dict):
        return {key: read_value(key, inner[1], item) for key, item in _check_type(name, dict, value).items()}
    return value if kind is Any else _check_type(name, kind, value)


@cache
def _split_kind(kind: Any) -> tuple[Any, Any, tuple[Any, ...], bool]:
    """Return a type without None, its origin, its arguments, and whether None is allowed."""
    kind, _ = split_hint(kind)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    kind = next(member for member in members if member is not NoneType)
    return kind, get_origin(kind) or kind, get_args(kind), NoneType in members


def _check_type(name: str, kind: Any, value: Any) -> Any:
    """Return a value if it has this type in JSON; an integer is a number, too."""
    if type(value) is kind and (kind is not float or isfinite(value)):
        return value
    if kind is float and type(value) is int and abs(value) <= LARGEST_FLOAT:
        return float(value)
    raise ValueError(f"{name} must be {RULES[kind]}, got {_show(value)}")


def _show(value: Any) -> str:
    return RULES[type(value)] if isinstance(value, list | dict) else f"{value!r:.60}"


def _read_numbers(name: str, value: Any) -> Any:
    import numpy as np  # for arrays only

    try:
        numbers = np.array(_check_type(name, list, value), np.float64)
    except (TypeError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be a list of numbers, got something else in it")
    return numbers
