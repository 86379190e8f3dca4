"""The program itself: every command hangs itself on it."""

import typer

app = typer.Typer(
    help="Search videos by text: index a folder, find videos, locate moments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
