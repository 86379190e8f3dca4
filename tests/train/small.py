"""Small modules, data and trainers for tests."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor

from tests.tool_loading import load_tool
from vidret.data.dataset import RetrievalBatch
from vidret.data.grounding import GroundingBatch
from vidret.data.module import RetrievalData
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.names import drop_sampling
from vidret.train.grounding import GroundingModule
from vidret.train.methods import list_methods
from vidret.train.retrieval import RetrievalModule

# Lightning warns of its own use of torch, and of what it would do on a larger machine.
ignores_lightning = pytest.mark.filterwarnings(
    *(f"ignore::{kind}Warning" for kind in ("User", "Future", "Deprecation"))
)
VISION = VisionShape(image_size=32, patch=8, width=32, layers=2, heads=2, dim=32)
TEXT = TextShape(context=32, vocabulary=49408, width=32, layers=1, heads=2, dim=32)
MERGING = {"merging": MergeSchedule(layers=(0, 1), factors=(2, 3), r=1)}
PROMPTS = {"prompts": PromptShape(num_prompts=6, num_frames=6)}
METHODS: dict[str, dict[str, Any]] = {
    **{name: {} for name in list_methods()},  # a new method is tested like all others
    "tempme": MERGING,
    "promptswitch": PROMPTS,
    "top frames": {"method": "xpool", "options": {"top": 3}},
    "all": {"method": "ucofia", **MERGING, **PROMPTS},
    "joint": {**MERGING, **PROMPTS},
}


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def write_world(folder: Path) -> None:
    load_tool("make_synthetic").write_retrieval_world(
        folder, num_train=40, num_val=10, num_test=20, num_captions=2, size=32
    )


def open_data(world: Path, **settings: Any) -> RetrievalData:
    chosen: dict[str, Any] = {"batch_size": 8, "eval_batch_size": 8, "num_workers": 0, "cache": str(world / "cache")}
    chosen |= {"sampling": "tempme", "image_size": 32, "val_share": 0.2, "train_split": "train-9k"}
    chosen |= {"first_sentences": True, "num_words": 20}  # no caption is longer
    return RetrievalData("msrvtt-1k-a", str(world), str(world), **(chosen | settings))


def make_module(method: str, **settings: Any) -> RetrievalModule:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "method": method,
        "vision": VISION,
        "text": TEXT,
        "fps": 3.0,
        "train_all": True,
        "lr": 2e-3,
    }
    return RetrievalModule(**(chosen | METHODS.get(method, {}) | settings))


def draw_captioned(num_pairs: int, num_words: int = 6) -> RetrievalBatch:
    """Return a random batch of videos of 12 frames with one caption each; the second caption is short."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num_pairs, 12, 32, 32, 3), generator=generator, dtype=torch.uint8)
    ids = torch.randint(1, 400, (num_pairs, num_words), generator=generator)
    ids[:, 0], ids[:, -1] = 49406, 49407
    ids[1, -3], ids[1, -2:] = 49407, 0
    indices = torch.arange(num_pairs)
    mask, firsts = torch.ones(num_pairs, 12, dtype=torch.bool), ids[:, [0, 1, 2, -1]]
    firsts[:, -1] = 49407
    return RetrievalBatch(pixels, mask, ids, indices, indices, indices, firsts)


def draw_moments(seed: int = 0) -> GroundingBatch:
    """Return a random batch of two queries in videos of 9 and 7 frames, for a head of ``make_head_module``."""
    generator = torch.Generator().manual_seed(seed)
    layers = tuple(torch.randn(2, 9, 5, 16, generator=generator).half() for _ in range(2))
    return GroundingBatch(
        layers=layers,
        frame_mask=torch.arange(9) < torch.tensor([[9], [7]]),
        token_masks=None,
        sizes=None,
        words=torch.randn(2, 2, 4, 10, generator=generator).half(),
        word_mask=torch.arange(4) < torch.tensor([[4], [3]]),
        spans=torch.tensor([[[2.0, 8.0]], [[0.0, 4.0]]]),
        span_mask=torch.ones(2, 1, dtype=torch.bool),
        saliency=(torch.arange(9) < 3).float().expand(2, 9).contiguous(),
        durations=torch.tensor([18.0, 14.0]),
        queries=torch.arange(2),
    )


def make_head_module(**settings: Any) -> GroundingModule:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 16, "text_width": 10, "dim": 16, "num_layers": 2, "heads": 2}
    return GroundingModule(**(sizes | {"warm_up": 0} | settings))


def make_trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    chosen: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    chosen |= {"enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0, "gradient_clip_val": 1.0}
    return lightning.Trainer(default_root_dir=folder, **(chosen | settings))


# Twelve layers, as the schedules of merging are for; all else is small.
CONFIG_VISION: dict[str, Any] = {"image_size": 32, "patch": 8, "width": 32, "layers": 12, "heads": 2, "dim": 32}
CONFIG_TEXT: dict[str, Any] = {"context": 77, "vocabulary": 49408, "width": 32, "layers": 4, "heads": 2, "dim": 32}


def shrink_config(config: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """Return a configuration with small towers, batches and images, and the paths of made data."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    data |= {"annotations": str(folder), "videos": str(folder / "videos"), "cache": str(folder / "cache")}
    data |= {"batch_size": 4, "num_workers": 0}
    if "method" in model:
        model |= {"weights": None, "vision": CONFIG_VISION, "text": CONFIG_TEXT, "out": str(out / "model.safetensors")}
        data |= {"image_size": 32, "eval_batch_size": 2}
    else:
        tiny = str(folder / "tiny.safetensors")
        model |= {"backbone": tiny, "width": 32, "text_width": 32, "dim": 16, "out": str(out / "head.safetensors")}
        data["encoder"] = tiny + data["encoder"].removeprefix(drop_sampling(data["encoder"]))
    config["trainer"] |= {"fast_dev_run": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    return config
