"""The command ``vidret duplicates``."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import DEFAULT_INDEX, OUTPUT, SCOPE, IndexOption, JsonOption, ServerOption, TokenOption
from vidret.cli.sheets import write_copies_sheet
from vidret.present.copies import format_copies, show_copies
from vidret.present.progress import show_count
from vidret.present.terminal import write_stdout

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...", help="Indexed files or folders to find copies of; default: all.", rich_help_panel=SCOPE
    ),
]
CopiesSheetOption = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        help="Write a contact sheet: the same moment of each file (.jpg or .png).",
        rich_help_panel=OUTPUT,
    ),
]


@app.command("duplicates")
def duplicates_command(
    context: typer.Context,
    paths: PathsArgument = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
    sheet: CopiesSheetOption = None,
) -> None:
    """Find files that show the same footage, and the best file of each group; nothing is deleted."""
    engine = open_engine_or_client(context, server, token, index, "cpu", "auto")
    with show_count("comparing", "pairs") as on_count:
        groups = engine.duplicates(paths or (), on_progress=on_count)
    if as_json:
        write_stdout(format_copies(groups))
    else:
        show_copies(groups)
    if sheet is not None:
        write_copies_sheet(groups, sheet)
