"""configs/: settings agree with those of the exported model, and what tools/bench_train.py says of memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch import nn

from tests.made_benchmarks import write_benchmarks
from tests.tool_loading import load_tool
from tests.train.small import CONFIG_TEXT, CONFIG_VISION, shrink_config
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.names import drop_sampling
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
        assert model.get("sampling", "tempme") == data["sampling"]
        if "prompts" in model:
            clip = model["prompts"]["num_frames"]
            assert num_frames % clip == 0, "whole clips"
    else:
        assert model.get("fps", RECIPES[model["recipe"]].get("fps")) == data["fps"]
        assert model.get("num_layers", 4) == data["num_layers"]
        assert model["backbone"] == drop_sampling(data["encoder"])


def test_every_method_has_a_configuration_that_names_its_source() -> None:
    assert len(CONFIGS) > 10
    assert {read(path)[0].get("method", "r2tuning") for path in CONFIGS} == {*list_methods(), "r2tuning"}
    for path in CONFIGS:
        text = path.read_text("utf-8")
        assert "# Source: " in text or "synthetic" in path.stem or "joint" in path.stem or "longclip" in path.stem


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_accepts_the_configuration(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["fit", "--config", str(path), "--print_config"])
    assert not ended.value.code
    assert "seed_everything" in capsys.readouterr().out


def test_derived_configurations_are_those_that_the_tool_makes() -> None:
    tool = load_tool("make_configs")
    derived = {stem: tool.write(stem, header, config) for stem, header, config in tool.list_configs()}
    assert len(derived) > 50
    on_disk = {path.stem: path.read_text("utf-8") for path in CONFIGS}
    assert [stem for stem, text in derived.items() if on_disk.get(stem) != text] == []
    by_hand = {stem for stem, text in on_disk.items() if "Made by tools/make_configs.py" not in text}
    assert on_disk.keys() - by_hand == derived.keys()


QUICK = (  # beside those of tests/evaluate/test_reproduce.py, and msrvtt_clip_b32 below
    "vatex_tempme_full_b32",
    "didemo_tempme_b16",
    "activitynet_glscl_b16",
    "qvhighlights_r2_b32",
    "youtube_r2_b32",
    "tvsum_r2_b32",
)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_benchmarks(tmp_path_factory.mktemp("benchmarks"))
    towers = ClipModel(Card("clip", "tiny", VisionShape(**CONFIG_VISION), TextShape(**CONFIG_TEXT)))
    save_model(towers, folder / "tiny.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in CONFIGS
        if "synthetic" not in path.stem
    ],
)
def test_a_step_is_trained_with_the_configuration(
    path: Path, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # checkpoints
    config = shrink_config(yaml.safe_load(path.read_text("utf-8")), benchmarks, tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(tmp_path / "small.yaml")])
    assert [file.suffix for file in tmp_path.glob("*.safetensors")] == [".safetensors"]


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_holding_out_videos_can_be_switched_off(
    benchmarks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(path for path in CONFIGS if path.stem == "msrvtt_clip_b32")
    config = shrink_config(yaml.safe_load(path.read_text("utf-8")), benchmarks, tmp_path)
    config["data"]["init_args"]["val_share"] = 0.0
    config["trainer"] |= {"fast_dev_run": False, "max_epochs": 1, "logger": True}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(tmp_path / "small.yaml")])
    assert (tmp_path / "model.safetensors").is_file()
    assert "from the last step" in capsys.readouterr().err
    assert not [warning for warning in recwarn if "logging interval" in str(warning.message)]


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
