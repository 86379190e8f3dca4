"""Options of commands that are made of ``SearchOptions`` and ``LocateOptions``."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, get_args, get_origin

import typer

from vidret.cli.inputs import parse_names
from vidret.cli.options import find_options, replace_options
from vidret.text import absolute_path, is_url
from vidret.types import NamedOption, build_options, list_options

SWITCH = {True: "on", False: "off"}


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with one option per field in place of its parameter that is a dataclass of options."""
    options = find_options(command)
    listed = [each for each in list_options(options.annotation) if each.option.panel is not None]

    def run(**arguments: Any) -> None:
        values = {each.name: parse_option(each, arguments.pop(each.name)) for each in listed}
        if arguments.get("server") is None:
            check_folders(listed, values)
        command(**arguments, **{options.name: build_options(options.annotation, values)})

    return replace_options(command, run, [make_parameter(named) for named in listed])


def make_parameter(named: NamedOption) -> inspect.Parameter:
    """Return an option as a parameter of a command; a text stands for a list, or for a boolean that is on or off."""
    is_text = get_origin(named.type) is tuple or is_switch(named)
    hint = datetime if named.option.holds == "date" else str if is_text else named.type
    return inspect.Parameter(
        named.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=SWITCH[named.default] if is_switch(named) else named.default,
        annotation=Annotated[hint | None if named.default is None else hint, make_option(named)],
    )


def make_option(named: NamedOption) -> Any:
    """Return the flag of an option with its help and limits."""
    option = named.option
    return typer.Option(
        flag_of(named), metavar=option.metavar, min=option.minimum, help=option.help, rich_help_panel=option.panel
    )


def check_folders(listed: Sequence[NamedOption], values: Mapping[str, Any]) -> None:
    """Check that the folders among the values are there; those of a server are not on this machine.

    Raises:
        typer.BadParameter: One is not.
    """
    for named in listed:
        folder = values[named.name] if named.option.holds == "folder" else None
        if folder is not None and not is_url(folder) and not os.path.isdir(folder):  # noqa: PTH112  any bytes
            raise typer.BadParameter(f"must be an existing folder, got {folder}", param_hint=flag_of(named))


def is_switch(named: NamedOption) -> bool:
    """Return whether an option is a boolean that is written as on or off, not as a flag."""
    return named.type is bool and named.option.metavar is not None


def flag_of(named: NamedOption) -> str:
    """Return the flag of an option, such as ``--min-seconds``."""
    return named.option.flag or f"--{named.name.replace('_', '-')}"


def parse_option(named: NamedOption, value: Any) -> Any:
    """Return the value of a command's option as Python takes it; dates without a time zone are local.

    Raises:
        typer.BadParameter: A name in a list is unknown, or a switch is neither on nor off.
    """
    if value is None:
        return None
    if is_switch(named):
        if value not in SWITCH.values():
            raise typer.BadParameter(f"must be on or off, got {value}", param_hint=flag_of(named))
        return value == SWITCH[True]
    if named.option.holds == "date":
        return value.timestamp()
    if named.option.holds == "folder":
        from vidret.video.files import find_spelling

        return find_spelling(absolute_path(os.path.expanduser(value)))  # noqa: PTH111  Path would break a URL
    if get_origin(named.type) is tuple:
        return parse_names(value, get_args(get_args(named.type)[0]), option=flag_of(named))
    return value
