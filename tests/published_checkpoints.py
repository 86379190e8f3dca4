"""Checkpoints with the names of the methods' own code, and random weights of any shape."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vidret.align.attending import SoftmaxAttention
from vidret.align.files import UCOFIA as UCOFIA_ALIGNER
from vidret.align.files import map_prefixes
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.clip.weights import OPEN_CLIP, PROMPT_SWITCH, TEMPME, UCOFIA
from vidret.ground.checkpoint import to_published
from vidret.ground.head import GroundingHead
from vidret.model_files import translate
from vidret.train.methods.ucofia import start_aligner
from vidret.train.model import start_temporal

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """The shapes of towers and of a head."""

    vision: VisionShape
    text: TextShape
    head: int

    @property
    def card(self) -> Card:
        return Card("clip", "ViT-B-32", self.vision, self.text)


SMALL = Size(
    VisionShape(image_size=32, patch=8, width=128, layers=12, heads=2, dim=64, quick_gelu=True),
    TextShape(context=77, vocabulary=49408, width=64, layers=4, heads=1, dim=64, quick_gelu=True),
    head=32,
)
FULL = Size(
    VisionShape(image_size=224, patch=32, width=768, layers=12, heads=12, dim=512, quick_gelu=True),
    TextShape(context=77, vocabulary=49408, width=512, layers=12, heads=8, dim=512, quick_gelu=True),
    head=256,
)


def rename_back(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Weights:
    """Return weights under the published names of their own ones; * is the index of a layer."""
    back = {ours: published for published, ours in reversed(list(names.items()))}  # of two published names, the first
    return {translate(name, back) or name: weight.clone() for name, weight in weights.items()}


def make_checkpoint(method: str, size: Size) -> Weights:
    """Return the state dict of a method with random weights."""
    torch.manual_seed(0)
    return {
        "tempme": make_tempme,
        "promptswitch": make_promptswitch,
        "ucofia": make_ucofia,
        "glscl": make_glscl,
        "longclip": make_longclip,
        "r2tuning": make_head,
    }[method](size)


def make_tempme(size: Size) -> Weights:
    model = ClipModel(replace(size.card, merging=MergeSchedule(), lora_rank=8))
    state = rename_back(model.state_dict(), TEMPME)
    return {name: weight[None, :, None] if "Video_Positional" in name else weight for name, weight in state.items()}


def make_promptswitch(size: Size) -> Weights:
    weights = ClipModel(replace(size.card, prompts=PromptShape(6, 6))).state_dict()
    weights |= {name: weights[name].T for name in ("vision.proj", "text.proj")}
    state: Weights = {}
    for name, weight in rename_back(weights, PROMPT_SWITCH).items():
        if ".self_attn.qkv." in name:
            parts = zip("qkv", weight.chunk(3), strict=True)
            state |= {name.replace("qkv", f"{part}_proj"): chunk.clone() for part, chunk in parts}
        else:
            state[name] = weight.contiguous()
    return state


def make_ucofia(size: Size) -> Weights:
    model = ClipModel(replace(size.card, token_shift=True))
    aligner = start_aligner(model, 32)
    return rename_back(model.state_dict(), UCOFIA) | rename_back(aligner.state_dict(), UCOFIA_ALIGNER)


def make_glscl(size: Size) -> Weights:
    model = ClipModel(size.card)
    dim = size.vision.dim
    finder = ConceptFinder(dim, heads=8, hidden=4 * dim)
    aligner = ConceptAligner(temporal=start_temporal(model), finder=finder, attention=SoftmaxAttention(3.0))
    prefixes = map_prefixes(True, True)
    state = {}
    for name, weight in aligner.state_dict().items():
        prefix, published = next((ours, key) for ours, key in prefixes.items() if name.startswith(ours))
        state[published + name.removeprefix(prefix)] = weight
    return rename_back(model.state_dict(), UCOFIA) | state


def make_longclip(size: Size) -> Weights:
    model = ClipModel(replace(size.card, text=replace(size.text, context=248)))
    state = rename_back(model.state_dict(), OPEN_CLIP)
    return state | {"positional_embedding_res": state["positional_embedding"].clone()}


def make_head(size: Size) -> Weights:
    head = GroundingHead(size.vision.width, size.text.width, size.head)
    return {to_published(name): weight.clone() for name, weight in head.state_dict().items()}


def save_checkpoint(method: str, size: Size, path: Path) -> None:
    """Write a checkpoint as its authors' code does."""
    torch.save(make_checkpoint(method, size), path)
