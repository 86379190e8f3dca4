"""The commands ``vidret export ...``."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.commands import CommandApp, CommandGroup
from vidret.cli.options import DEFAULT_INDEX, FILTERS, OUTPUT, IndexOption
from vidret.errors import VidretError
from vidret.present.terminal import print_message

group = CommandApp(cls=CommandGroup, help="Write what an index holds for other programs.", no_args_is_help=True)
app.add_typer(group, name="export")
LEVELS = ("segment", "frame")


@group.callback()
def keep_name() -> None:
    """Do nothing: without a callback, typer would drop the name of a group's only command."""


@group.command("embeddings")
def embeddings_command(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; an existing one is replaced.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="npy|parquet|safetensors",
            help="npy with a .csv of paths and times beside it, parquet (extra parquet), or safetensors.",
            rich_help_panel=OUTPUT,
        ),
    ] = "npy",
    level: Annotated[
        str,
        typer.Option(
            "--level", metavar="|".join(LEVELS), help="One vector for each segment or frame.", rich_help_panel=OUTPUT
        ),
    ] = "segment",
    folder: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Only videos in this folder, at any depth.", rich_help_panel=FILTERS),
    ] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
) -> None:
    """Write the stored vectors with their paths and times. No model is loaded."""
    from vidret.present.vector_files import check_vector_format, write_embeddings
    from vidret.store.contents import read_embeddings
    from vidret.store.store import Store
    from vidret.text import absolute_path
    from vidret.types import Filters

    check_vector_format(form)
    if out.suffix != f".{form}":
        raise typer.BadParameter(f"must end in .{form}, got {out}", param_hint="FILE")
    filters = Filters(folder=None if folder is None else absolute_path(folder))
    with Store.open(index) as store:
        found = read_embeddings(store, "frame" if level == "frame" else "segment", filters)
    if not len(found.vectors):
        raise VidretError(f"{index}: there is no vector to write")
    written = write_embeddings(found, out, form)
    print_message(f"{len(found.vectors)} vectors of {found.vectors.shape[1]}: {', '.join(map(str, written))}")
