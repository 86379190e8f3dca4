"""The command ``vidret teach``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.examples import read_example_paths
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    DeviceOption,
    IndexOption,
    JsonOption,
    PrecisionOption,
    ServerOption,
    TokenOption,
)
from vidret.present.concepts import concept_to_dict, describe_concept
from vidret.present.terminal import print_message

CONCEPT = "Concept"
YesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--yes",
        metavar="PATH",
        help="Examples: an image, an indexed video, a folder of them, or a .json or .jsonl file of moments, as vidret "
        "locate --json prints them. Repeatable.",
        rich_help_panel=CONCEPT,
    ),
]
NoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--no",
        metavar="PATH",
        help="Examples of what it is not, preferably similar-looking ones. As --yes.",
        rich_help_panel=CONCEPT,
    ),
]
MeaningOption = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="TEXT", help="The concept in plain words; default: its name.", rich_help_panel=CONCEPT
    ),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace a concept of that name.", rich_help_panel=CONCEPT)
]
AddOption = Annotated[
    bool,
    typer.Option("--add", help="Add the examples to an existing concept of that name.", rich_help_panel=CONCEPT),
]


@app.command("teach")
def teach_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the concept; @NAME stands for it in queries.")],
    yes: YesOption = None,
    no: NoOption = None,
    text: MeaningOption = None,
    replace: ReplaceOption = False,
    add: AddOption = False,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Teach a concept by examples: @NAME then stands for it in queries. Works from one example."""
    if not (yes or (no and add)):
        raise typer.BadParameter("must name an example, got none", param_hint="--yes")
    shown, hidden = read_example_paths(yes or []), read_example_paths(no or [])
    engine = open_engine_or_client(context, server, token, index, device, precision)
    concept = engine.teach(name, shown, hidden, text=text, replace=replace, add=add)
    if as_json:
        print(json.dumps(concept_to_dict(concept), indent=2))
    else:
        print_message(describe_concept(concept))
