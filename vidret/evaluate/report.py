"""The report of an evaluation: all that its results depend on, the results, and a row per query."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from vidret.data.records import Split
from vidret.errors import VidretError, read_fault
from vidret.present.terminal import writing
from vidret.text import parse_json

FORMAT = 1
PARTS = {"task", "data", "per_query"}  # required to compare reports
REPORT = "report.json"
_DECODING = ("decord", "decord2", "av", "torchcodec")
PACKAGES = ("vidret", "torch", "numpy", "open_clip_torch", "faiss-cpu", "faiss-gpu", *_DECODING)


@dataclass(frozen=True, slots=True)
class Gallery:
    """The available videos of a split: files by video id, missing ids, and reasons by id of unreadable videos."""

    files: Mapping[str, Path]
    missing: Sequence[str]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one evaluation, with values that JSON can represent; ``per_query`` has one row per query."""

    task: str
    split: Split
    gallery: Gallery
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    per_query: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of report.json."""
        return {
            "format": FORMAT,
            "task": self.task,
            "data": {
                "name": self.split.name,
                "files": list(self.split.files),
                "notes": list(self.split.notes),
                "num_captions": len(self.split.captions),
                "num_queries": len(self.split.queries) + len(self.split.corpus_queries) + len(self.split.rated_queries),
                "num_videos": len(self.split.videos),
                "num_found": len(self.gallery.files) - len(self.gallery.failed),
                "missing": list(self.gallery.missing),
                "failed": dict(self.gallery.failed),
            },
            "model": dict(self.model),
            "settings": dict(self.settings),
            "results": dict(self.results),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "versions": list_versions(),
            "per_query": [dict(row) for row in self.per_query],
        }

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            VidretError: The file cannot be written.
        """
        with writing(path):
            path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def find_reports(path: Path) -> dict[str, Path]:
    """Return the reports at a path by name: a file, an output folder of an evaluation, or a folder of such folders.

    ``vidret eval folder`` writes one report per kind of annotation, each in a folder of its name. A single report has
    an empty name.

    Raises:
        VidretError: A folder has no report.
    """
    if not path.is_dir():
        return {"": path}
    if (path / REPORT).is_file():
        return {"": path / REPORT}
    report_paths = {file.parent.name: file for file in sorted(path.glob(f"*/{REPORT}"))}
    if not report_paths:
        raise VidretError(f"{path}: must hold a {REPORT} that vidret eval wrote, got none")
    return report_paths


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a report.json.

    Raises:
        VidretError: The file cannot be read, or is not a report of this format.
    """
    try:
        report: Any = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {read_fault(error)}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or PARTS - report.keys():
        raise VidretError(f"{path}: must be a report.json that vidret eval wrote, in format {FORMAT}")
    return report


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results may depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
