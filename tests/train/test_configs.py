"""Tests of configs/: model and data settings agree with those of the exported model."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from vidret.data.benchmarks.registry import RECIPES
from vidret.errors import VidretError
from vidret.train.grounding import GroundingModule
from vidret.train.methods import list_methods
from vidret.train.run import run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model settings and the data settings of a configuration."""
    config = yaml.safe_load(path.read_text("utf-8"))
    return config["model"]["init_args"], config["data"]["init_args"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_validation_settings_match_the_exported_model(path: Path) -> None:
    model, data = read(path)
    if "method" in model:
        num_frames = data.get("num_frames", 12)
        assert model.get("num_frames", 12) == (data.get("eval_frames") or num_frames)
        if "prompts" in model:
            clip = model["prompts"]["num_frames"]
            assert num_frames % clip == 0, "whole clips"
    else:
        assert model.get("fps", RECIPES[model["recipe"]].get("fps")) == data["fps"]
        assert model.get("num_layers", 4) == data["num_layers"]
        assert model["backbone"] == data["encoder"]


def test_every_method_has_a_configuration() -> None:
    assert len(CONFIGS) > 10
    methods = {read(path)[0].get("method", "r2tuning") for path in CONFIGS}
    assert methods == {*list_methods(), "r2tuning"}


def test_unknown_recipe_is_rejected() -> None:
    with pytest.raises(VidretError, match=r"recipe must be one of qvhighlights, .*, got dreams"):
        GroundingModule(width=8, text_width=8, dim=8, recipe="dreams")


@pytest.mark.parametrize("settings", [{"similarity_weight": -1.0}, {"similarity_weight": 1.0, "boundaries": False}])
def test_impossible_similarity_weight_is_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(VidretError, match="similarity_weight must be at least 0, and 0 without boundaries, got "):
        GroundingModule(width=8, text_width=8, dim=8, **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_accepts_the_configuration(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["fit", "--config", str(path), "--print_config"])
    assert not ended.value.code
    assert "seed_everything" in capsys.readouterr().out
