"""Tests of what tools/bench_train.py says of memory and of training: bfloat16 and chunks save memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch import nn

from tests.tool_loading import load_tool

ROOT = Path(__file__).parents[2]
memory = load_tool("bench_train")
TOWERS = {
    "vision": {"image_size": 64, "patch": 8, "width": 64, "layers": 4, "heads": 2, "dim": 32, "quick_gelu": True},
    "text": {"context": 32, "vocabulary": 49408, "width": 32, "layers": 2, "heads": 2, "dim": 32},
}


def make_config(method: str, **model: Any) -> dict[str, Any]:
    return {
        "trainer": {"precision": "bf16-mixed"},
        "model": {"init_args": {"method": method, **TOWERS, **model}},
        "data": {"init_args": {"batch_size": 64, "num_frames": 6, "num_words": 16}},
    }


MERGING = {"merging": {"layers": [1, 2], "factors": [2, 3], "r": 2, "cross": 0.3, "intra": 0.1}, "lora_rank": 4}


@pytest.mark.parametrize(("method", "model"), [("clip", {}), ("tempme", MERGING)])
def test_bfloat16_and_chunks_save_activations(method: str, model: dict[str, Any]) -> None:
    found = memory.count(make_config(method, num_frames=6, **model))
    assert 0.5 * found["32-true"] < found["bf16-mixed"] < 0.65 * found["32-true"]
    assert found["as configured"] == found["bf16-mixed"]
    chunked = memory.count(make_config(method, num_frames=6, chunk_size=8, **model))
    assert found["bf16-mixed"] / 8 < chunked["as configured"] < 0.15 * found["bf16-mixed"]


def test_saved_tensors_are_counted_once_and_without_weights() -> None:
    layer, x = nn.Linear(8, 8, bias=False), torch.randn(4, 8)
    assert memory.count_saved(lambda: layer(x), layer, half=False) == 4 * 8 * 4
    assert memory.count_saved(lambda: layer(x) + layer(2 * x) + layer(x), layer, half=False) == 2 * 4 * 8 * 4


def test_every_published_setting_fits_one_card_of_80_gb() -> None:
    """The table of the guide has a row for each kind of configuration, with its chunks; all fit."""
    guide = (ROOT / "docs" / "guides" / "training.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in guide.splitlines() if "| " in line]
    table = {row[0]: row[1:] for row in rows if row[0].endswith(("b32", "b16"))}
    measured = [path for path in (ROOT / "configs").glob("*.yaml") if path.name.startswith(("msrvtt_", "activitynet_"))]
    assert table.keys() == {path.stem for path in measured}
    for path in measured:
        config = yaml.safe_load(path.read_text("utf-8"))
        batch, chunk, precision, *_, total = table[path.stem]
        assert int(batch) == config["data"]["init_args"]["batch_size"]
        assert chunk == str(config["model"]["init_args"].get("chunk_size", "-"))
        assert precision == config["trainer"]["precision"] == "bf16-mixed"
        assert float(total) < 70, "with room for what kernels need"
