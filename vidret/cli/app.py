"""The Typer application, on which every command registers itself."""

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


def tidy(params: list[Any]) -> list[Any]:
    """Show flags without a type (``--json``, not ``--json <bool>``), and ``--help`` below the last options."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    *others, last = params
    if others and "--help" in last.opts:
        last.rich_help_panel = getattr(others[-1], "rich_help_panel", None)
    return params


class Command(TyperCommand):
    """A command with tidy help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options that the help shows."""
        return tidy(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of commands with tidy help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options that the help shows."""
        return tidy(super().get_params(ctx))


app = typer.Typer(
    cls=CommandGroup,
    help="Search videos by text: index a folder, find videos, locate moments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def print_version(asked: bool) -> None:
    """Print the version and exit, if it is asked for."""
    if asked:
        print(f"vidret {metadata.version('vidret')}")
        raise typer.Exit


@app.callback()
def set_options(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    """Search videos by text: index a folder, find videos, locate moments."""
