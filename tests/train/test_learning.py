"""Tests of learning: a few minutes of tools/learn.py per method give results far above chance."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LEARN = Path(__file__).parents[2] / "tools" / "learn.py"


def learn(world: Path, *settings: str) -> dict[str, dict[str, Any]]:
    """Run the tool, and return the results that it prints per method."""
    run = subprocess.run(
        [sys.executable, str(LEARN), str(world), *settings], check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {method: result for line in lines for method, result in line.items()}


@pytest.mark.slow
@pytest.mark.learns
def test_methods_beat_chance_and_the_head_beats_the_curve(tmp_path: Path) -> None:
    results = learn(tmp_path, "--train", "3000", "--steps", "400", "--films", "200")
    for method in ("clip", "tempme", "promptswitch", "ucofia", "glscl", "all", "joint"):
        assert results[method]["test"]["R@1"] > 4, "chance is 0.5"
        assert results[method]["test"]["look"] > 60, "chance is 50"
    for kind in ("direction", "order"):
        assert results["clip"]["test"][kind] == 50, "mean pooling ignores the order of frames"
    assert results["r2"]["test"]["head R1@0.7"] > results["r2"]["test"]["curve R1@0.7"]
