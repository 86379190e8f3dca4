"""Numbers that the published code produced: every case folder here, and under ``VIDRET_GOLDENS`` when that is set."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent / "goldens"


@dataclass(frozen=True)
class Case:
    """One case: its settings, what went in, the weights, and what came out."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text("utf-8"))
        return config

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "outputs.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Give the state dict as it was computed with: float32, integers as they are."""
        state = load_file(self.folder / "state_dict.safetensors")
        return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}

    @cached_property
    def pictures(self) -> Tensor:
        """Give the standardised pixels: every stored pixel is a square of 8x8."""
        small = self.inputs["video_small"].float().flatten(0, 1)
        return small.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def find_cases(method: str) -> list[Case]:
    """Find all cases of a method; those that come with the tests must be there."""
    folders = sorted((HERE / method).glob("*/config.json"))
    assert folders, f"goldens are missing: {HERE / method}"
    if elsewhere := os.environ.get("VIDRET_GOLDENS"):
        folders += sorted((Path(elsewhere) / method).glob("*/config.json"))
    return [Case(path.parent) for path in folders]


def check_close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """Hold a result against a golden, absolutely."""
    torch.testing.assert_close(found.float(), expected.float(), atol=atol, rtol=0)
