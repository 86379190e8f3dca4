"""vidret eval score, vidret eval compare: numbers from files alone, and how tables of numbers are printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.present.show import show_table

if TYPE_CHECKING:
    from vidret.data.records import Split

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def score(
    pred: Annotated[Path, typer.Option(help="Predictions as the benchmarks want them: .jsonl with qid and windows.")],
    truth: Annotated[Path, typer.Option(help="The annotation file, or the folder of it.")],
    data: Annotated[
        str, typer.Option(help="The benchmark, as qvhighlights-val; moments for your own .jsonl.")
    ] = "moments",
    as_json: JsonOption = False,
) -> None:
    """Score a predictions file made by anyone's model."""
    from vidret.evaluate.scoring import score_predictions

    results = score_predictions(pred, read_data(data, truth))
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        print_tables({"results": results})


def compare(
    first: Annotated[Path, typer.Argument(help="A report.json.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same data.")],
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say whether one of two reports is better than the other, or whether it was luck (paired bootstrap)."""
    from vidret.evaluate.comparing import compare_reports
    from vidret.evaluate.report import read_report
    from vidret.evaluate.tables import tabulate_comparison

    rows = compare_reports(read_report(first), read_report(second), seed=seed)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(*tabulate_comparison(rows))


def read_data(data: str, annotations: Path, split: str | None = None) -> "Split":
    """Read a split, by the name of its benchmark."""
    from vidret.data.benchmarks.splits import read_split

    return read_split(data, annotations, split)


def print_tables(facts: dict[str, Any]) -> None:
    """Print the numbers of a report."""
    from vidret.evaluate.tables import make_tables

    for number, (title, (columns, lines)) in enumerate(make_tables(facts)):
        print(f"\n{title}" if number else title)
        print_table(columns, lines)


def print_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print columns, the last one to the right too where it holds numbers."""
    rows = [list(columns), *map(list, lines)]
    if all(row[-1].replace(".", "").isdigit() for row in rows[1:]):
        width = max(len(row[-1]) for row in rows)
        rows = [[*row[:-1], row[-1].rjust(width)] for row in rows]
    show_table(rows[0], rows[1:])
