"""A few minutes of tools/learn.py a method: what it prints is far from chance. The whole table takes hours."""

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
def test_every_method_learns_what_things_look_like_and_grounding_beats_the_curve(tmp_path: Path) -> None:
    found = learn(tmp_path, "--train", "3000", "--steps", "400", "--films", "200")
    for method in ("clip", "tempme", "promptswitch", "ucofia", "glscl", "all"):
        assert found[method]["test"]["R@1"] > 4, "chance is 0.5"
        assert found[method]["test"]["look"] > 60, "chance is 50"
    for kind in ("direction", "order"):
        assert found["clip"]["test"][kind] == 50, "mean pooling does not know an order"
    assert found["r2"]["test"]["head R1@0.7"] > found["r2"]["test"]["curve R1@0.7"]
