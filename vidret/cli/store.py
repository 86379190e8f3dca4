"""The commands ``vidret store ...``."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.commands import CommandApp, CommandGroup
from vidret.cli.options import DEFAULT_INDEX, index_option
from vidret.present.progress import show_count
from vidret.present.terminal import print_message

group = CommandApp(cls=CommandGroup, help="Manage where an index keeps its vectors.", no_args_is_help=True)
app.add_typer(group, name="store")


@group.callback()
def keep_command_name() -> None:
    """Do nothing: without a callback, typer would drop the name of a group's only command."""


@group.command("move")
def move_command(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The present store, as vidret info shows it.")],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="The new store: faiss or milvus://..., as for vidret index --store.")
    ],
    index: Annotated[Path, index_option()] = Path(DEFAULT_INDEX),
) -> None:
    """Move the vectors from FAISS to Milvus or back. Searches keep working. Safe to interrupt and run again."""
    from vidret.store.store import Store

    with Store.open(index, write=True) as store, show_count("moving", "videos") as on_count:
        store.move_vectors(source, target, on_progress=on_count)
        current = store.info().store
    print_message(f"The vectors of {index} are in {current}.")
