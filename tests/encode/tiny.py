"""Tiny CLIP towers for tests."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.outputs import Trunk
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape, VisionTower
from vidret.encode.families.registry import load_encoder
from vidret.types import Frames, SegmentEmbedding

VISION = VisionShape(image_size=32, patch=8, width=32, layers=6, heads=2, dim=16)
TEXT = TextShape(context=12, vocabulary=40, width=24, layers=2, heads=2, dim=16)
CARD = Card("clip", "tiny", VISION, replace(TEXT, context=77, vocabulary=49408))  # for CLIP's tokenizer
MERGING = MergeSchedule(layers=(2, 3, 4), factors=(2, 2, 3), r=1)
HARSH = replace(MERGING, r=1000, cross=0.9, intra=0.9)
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "merging": {"merging": MERGING},
    "prompts": {"prompts": PromptShape(2, 4)},
    "merging and prompts": {"merging": MERGING, "prompts": PromptShape(2, 4)},
    "merging in frames": {"merging": MergeSchedule(layers=(), factors=(), r=2)},
    "shift": {"token_shift": True},
}


def stir(module: nn.Module, std: float = 0.1) -> None:
    """Perturb every weight, including those that start at zero."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=std)


def make_images(num: int, seed: int = 0, side: int = 32) -> Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def draw_frames(num: int, seed: int = 0, side: int = 32) -> Frames:
    """Return random frames, two a second, read-only as shared memory provides them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return Frames(pixels, np.arange(num) / 2)


def add_rows_tower(folder: Path) -> str:
    """Make a tower that is no ViT known to open_clip, and return the name of a model of it."""
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (folder / "vidret-rows.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    return "vidret-rows/random"


def save_clip(path: Path, *, std: float = 0.0, **changes: Any) -> Path:
    """Write towers of ``CARD`` with the same random weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClipModel(replace(CARD, **changes))
        stir(model, std)
    save_model(model, path)
    return path


def load_clip(name: str | Path, precision: str = "fp32") -> ClipEncoder:
    """Load a CLIP encoder by its name on the CPU."""
    encoder = load_encoder(str(name), device="cpu", precision=precision)
    assert isinstance(encoder, ClipEncoder)
    return encoder


def assert_same_embeddings(
    ones: Sequence[SegmentEmbedding], others: Sequence[SegmentEmbedding], *, atol: float = 1e-5
) -> None:
    """Compare the vectors of segments, of their frames, and of their tokens, which neither or both have."""
    for one, other in zip(ones, others, strict=True):
        for name in ("video", "frames", "tokens"):
            vectors, expected = getattr(one, name), getattr(other, name)
            assert (vectors is None) == (expected is None)
            if expected is not None:
                np.testing.assert_allclose(vectors, expected, atol=atol)


@contextmanager
def recorded(tower: VisionTower) -> Iterator[list[Trunk]]:
    """Collect the states after each layer of a forward in the block."""
    trunks: list[Trunk] = []
    original = tower._layer

    def layer_and_note(*args: Any, **settings: Any) -> Trunk:
        trunks.append(original(*args, **settings))
        return trunks[-1]

    tower._layer = layer_and_note  # type: ignore[method-assign]
    try:
        yield trunks
    finally:
        del tower._layer
