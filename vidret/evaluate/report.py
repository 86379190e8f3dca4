"""What an evaluation says: every fact that its numbers depend on, the numbers, and each query's own."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from vidret.data.records import Split
from vidret.errors import VidretError

FORMAT = 1
PACKAGES = ("vidret", "torch", "numpy", "open_clip_torch", "faiss-cpu", "faiss-gpu", "decord", "decord2", "av")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Which of a benchmark's videos are there: their files, those that are missing, and those that cannot be read."""

    files: Mapping[str, Path]
    missing: Sequence[str]
    failed: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Say whether all videos of the benchmark take part."""
        return not self.missing and not self.failed


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation; ``results`` are as JSON has them, ``per_query`` one row of facts and numbers for each query."""

    task: str
    split: Split
    gallery: Gallery
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    per_query: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the whole as JSON has it."""
        return {
            "format": FORMAT,
            "task": self.task,
            "data": {
                "name": self.split.name,
                "files": list(self.split.files),
                "notes": list(self.split.notes),
                "num_captions": len(self.split.captions),
                "num_queries": len(self.split.queries),
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
        """Write report.json.

        Raises:
            VidretError: It cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise VidretError(f"{path}: cannot be written ({error.strerror})") from error


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json.

    Raises:
        VidretError: It cannot be read, or is something else.
    """
    try:
        report: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or "per_query" not in report:
        raise VidretError(f"{path}: must be a report.json of vidret eval")
    return report


def list_versions() -> dict[str, str]:
    """Name the versions that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
