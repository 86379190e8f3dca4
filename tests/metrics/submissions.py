"""Rows of annotation and submission files as values, what official output rounds to, and where its numbers lie."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.goldens import HERE
from vidret.data.records import LabelledQuery
from vidret.metrics.grounding import MomentReport
from vidret.metrics.highlight import LEVELS, HighlightReport
from vidret.metrics.predictions import Prediction, read_predictions

Row = Mapping[str, Any]
GOLDENS = Path(os.environ.get("VIDRET_GOLDENS", "")) / "eval"
DATA = Path(os.environ.get("VIDRET_DATA", ""))
# Licences forbid a copy of these numbers: they hold the benchmarks' own annotations.
needs_goldens = pytest.mark.skipif("VIDRET_GOLDENS" not in os.environ, reason="VIDRET_GOLDENS is not set")
needs_data = pytest.mark.skipif(
    not {"VIDRET_GOLDENS", "VIDRET_DATA"} <= set(os.environ), reason="VIDRET_GOLDENS and VIDRET_DATA are not set"
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def find_files(name: str) -> list[Path]:
    """Find a golden file here, which must be there, and where VIDRET_GOLDENS points."""
    assert (HERE / name).exists(), f"goldens are missing: {HERE / name}"
    return [HERE / name, *([GOLDENS.parent / name] if "VIDRET_GOLDENS" in os.environ else [])]


def to_query(row: Row) -> LabelledQuery:
    return LabelledQuery(
        id=str(row["qid"]),
        video=row["vid"],
        text=row.get("query", ""),
        duration=row["duration"],
        spans=tuple((start, end) for start, end in row["relevant_windows"]),
        clips=tuple(row.get("relevant_clip_ids", ())),
        saliency=tuple(map(tuple, row.get("saliency_scores", ()))),
    )


def rated(name: str, ratings: Iterable[Any], domain: str = "") -> LabelledQuery:
    """Make a video all of whose clips are rated, by one person or by several."""
    marks = tuple(tuple(each) if isinstance(each, list | tuple) else (each,) for each in ratings)
    return LabelledQuery(name, name, "", None, (), tuple(range(len(marks))), marks, domain=domain)


def submit(folder: Path, rows: Iterable[Row]) -> list[Prediction]:
    """Write rows as a submission and read it."""
    path = folder / "submission.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read_predictions(path)


def printed(value: float) -> float:
    """Round as the published evaluators do: by printing."""
    return float(f"{value:.2f}")


def moments_as_published(report: Mapping[str, Any], expected: Row) -> dict[str, Any]:
    """Give the part of a moment report that the published output has, under its names and rounded as it is."""
    found: dict[str, Any] = {}
    for length in {"full", "short", "middle", "long"} & set(expected):
        found[length] = {}
        for name, value in expected[length].items():
            own = report[length][name.removeprefix("MR-")]
            found[length][name] = {key: printed(own[key]) for key in value} if isinstance(value, dict) else printed(own)
    return found


def highlights_as_published(report: HighlightReport) -> dict[str, Any]:
    return {
        f"HL-min-{level}": {
            "HL-mAP": printed(report.mean_average_precision(level)),
            "HL-Hit1": printed(report.hit_rate(level)),
        }
        for level in LEVELS
    }


def only(expected: Row, prefix: str) -> dict[str, Any]:
    """Take the groups of published output: those of highlights begin with HL, the others are moments'."""
    groups = {name: value for name, value in expected.items() if name != "brief"}
    return {name: value for name, value in groups.items() if name.startswith("HL") == (prefix == "HL")}


def check_as_published(moments: MomentReport | None, highlights: HighlightReport | None, expected: Row) -> None:
    """Hold reports against published output, number by number as it is printed."""
    assert (moments_as_published(moments.to_dict(), expected) if moments else {}) == only(expected, "MR")
    assert (highlights_as_published(highlights) if highlights else {}) == only(expected, "HL")
