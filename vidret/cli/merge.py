"""vidret merge: join indexes that were built apart."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import DEFAULT_INDEX, IndexOption, JsonOption
from vidret.present.show import show_count, tell_merge


@app.command()
def merge(
    indexes: Annotated[list[Path], typer.Argument(metavar="INDEX", help="The folders of indexes; only read.")],
    index: IndexOption = Path(DEFAULT_INDEX),
    as_json: JsonOption = False,
) -> None:
    """Copy what indexes hold into the one that --index names, new or not. Interrupt and run again at will."""
    from vidret.index.merging import merge_indexes

    with show_count("merging", "segments, files and moments") as count:
        report = merge_indexes(indexes, index, on_progress=count)
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        tell_merge(report, index)
    if report.interrupted:
        raise typer.Exit(1)
