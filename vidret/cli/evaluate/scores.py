"""The commands ``vidret eval score`` and ``vidret eval compare``, and the tables of a report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.cli.options import argument, option
from vidret.errors import VidretError
from vidret.present.show import show_table
from vidret.present.terminal import print_message
from vidret.text import format_count

if TYPE_CHECKING:
    from vidret.data.records import Split

JsonOption = Annotated[bool, option("Print JSON.", flag="--json")]


def score_command(
    pred: Path = option("Predictions in the format of the benchmarks: .jsonl with qid and windows.", None, "FILE"),
    truth: Path = option("Annotation file, or its folder.", None, "PATH"),
    data: str = option(
        "Benchmark, such as qvhighlights-val; moments for your own .jsonl.", None, "NAME", default="moments"
    ),
    as_json: JsonOption = False,
) -> None:
    """Score a predictions file of any model."""
    from vidret.evaluate.moments import score_predictions

    split = read_data(data, truth)
    results = score_predictions(pred, split)
    if as_json:
        scored = {"name": split.name, "files": split.files, "notes": split.notes, "num_queries": len(split.queries)}
        print(json.dumps({"data": scored, **results}, indent=1))
        return
    print_message(f"{split.name} ({', '.join(split.files)}): {format_count(len(split.queries), 'query')}")
    for note in split.notes:
        print_message(f"note: {note}")
    print_tables({"results": results})


def compare_command(
    first: Path = argument("A report.json, or a folder written by vidret eval.", "FIRST"),
    second: Path = argument("A second report on the same data.", "SECOND"),
    seed: int = option("Seed of the bootstrap.", None, "N", default=0, min=0),
    as_json: JsonOption = False,
) -> None:
    """Test whether two reports differ by more than chance (paired bootstrap)."""
    from vidret.evaluate.comparing import compare_reports
    from vidret.evaluate.published import CLASSIC, PROTOCOLS, list_published, tabulate_published
    from vidret.evaluate.report import read_report
    from vidret.evaluate.tables import tabulate_comparison

    pairs = pair_reports(first, second)
    compared: dict[str, Any] = {}
    for name, (one, other) in pairs.items():
        try:
            compared[name] = compare_reports(read_report(one), read_report(other), seed=seed)
        except VidretError as error:
            raise VidretError(f"{name}: {error}" if name else str(error)) from error
    if as_json:
        print(json.dumps(compared.get("", compared), indent=1))
        return
    for index, (name, rows) in enumerate(compared.items()):
        if name:
            print(f"\n{name}" if index else name)
        print_table(*tabulate_comparison(rows))
        reports = {label: read_report(path) for label, path in zip(("first", "second"), pairs[name], strict=True)}
        if reports["first"]["task"] == "retrieval" and list_published(reports["first"]):
            metric = PROTOCOLS[reports["first"]["settings"].get("protocol", CLASSIC)].metric
            print("\nwith published results of open models, of which each has frames of its own")
            print_table(("model", f"{metric}, text to video", "video to text"), list(tabulate_published(reports)))


def pair_reports(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    """Return the pairs of reports by name, and print which are left out, since only one folder has them."""
    from vidret.evaluate.report import find_reports

    ones, others = find_reports(first), find_reports(second)
    names = [name for name in ones if name in others]
    if not names:
        raise VidretError(f"folders must have reports of the same names, got {', '.join(ones)} and {', '.join(others)}")
    if unpaired := sorted(ones.keys() ^ others.keys()):
        print_message(f"Left out, in one folder only: {', '.join(unpaired)}")
    return {name: (ones[name], others[name]) for name in names}


def read_data(data: str, annotations: Path, split: str | None = None) -> "Split":
    """Return a split of a benchmark, by its name."""
    from vidret.data.benchmarks.splits import read_split, resolve_split

    try:
        resolve_split(data)
    except VidretError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from error
    return read_split(data, annotations, split)


def print_tables(facts: dict[str, Any]) -> None:
    """Print the tables of a report to stdout, each below its title."""
    from vidret.evaluate.tables import make_tables

    for index, (title, (columns, lines)) in enumerate(make_tables(facts)):
        print(f"\n{title}" if index else title)
        print_table(columns, lines)


def print_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; a last column of numbers is right-aligned, too."""
    rows = [list(columns), *map(list, lines)]
    if all(row[-1].replace(".", "").isdigit() for row in rows[1:]):
        width = max(len(row[-1]) for row in rows)
        rows = [[*row[:-1], row[-1].rjust(width)] for row in rows]
    show_table(rows[0], rows[1:])
