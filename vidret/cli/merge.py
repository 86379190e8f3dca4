"""The command ``vidret merge``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.present.progress import show_count
from vidret.present.show import run_to_dict
from vidret.present.summaries import print_merge_summary


@app.command("merge")
def merge_command(
    indexes: Annotated[list[Path], typer.Argument(metavar="INDEX", help="Index folders to merge; they are only read.")],
    index: Annotated[
        Path,
        typer.Option("--index", metavar="DIR", envvar="VIDRET_INDEX", help="Folder to merge into, new or not."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge indexes that were built separately into one. Safe to interrupt and run again."""
    from vidret.index.merging import merge_indexes

    with show_count("merging", "segments, files and moments") as on_count:
        report = merge_indexes(indexes, index, on_progress=on_count)
    if as_json:
        print(json.dumps(run_to_dict(report), indent=2))
    else:
        print_merge_summary(report, index)
    if report.interrupted:
        raise typer.Exit(1)
