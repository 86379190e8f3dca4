"""Queries and predictions from annotation and submission rows; comparison with the output of published evaluators."""

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
# These goldens contain the benchmarks' annotations, whose licences forbid a copy in the repository.
needs_goldens = pytest.mark.skipif("VIDRET_GOLDENS" not in os.environ, reason="VIDRET_GOLDENS is not set")
needs_data = pytest.mark.skipif(
    not {"VIDRET_GOLDENS", "VIDRET_DATA"} <= set(os.environ), reason="VIDRET_GOLDENS and VIDRET_DATA are not set"
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def find_files(name: str) -> list[Path]:
    """Return the paths of a golden file: in the repository, where it must exist, and under VIDRET_GOLDENS if set."""
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


def rated(query_id: str, ratings: Iterable[Any], domain: str = "") -> LabelledQuery:
    """Return a query into a video whose clips are all rated, by one annotator or several."""
    saliency = tuple(tuple(clip) if isinstance(clip, list | tuple) else (clip,) for clip in ratings)
    clips = tuple(range(len(saliency)))
    return LabelledQuery(query_id, query_id, "", None, (), clips, saliency, domain=domain)


def submit(folder: Path, rows: Iterable[Row]) -> list[Prediction]:
    """Write rows to a submission file and return its predictions."""
    path = folder / "submission.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read_predictions(path)


def printed(value: float) -> float:
    """Round to two decimals by formatting, like the published evaluators."""
    return float(f"{value:.2f}")


def moments_as_published(report: Mapping[str, Any], expected: Row) -> dict[str, Any]:
    """Return a moment report's values with the names and the rounding of the published output."""
    renamed: dict[str, Any] = {}
    for length in {"full", "short", "middle", "long"} & set(expected):
        renamed[length] = {}
        for name, value in expected[length].items():
            reported = report[length][name.removeprefix("MR-")]
            is_group = isinstance(value, dict)
            renamed[length][name] = {key: printed(reported[key]) for key in value} if is_group else printed(reported)
    return renamed


def highlights_as_published(report: HighlightReport) -> dict[str, Any]:
    facts = report.to_dict()
    return {
        f"HL-min-{level}": {f"HL-{name}": printed(facts[level][name]) for name in ("mAP", "Hit1")} for level in LEVELS
    }


def only(expected: Row, prefix: str) -> dict[str, Any]:
    """Return the groups of published output for highlights (prefix HL) or moments (any other prefix)."""
    groups = {name: value for name, value in expected.items() if name != "brief"}
    return {name: value for name, value in groups.items() if name.startswith("HL") == (prefix == "HL")}


def check_as_published(moments: MomentReport | None, highlights: HighlightReport | None, expected: Row) -> None:
    """Check that every number of the reports equals the published output, as printed."""
    assert (moments_as_published(moments.to_dict(), expected) if moments else {}) == only(expected, "MR")
    assert (highlights_as_published(highlights) if highlights else {}) == only(expected, "HL")
