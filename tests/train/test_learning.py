"""A few minutes of tools/learn.py: what it prints is far from chance. The whole table takes hours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LEARN = Path(__file__).parents[2] / "tools" / "learn.py"


def learn(world: Path, *settings: str) -> dict[str, dict[str, Any]]:
    """Run the tool, and read the line it prints for each method."""
    run = subprocess.run(
        [sys.executable, str(LEARN), str(world), *settings], check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {method: found for line in lines for method, found in line.items()}


@pytest.mark.slow
def test_retrieval_learns_what_things_look_like_and_grounding_beats_the_curve(tmp_path: Path) -> None:
    found = learn(tmp_path, "--methods", "clip", "tempme", "r2", "--train", "3000", "--steps", "600")
    for method in ("clip", "tempme"):
        assert found[method]["R@1"] > 10, "chance is 0.5"
        assert found[method]["look"] > 65, "chance is 50"
    for kind in ("direction", "order"):
        assert found["clip"][kind] == pytest.approx(50, abs=3), "mean pooling does not know an order"
    assert found["r2"]["head R1@0.5"] > found["r2"]["curve R1@0.5"]
