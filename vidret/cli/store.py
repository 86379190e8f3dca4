"""vidret store: where an index has its vectors."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import DEFAULT_INDEX, IndexOption
from vidret.present.show import show_count
from vidret.present.terminal import say

group = typer.Typer(help="Change where an index has its vectors: in FAISS or in Milvus.", no_args_is_help=True)
app.add_typer(group, name="store")


@group.callback()
def _parts() -> None:
    """Have the one command keep its name."""


@group.command()
def move(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Where they are, as vidret info says.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where they go: faiss or milvus://..., as in index.")],
    index: IndexOption = Path(DEFAULT_INDEX),
) -> None:
    """Take the vectors elsewhere. Searches go on meanwhile; interrupt and run again at will."""
    from vidret.store.store import Store

    with Store.open(index, write=True) as store, show_count("moving", "videos") as count:
        store.move_vectors(source, target, on_progress=count)
        now = store.info().store
    say(f"The vectors of {index} are in {now}.")
