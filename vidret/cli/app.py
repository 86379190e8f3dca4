"""The Typer application, on which the modules of the commands register them."""

from typing import Annotated, Any

import typer

from vidret.cli.registry import COMMANDS, CommandApp, CommandGroup, UnloadedCommand
from vidret.present.terminal import LEVELS, set_log_format


class ProgramGroup(CommandGroup):
    """The commands of ``vidret``, unloaded; ``registered`` holds those whose modules are imported."""

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        """Take the registered commands from Typer."""
        super().__init__(commands={each.name: UnloadedCommand(each, app) for each in COMMANDS}, **settings)
        self.registered = dict(commands or {})


app = CommandApp(
    cls=ProgramGroup,
    help="Search videos by text: index a folder, find videos, locate moments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def load_commands() -> dict[str, Any]:
    """Import the modules of all commands; return the commands by name."""
    group: Any = typer.main.get_command(app)
    return {name: command.load() for name, command in group.commands.items()}


def print_version(asked: bool) -> None:
    """Print the version and exit, if it is asked for."""
    if asked:
        from importlib import metadata

        print(f"vidret {metadata.version('vidret')}")
        raise typer.Exit


@app.callback()
def set_options(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
    log_level: Annotated[
        str,
        typer.Option(
            metavar="|".join(LEVELS),
            envvar="VIDRET_LOG_LEVEL",
            help="Least important messages to print; info and debug also explain decisions.",
        ),
    ] = "warning",
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json",
            envvar="VIDRET_LOG_JSON",
            help="Print messages as lines of JSON, for log collectors.",
        ),
    ] = False,
) -> None:
    """Search videos by text: index a folder, find videos, locate moments."""
    set_log_format(log_level, as_json=log_json)
