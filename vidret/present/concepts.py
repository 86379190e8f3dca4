"""Taught concepts as a table, a sentence and JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vidret.present.show import show_table
from vidret.text import display_path, format_time, show_path
from vidret.types import Concept, ConceptExample

COLUMNS = ("name", "yes", "no", "examples' weight", "text")
MAX_LISTED = 3  # examples per concept in the table


def show_concepts(concepts: Sequence[Concept]) -> None:
    """Print concepts to stdout, with their first examples below each."""
    rows = []
    for each in concepts:
        rows.append((f"@{each.name}", str(len(each.yes)), str(len(each.no)), f"{each.share:.2f}", each.text))
        rows += [("", "", "", "", f"  {describe_example(example)}") for example in each.yes[:MAX_LISTED]]
        if len(each.yes) > MAX_LISTED:
            rows.append(("", "", "", "", f"  and {len(each.yes) - MAX_LISTED} more"))
    show_table(COLUMNS, rows, "No concept is taught: vidret teach NAME --yes PATH")


def describe_example(example: ConceptExample) -> str:
    """Return where an example is from."""
    path = display_path(example.path)
    if example.start is None or example.end is None:
        return path
    return f"{path} {format_time(example.start)} to {format_time(example.end)}"


def describe_concept(concept: Concept) -> str:
    """Return what was taught as a sentence."""
    counts = f"{len(concept.yes)} yes, {len(concept.no)} no"
    return (
        f"@{concept.name} is taught from {counts}; its examples weigh {concept.share:.2f}, the text {concept.text!r} "
        f"{1 - concept.share:.2f}. Search for it: vidret search '@{concept.name}'"
    )


def concept_to_dict(concept: Concept) -> dict[str, Any]:
    """Return a concept as a dict that JSON can represent."""
    row = dataclasses.asdict(concept)
    for example in (*row["yes"], *row["no"]):
        del example["image"]
        example["path"] = show_path(example["path"])
    return row
