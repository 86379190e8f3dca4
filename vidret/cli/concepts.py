"""The commands ``vidret concepts`` and ``vidret forget``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import is_on_command_line, open_engine_or_client
from vidret.cli.options import DEFAULT_INDEX, IndexOption, JsonOption, ServerOption, TokenOption
from vidret.present.concepts import concept_to_dict, show_concepts
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.types import Concept


@app.command("concepts")
def concepts_command(
    context: typer.Context,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the taught concepts with their examples."""
    if server is None and not is_on_command_line(context, "token"):
        concepts = read_local_concepts(index)
    else:
        concepts = open_engine_or_client(context, server, token, index, "auto", "auto").concepts()
    if as_json:
        print(json.dumps([concept_to_dict(concept) for concept in concepts], indent=2))
    else:
        show_concepts(concepts)


@app.command("forget")
def forget_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the concept.")],
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Forget a taught concept."""
    if server is None and not is_on_command_line(context, "token"):
        from vidret.search.concepts import forget_concept
        from vidret.store.store import Store

        with Store.open(index, write=True) as store:
            forget_concept(store, name)
    else:
        open_engine_or_client(context, server, token, index, "auto", "auto").forget(name)
    print_message(f"@{name.removeprefix('@')} is forgotten.")


def read_local_concepts(index: Path) -> "list[Concept]":
    """Return the concepts of a local index, without loading a model."""
    from vidret.search.concepts import list_concepts
    from vidret.store.store import Store

    with Store.open(index) as store:
        return list_concepts(store)
