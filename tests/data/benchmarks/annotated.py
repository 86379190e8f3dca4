"""Small annotation files in the formats of the benchmarks."""

import json
from pathlib import Path
from typing import Any


def write(path: Path, content: object) -> Path:
    """Write a text, lines of JSON for a tuple, or JSON, and return the path."""
    if isinstance(content, tuple):
        content = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def make_clip(uid: str, *queries: dict[str, Any]) -> dict[str, Any]:
    """Return a clip of Ego4D with queries."""
    annotations = [{"annotation_uid": "n1", "language_queries": list(queries)}]
    return {"clip_uid": uid, "video_start_sec": 100.0, "video_end_sec": 580.0, "annotations": annotations}
