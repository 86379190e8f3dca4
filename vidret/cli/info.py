"""The command ``vidret info``."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import DEFAULT_INDEX, JsonOption, index_option
from vidret.present.show import show_info, show_table
from vidret.present.terminal import print_message
from vidret.text import sanitize

if TYPE_CHECKING:
    from vidret.store.store import Store

WHAT, RECALL = "What to show", "Recall"
FailedOption = Annotated[
    bool, typer.Option("--failed", help="List the files that failed, with reasons.", rich_help_panel=WHAT)
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Verify every stored byte against its checksum.", rich_help_panel=WHAT)
]
RepairOption = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Like --check, and drop what is damaged, so that the next vidret index encodes it again.",
        rich_help_panel=WHAT,
    ),
]
RecallOption = Annotated[
    bool,
    typer.Option(
        "--recall",
        help="Measure how many of the nearest segments the search finds, compared with an exact search.",
        rich_help_panel=RECALL,
    ),
]
RecallQueriesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Queries for --recall, in a file as for vidret calibrate; default: a built-in list.",
        rich_help_panel=RECALL,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(metavar="N", help="Seed of the sample of stored vectors for --recall.", rich_help_panel=RECALL),
]


@app.command("info")
def info_command(
    index: Annotated[Path, index_option(WHAT)] = Path(DEFAULT_INDEX),
    failed: FailedOption = False,
    check: CheckOption = False,
    repair: RepairOption = False,
    recall: RecallOption = False,
    queries: RecallQueriesOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what an index holds, check it for damage, or measure the recall of its search."""
    from vidret.store.store import Store

    if recall:
        from vidret.cli.recall import print_recall

        print_recall(index, queries, seed, as_json=as_json)
        return
    if queries is not None:
        raise typer.BadParameter("needs --recall, got none", param_hint="--queries")
    if repair and (damaged := Store.repair_catalog(index)):
        for reason in damaged:
            print(sanitize(f"catalog: {reason}"))
        print_message("The catalog was rebuilt from its intact rows: run vidret index again over the same videos.")
    with Store.open(index, write=repair) as store:
        if failed:
            print_failed(store, as_json=as_json)
            return
        if check or repair:
            is_damaged = print_damage(store, repair=repair)
            raise typer.Exit(1 if is_damaged and not repair else 0)
        facts = store.info()
    if as_json:
        print(json.dumps({**dataclasses.asdict(facts), "files": dict(facts.files)}, indent=2))
    else:
        show_info(facts)


def print_failed(store: "Store", *, as_json: bool) -> None:
    """Print the files that failed, with reasons."""
    rows = [(sanitize(record.path), record.reason) for record in store.files(state="failed")]
    if as_json:
        print(json.dumps([{"path": path, "reason": reason} for path, reason in rows], indent=2))
    else:
        show_table(("file", "reason"), rows, "No files failed.")


def print_damage(store: "Store", *, repair: bool) -> bool:
    """Print damaged segments and vector files, and return whether there are any; ``repair`` drops them."""
    segments = store.verify(repair=repair)
    for segment in segments:
        print(sanitize(f"segment {segment.number} of video {segment.video}: {segment.reason}"))
    print_message(f"{len(segments)} damaged segments{', to be encoded again' if repair and segments else ''}")
    files = store.verify_vectors(repair=repair)
    for file in files:
        print(sanitize(f"{file.path}: {file.reason}"))
    if files:
        print_message(f"{len(files)} damaged vector files{', dropped and to be rebuilt' if repair else ''}")
    return bool(segments or files)
