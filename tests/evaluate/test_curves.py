"""Tests of vidret eval curves."""

import json
from pathlib import Path

from tests.evaluate.world import Answer, run


def test_recall_by_size_in_text_and_json(world: Path, searched: tuple[Path, Answer]) -> None:
    common = ("eval", "curves", "--videos", world, "--index", searched[0] / "index", "--draws", 50)
    answer = run(*common)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0].split()[0] == "videos"
    found = json.loads(run(*common, "--size", 2, "--size", 5, "--json").out)
    assert [(row["size"], row["k"]) for row in found] == [(size, k) for size in (2, 5) for k in (1, 5, 10)]
    full = {row["k"]: row for row in found if row["size"] == 5}
    assert full[1]["low"] == full[1]["high"] == full[1]["mean"]
    assert full[1]["mean"] <= found[0]["mean"] + 1e-9
    report = json.loads((searched[0] / "report.json").read_text())
    assert full[1]["mean"] == report["results"]["rows"][0]["R@1"]
    refused = run(*common, "--size", 9)
    assert (refused.code, refused.out) == (1, "")
    assert "sizes must be between 2 and the 5 videos, got 9" in " ".join(refused.err.split())
