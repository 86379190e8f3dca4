"""The command ``vidret describe``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import read_bank
from vidret.cli.opening import open_engine
from vidret.cli.options import DEFAULT_INDEX, OUTPUT, SCOPE, IndexOption, JsonOption
from vidret.present.show import show_table
from vidret.present.terminal import print_message
from vidret.text import absolute_path, display_path, format_time, sanitize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidret.evaluate.describing import FolderDescription, RankedPhrase

COLUMNS = ("AUROC", "p", "source", "what", "video")


@app.command("describe")
def describe_command(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Indexed folder to describe.", rich_help_panel=SCOPE)],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="FOLDER",
            help="Indexed folder to compare with; default: all other videos of the index.",
            rich_help_panel=SCOPE,
        ),
    ] = None,
    phrases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Phrases about what is seen, one a line; default: class names, and the words that the index has read.",
            rich_help_panel=SCOPE,
        ),
    ] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[
        int, typer.Option("-k", metavar="N", min=1, help="Maximum number of phrases each.", rich_help_panel=OUTPUT)
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Describe what sets the videos of a folder apart from others, in phrases with p-values and example frames."""
    from vidret.evaluate.describing import describe_folder
    from vidret.store.store import Store

    bank = None if phrases is None else read_bank(phrases)
    names = [None if each is None else absolute_path(each) for each in (folder, against)]
    with open_engine(index, None, "auto", "auto", must_exist=True) as engine, Store.open(index) as store:
        found = describe_folder(store, engine.encoder, names[0] or "", against=names[1], phrases=bank, k=k)
    if as_json:
        print(json.dumps(description_to_dict(found), indent=2))
    else:
        show_description(found)


def description_to_dict(found: "FolderDescription") -> dict[str, object]:
    """Return a description as a dict that JSON can represent."""
    rows = {name: [each.to_dict() for each in getattr(found, name)] for name in ("more", "less")}
    for row in (*rows["more"], *rows["less"]):
        row["examples"] = [{**each, "path": sanitize(each["path"])} for each in row["examples"]]
    counts = {name: getattr(found, name) for name in ("num_videos", "num_others", "num_phrases")}
    return {**counts, **rows}


def show_description(found: "FolderDescription") -> None:
    """Print the phrases that are significant in each direction, and say where there are none."""
    print_message(f"{found.num_videos} videos against {found.num_others}, {found.num_phrases} phrases", style="dim")
    for title, phrases in (("More of", found.more), ("Less of", found.less)):
        significant = [each for each in phrases if each.is_significant]
        if not significant:
            best = min((each.difference.adjusted_p for each in phrases), default=1.0)
            print_message(f"{title}: no phrase beyond chance (lowest corrected p: {best:.2g})")
            continue
        print(f"{title}:")
        show_table(COLUMNS, list_phrase_rows(significant))


def list_phrase_rows(phrases: "Sequence[RankedPhrase]") -> list[tuple[str, ...]]:
    """Return the rows of a table of phrases."""
    rows: list[tuple[str, ...]] = []
    for each in phrases:
        examples = [f"{display_path(frame.path)} {format_time(frame.time)}" for frame in each.examples]
        facts = f"{each.difference.auroc:.3f}", f"{each.difference.adjusted_p:.2g}", each.phrase.kind
        rows.append((*facts, each.phrase.text, examples[0] if examples else ""))
        rows += [("", "", "", "", example) for example in examples[1:]]
    return rows
